# ruff: noqa: SLF001  # torch's walk over load hooks has no public form; this module is the one place that repeats it
"""How a model's own load hooks see the keys of a file.

Modules may rename, convert or add entries of a state dict while they load it (old weight norm names, BatchNorm's
versions, lazy parameters). This module rehearses those changes, so that the plan includes them.

Guarantees: a rehearsal leaves the model untouched; it runs the hooks on placeholders: modules with attributes,
containers and tensors of their own, and tensors without data. Objects that a hook reaches in other ways (a closure
over its module, an object deeper inside an attribute) are the model's own.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from ..errors import FitError
from ..formats.tensor import dtype_name
from ..formats.tree import TensorEntry
from ..keys.plan import Hooked, Offered, Taken
from ..text.wording import phrases, safe_text
from .slots import is_own_key, own_slots, own_values, refuse_other_shapes, slots

State = dict[str, Any]
"""State dict key → tensor, or extra state."""
Metadata = Mapping[str, Mapping[str, object]]
"""Module prefix → its version, as torch's ``_metadata``."""
_SIZE_MISMATCH = "size mismatch for "


def customizes_loading(module: nn.Module) -> bool:
    """Whether a module does more on loading than take the entries with its keys."""
    base = nn.Module._load_from_state_dict
    own = type(module)._load_from_state_dict is not base or "_load_from_state_dict" in vars(module)
    return own or bool(module._load_state_dict_pre_hooks)


def rehearse(
    model: nn.Module,
    offered: Mapping[str, Offered],
    metadata: Metadata,
    read: Callable[[str], object] | None = None,
) -> Hooked:
    """Finds the entry that each model key takes after the model's load hooks have seen the offered keys.

    Args:
        model: The model to load.
        offered: The files' entries by full model key.
        metadata: Versions by module prefix.
        read: Reads the value of an offered key, for hooks that need it; None if no value may be read.

    Raises:
        FitError: A hook fails on these keys.
    """
    if not any(customizes_loading(module) for module in model.modules()):
        return _namesakes(model, offered)
    places = slots(model)
    extra = {key for key, slot in places.items() if slot.kind == "extra"}
    state: State = {key: _stand_in(offer) for key, offer in offered.items() if _may_be_taken(offer, key in extra)}
    keys = {id(value): key for key, value in state.items()}
    values: dict[str, object] = {}
    taken: dict[str, Taken] = {}
    left: list[str] = [key for key in offered if key not in state]

    def record(module: nn.Module, prefix: str, present: State, rest: list[str]) -> None:
        for name, _ in own_slots(module):
            value = present.get(prefix + name)
            if value is not None:
                taken[prefix + name] = _taken(keys.get(id(value), ""), value)
        left.extend(key for key in rest if key in offered)

    def real(value: object) -> object:
        key = keys.get(id(value))
        if read is None or key is None or value is values.get(key):
            return value
        if key not in values:
            values[key] = read(key)
            keys[id(values[key])] = key
        return values[key]

    run_hooks(_double(model), state, metadata, record, assign=True, real=real if read is not None else None)
    remaining = set(left)
    for key, slot in places.items():
        if is_own_key(slot) and key in state and key not in remaining:
            taken[key] = Taken(key, (), "")
    own = {key: slot for key, slot in places.items() if key in taken and is_own_key(slot)}
    mine = {key: own_values(slot.module).get(slot.name) for key, slot in own.items()}
    refuse_other_shapes(mine, {key: values.get(key, offered[key].entry) for key in own})
    return Hooked(taken, tuple(key for key in offered if key in remaining))


def run_hooks(
    model: nn.Module,
    state: State,
    metadata: Metadata,
    visit: Callable[[nn.Module, str, State, list[str]], None],
    *,
    assign: bool,
    real: Callable[[object], object] | None = None,
) -> None:
    """Walks a model as `load_state_dict` does and lets modules with hooks of their own load themselves.

    torch's walk filters the whole dict once per module, which is quadratic in wide models; this one splits it by the
    next segment.

    Args:
        model: The model to walk.
        state: Full keys → values; not changed.
        metadata: Versions by module prefix.
        visit: Called for every module with its prefix, the entries it sees, and the keys that neither it nor a child
            of it takes; a module without hooks has loaded nothing yet.
        assign: Whether modules with hooks take over the tensors, or copy them into their own.
        real: Returns the value of an entry of the state, for hooks that fail without it; None if the state
            holds the values.

    Raises:
        FitError: A hook fails or reports a problem.
    """
    errors: list[str] = []

    def walk(module: nn.Module, prefix: str, present: State) -> None:
        if customizes_loading(module):
            known = {**metadata.get(prefix[:-1], {}), "assign_to_params_buffers": assign}
            _call(module, prefix, present, known, errors, real)
        own = {name for name, _ in own_slots(module)}
        children = {name: child for name, child in module._modules.items() if child is not None}
        below: dict[str, State] = {name: {} for name in children}
        rest: list[str] = []
        for key, value in present.items():
            name, dot, _ = key[len(prefix) :].partition(".")
            if dot and name in below and key.startswith(prefix):
                below[name][key] = value
            elif dot or name not in own:
                rest.append(key)
        visit(module, prefix, present, rest)
        for name, child in children.items():
            walk(child, f"{prefix}{name}.", below[name])

    walk(model, "", dict(state))
    if errors:
        raise FitError(f"the model's own load hooks refuse the file: {phrases(errors)}")


def _call(
    module: nn.Module,
    prefix: str,
    present: State,
    metadata: dict[str, object],
    errors: list[str],
    real: Callable[[object], object] | None,
) -> None:
    try:
        seen, reported = _loaded_itself(module, prefix, present, metadata)
    except (Exception, SystemExit, GeneratorExit) as error:
        if real is None:
            raise _failed(module, prefix, error) from error
        # The hook needs values: a quantized module packs them.
        values = {key: real(value) for key, value in present.items()}
        try:
            seen, reported = _loaded_itself(module, prefix, values, metadata)
        except (Exception, SystemExit, GeneratorExit) as second:
            raise _failed(module, prefix, second) from second
    present.clear()
    present.update(seen)
    # The plan judges shapes, since it knows the allowances.
    errors.extend(line for line in reported if not line.startswith(_SIZE_MISMATCH))


def _loaded_itself(
    module: nn.Module, prefix: str, present: State, metadata: dict[str, object]
) -> tuple[State, list[str]]:
    """Returns the entries that a module left over, and the problems that it reports."""
    seen, reported = dict(present), list[str]()
    module._load_from_state_dict(seen, prefix, metadata, True, [], [], reported)
    return seen, reported


def _failed(module: nn.Module, prefix: str, error: BaseException) -> FitError:
    kind, place = type(module).__name__, safe_text(prefix[:-1])
    if isinstance(error, KeyError) and str(error.args[0]).startswith(prefix):
        return FitError(f"the load hook of {kind} at '{place}' needs {safe_text(error.args[0])}, and no file has it")
    return FitError(f"the load hook of {kind} at '{place}' raised {type(error).__name__}: {safe_text(error, 200)}")


def _namesakes(model: nn.Module, offered: Mapping[str, Offered]) -> Hooked:
    taken: dict[str, Taken] = {}
    for key, slot in slots(model).items():
        offer = offered.get(key)
        if offer is not None and _may_be_taken(offer, slot.kind == "extra"):
            taken[key] = Taken(key, *_outline(offer))
    return Hooked(taken, tuple(key for key in offered if key not in taken))


def _may_be_taken(offer: Offered, extra: bool) -> bool:
    """Whether a key can take an entry: one that is not a tensor can only be extra state."""
    return extra or isinstance(offer.entry, TensorEntry)


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


class _Doubles:
    """Stand-ins for the modules of a model and their contents."""

    def __init__(self, model: nn.Module) -> None:
        self.modules: dict[int, nn.Module] = {id(module): object.__new__(type(module)) for module in model.modules()}
        self._tensors: dict[int, torch.Tensor] = {}

    def of(self, value: Any, depth: int = 2) -> Any:
        """Returns the placeholder for a value; containers are followed to some depth, since hooks write into them."""
        if isinstance(value, torch.Tensor):
            if id(value) not in self._tensors:
                self._tensors[id(value)] = _without_data(value)
            return self._tensors[id(value)]
        if isinstance(value, nn.Module):
            return self.modules.get(id(value), value)
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.of(value.__self__, 0))
        if depth and type(value) in (list, tuple, set):
            return type(value)(self.of(item, depth - 1) for item in value)
        if depth and type(value) in (dict, OrderedDict):
            return type(value)((key, self.of(item, depth - 1)) for key, item in value.items())
        return value

    def hook(self, hook: Any) -> Any:
        """Returns a load hook on the placeholders; torch keeps hooks bare, or wrapped with a weak reference."""
        if isinstance(hook, functools.partial):
            arguments = (self.of(argument) for argument in hook.args)
            return functools.partial(self.hook(hook.func), *arguments, **self.of(hook.keywords))
        if hasattr(hook, "with_module") and hasattr(hook, "hook"):
            rewrapped = object.__new__(type(hook))
            rewrapped.__dict__.update(hook.__dict__)
            rewrapped.hook = self.hook(hook.hook)
            if hook.with_module:
                rewrapped.module = weakref.ref(self.of(hook.module()))
            return rewrapped
        return self.of(hook)


def _double(model: nn.Module) -> nn.Module:
    """Returns a placeholder for a model: same classes, attributes and hooks, with its own tensors without data."""
    doubles = _Doubles(model)
    for module in model.modules():
        own = doubles.modules[id(module)].__dict__
        own.update({name: doubles.of(value) for name, value in vars(module).items()})
        hooks = type(module._load_state_dict_pre_hooks)()
        for key, hook in module._load_state_dict_pre_hooks.items():
            hooks[key] = doubles.hook(hook)
        own["_load_state_dict_pre_hooks"] = hooks
        if type(module).set_extra_state is not nn.Module.set_extra_state:
            own["set_extra_state"] = _ignore
    return doubles.modules[id(model)]


def _ignore(_state: object) -> None:
    """Replaces `set_extra_state`, since there is no state yet."""


def _without_data(tensor: torch.Tensor) -> torch.Tensor:
    if is_lazy(tensor):
        lazy = UninitializedParameter if isinstance(tensor, nn.Parameter) else UninitializedBuffer
        return lazy(device="meta", dtype=tensor.dtype)  # type: ignore[call-arg]  # torch annotates neither
    # Not `empty_like`: for a tensor on meta it imports torch's symbolic shapes, which takes a second.
    empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    # Without gradients: torch copies the old tensor's flag to an assigned one, and integers cannot have it.
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
