"""How a model's own load hooks see the keys of a file.

Modules may rename, convert or add entries of a state dict while they load it (old weight norm names, BatchNorm's
versions, lazy parameters). This module rehearses that, so that the plan knows it beforehand.

Guarantees: a rehearsal leaves the model untouched; it runs the hooks on stand-ins: modules that share everything but
their parameters and buffers with the model's own, and tensors without data.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from loader.errors import FitError
from loader.formats.base import TensorEntry
from loader.plan import Hooked, Offered, Taken
from loader.wants import dtype_name, own_slots
from loader.wording import listing, safe_text

State = dict[str, Any]
"""State dict key → tensor, or extra state."""
Metadata = Mapping[str, Mapping[str, object]]
"""Module prefix → what its version says, as torch's ``_metadata``."""
_SIZE_MISMATCH = "size mismatch for "


def customises_loading(module: nn.Module) -> bool:
    """Whether a module does more on loading than to take its namesakes."""
    base = nn.Module._load_from_state_dict
    return bool(module._load_state_dict_pre_hooks) or type(module)._load_from_state_dict is not base


def rehearse(model: nn.Module, offered: Mapping[str, Offered], metadata: Metadata) -> Hooked:
    """Finds what each model key takes once the model's load hooks have seen the offered keys.

    Raises:
        FitError: A hook fails on these keys.
    """
    if not any(customises_loading(module) for module in model.modules()):
        return _namesakes(model, offered)
    state: State = {key: _stand_in(offer) for key, offer in offered.items()}
    keys = {id(value): key for key, value in state.items()}
    taken: dict[str, Taken] = {}
    left: list[str] = []

    def record(module: nn.Module, prefix: str, present: State, rest: list[str]) -> None:
        for name, _ in own_slots(module):
            value = present.get(prefix + name)
            if value is not None:
                taken[prefix + name] = _taken(keys.get(id(value), ""), value)
        left.extend(key for key in rest if key in offered)

    run_hooks(_double(model), state, metadata, record, assign=True)
    return Hooked(taken, tuple(left))


def run_hooks(
    model: nn.Module,
    state: State,
    metadata: Metadata,
    visit: Callable[[nn.Module, str, State, list[str]], None],
    *,
    assign: bool,
) -> None:
    """Walks a model as `load_state_dict` does and lets modules with hooks of their own load themselves.

    torch's walk filters the whole dict once per module, which is quadratic in wide models; this one splits it by the
    next segment.

    Args:
        model: What is walked.
        state: Full keys → values; not changed.
        metadata: Versions by module prefix.
        visit: Called for every module with its prefix, the entries it sees, and the keys that neither it nor a child
            of it takes; a module without hooks has loaded nothing yet.
        assign: Whether modules with hooks take over the tensors, or copy them into their own.

    Raises:
        FitError: A hook fails or reports a problem.
    """
    errors: list[str] = []

    def walk(module: nn.Module, prefix: str, present: State) -> None:
        if customises_loading(module):
            known = {**metadata.get(prefix[:-1], {}), "assign_to_params_buffers": assign}
            _call(module, prefix, present, known, errors)
        below: dict[str, State] = {}
        for key, value in present.items():
            below.setdefault(key[len(prefix) :].partition(".")[0], {})[key] = value
        own = {name for name, _ in own_slots(module)}
        children = {name: child for name, child in module._modules.items() if child is not None}
        rest = [
            key
            for segment, group in below.items()
            if segment not in children
            for key in group
            if key[len(prefix) :] not in own
        ]
        visit(module, prefix, present, rest)
        for name, child in children.items():
            walk(child, f"{prefix}{name}.", below.get(name, {}))

    walk(model, "", dict(state))
    if errors:
        raise FitError(f"the model's own load hooks refuse the file: {listing(errors)}", "")


def _call(module: nn.Module, prefix: str, present: State, metadata: dict[str, object], errors: list[str]) -> None:
    told: list[str] = []
    try:
        module._load_from_state_dict(present, prefix, metadata, True, [], [], told)
    except Exception as error:
        raise FitError(
            f"the load hook of {type(module).__name__} at '{prefix[:-1]}' raised {type(error).__name__}: "
            f"{safe_text(error, 200)}",
            "",
        ) from error
    # Shapes are the plan's to judge: it knows the allowances.
    errors.extend(line for line in told if not line.startswith(_SIZE_MISMATCH))


def _namesakes(model: nn.Module, offered: Mapping[str, Offered]) -> Hooked:
    taken: dict[str, Taken] = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, slot in own_slots(module):
            key = f"{prefix}.{name}" if prefix else name
            offer = offered.get(key)
            if offer is not None and (isinstance(offer.entry, TensorEntry) or slot.kind == "extra"):
                shape, dtype = _outline(offer)
                taken[key] = Taken(key, shape, dtype)
    return Hooked(taken, tuple(key for key in offered if key not in taken))


def _outline(offer: Offered) -> tuple[tuple[int, ...], str]:
    return (offer.entry.shape, offer.entry.dtype) if isinstance(offer.entry, TensorEntry) else ((), "")


def _stand_in(offer: Offered) -> object:
    if isinstance(offer.entry, TensorEntry):
        return torch.empty(offer.entry.shape, dtype=getattr(torch, offer.entry.dtype), device="meta")
    return offer.entry


def _taken(key: str, value: object) -> Taken:
    if isinstance(value, torch.Tensor):
        return Taken(key, tuple(value.shape), dtype_name(value.dtype))
    return Taken(key, (), "")


def _double(model: nn.Module) -> nn.Module:
    """A stand-in for a model: same classes, attributes and hooks, parameters and buffers of its own without data."""
    doubles: dict[int, nn.Module] = {}
    tensors: dict[int, torch.Tensor] = {}
    modules = list(model.modules())
    for module in modules:
        double = doubles[id(module)] = object.__new__(type(module))
        double.__dict__.update({name: _own_container(value) for name, value in module.__dict__.items()})
    for module in modules:
        own = doubles[id(module)].__dict__
        own["_parameters"] = {name: _hollow(value, tensors) for name, value in module._parameters.items()}
        own["_buffers"] = {name: _hollow(value, tensors) for name, value in module._buffers.items()}
        own["_modules"] = {
            name: child if child is None else doubles[id(child)] for name, child in module._modules.items()
        }
        hooks = type(module._load_state_dict_pre_hooks)()
        for key, hook in module._load_state_dict_pre_hooks.items():
            hooks[key] = _rebound(hook, doubles)
        own["_load_state_dict_pre_hooks"] = hooks
        if type(module).set_extra_state is not nn.Module.set_extra_state:
            own["set_extra_state"] = lambda state: None
    return doubles[id(model)]


def _own_container(value: Any) -> Any:
    """Copies plain containers one level deep: hooks and `__setattr__` write into such lists (LSTM's flat weights)."""
    return type(value)(value) if type(value) in (list, dict, set) else value


def _hollow(tensor: torch.Tensor | None, tensors: dict[int, torch.Tensor]) -> torch.Tensor | None:
    if tensor is None:
        return None
    if id(tensor) not in tensors:
        tensors[id(tensor)] = _without_data(tensor)
    return tensors[id(tensor)]


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    if is_lazy(tensor):
        lazy = UninitializedParameter if isinstance(tensor, nn.Parameter) else UninitializedBuffer
        return lazy(device="meta", dtype=tensor.dtype)
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _rebound(hook: Any, doubles: Mapping[int, nn.Module]) -> Any:
    """Points a hook at the stand-ins: torch keeps hooks as bound methods, or wrapped with a weak reference."""
    if isinstance(hook, types.MethodType):
        owner = doubles.get(id(hook.__self__), hook.__self__)
        return types.MethodType(hook.__func__, owner)
    if hasattr(hook, "with_module") and hasattr(hook, "hook"):
        rewrapped = object.__new__(type(hook))
        rewrapped.__dict__.update(hook.__dict__)
        rewrapped.hook = _rebound(hook.hook, doubles)
        if hook.with_module:
            rewrapped.module = weakref.ref(doubles.get(id(hook.module()), hook.module()))
        return rewrapped
    return hook
