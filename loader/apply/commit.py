# ruff: noqa: SLF001  # torch's load hooks have no public form
"""Puts values into a model; the only place that changes one.

Guarantees: every tensor is read, cast and checked, and every tensor of a live model found writable, before the first
write; the caller's transaction keeps the previous values of a live model. Parameters keep their identity, so ties,
lists and optimizers that hold them stay valid. A file with different values for keys that share memory is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys
from torch.nn.parameter import is_lazy
from torch.utils import swap_tensors

from ..errors import FitError
from ..keys.plan import Plan
from ..module.hooks import State, customizes_loading, run_hooks
from ..module.slots import Slot, own_slots, storage_id
from ..runtime import collector_paused
from ..text.wording import safe_text
from .live import conflict, holds, is_folded, overlapping, refuse_unwritable, unwritable
from .prepare import Prepared
from .stage import Staged
from .transaction import Transaction

Visit = Callable[[nn.Module, str, State, list[str]], None]
"""Called for each module of a walk, as in `hooks.run_hooks`."""


def commit(prepared: Prepared, staged: Staged, transaction: Transaction | None = None) -> None:
    """Puts staged values in place.

    Args:
        prepared: The model and what goes where.
        staged: The values; each is removed once it is put in place.
        transaction: For a live model: keeps the values that are overwritten. New ones are copied into the model's own
            memory (device and dtype stay). None: the model takes over the staged tensors without a copy.

    Raises:
        FitError: A key cannot be written to, or the model's own code refuses its value.
    """
    model = prepared.model
    with collector_paused(), torch.no_grad():
        if transaction is not None:
            refuse_unwritable(prepared.places, prepared.plan, staged.values)
            _keep_modules(model, transaction)
        install = _Installer(prepared.places, prepared.plan, transaction)
        if any(map(customizes_loading, model.modules())):
            visit = _visitor(prepared, install)
            run_hooks(model, staged.values, prepared.offers.metadata, visit, assign=transaction is None)
        else:
            _install_all(prepared, staged, install)
        install.refuse_conflicts()
        _run_post_hooks(model, prepared.plan)


def _install_all(prepared: Prepared, staged: Staged, install: _Installer) -> None:
    for match in prepared.plan.matches:
        # Each value leaves memory as the transaction takes up the old one.
        install(match.key, staged.values.pop(match.taken.key))
        if install.transaction is not None and (entry := prepared.tensor(match.taken.key)) is not None:
            prepared.part_of(match.taken.key).checkpoint.release(entry)


def _keep_modules(model: nn.Module, transaction: Transaction) -> None:
    """Keeps everything that the model's own load hooks may change."""
    for module in model.modules():
        if type(module).set_extra_state is not nn.Module.set_extra_state:
            transaction.keep_extra_state(module)
    acting = {id(module): module for module in model.modules() if any(True for _ in _load_code(module))}
    if any(not _is_torchs(code) for module in acting.values() for code in _load_code(module)):
        # Such code may reach any module: its children, and through a closure the root.
        transaction.keep_modules(model, list(model.modules()))
    elif acting:
        transaction.keep_modules(model, list(acting.values()))


def _load_code(module: nn.Module) -> Iterator[Callable[..., object]]:
    """Yields the code that runs while a module is loaded, in addition to torch's plain loading."""
    base = nn.Module._load_from_state_dict
    own = vars(module).get("_load_from_state_dict", type(module)._load_from_state_dict)
    if own is not base:
        yield own
    if type(module).set_extra_state is not nn.Module.set_extra_state:
        yield type(module).set_extra_state
    yield from module._load_state_dict_pre_hooks.values()
    yield from module._load_state_dict_post_hooks.values()


def _is_torchs(code: Any) -> bool:
    """Whether load code comes with torch: such code changes only its own module."""
    code = getattr(code, "hook", code)  # torch wraps some
    code = code.func if isinstance(code, functools.partial) else code
    home = getattr(code, "__module__", None) or type(code).__module__
    return str(home).partition(".")[0] == "torch"


def _visitor(prepared: Prepared, install: _Installer) -> Visit:
    """Installs the values of each module of a model whose load hooks run."""
    places, fit = prepared.places, prepared.fit
    sources = {match.key for match in prepared.plan.matches}
    loaded = set(prepared.plan.loaded)
    before = {key: slot.tensor for key, slot in places.items() if slot.kind != "extra"}

    def visit(module: nn.Module, prefix: str, present: State, _rest: list[str]) -> None:
        loads_itself = customizes_loading(module)
        for name, slot in own_slots(module):
            key = prefix + name
            value = None if slot.kind == "extra" else slot.tensor.detach()
            replaced = slot.kind != "extra" and slot.tensor is not before.get(key, slot.tensor)
            if replaced:
                # The module, or one above it, replaced the tensor; the original must stay.
                _registry(slot)[name] = before[key]
            if not loads_itself and key in sources:
                install(key, present[key] if slot.kind == "extra" else fit(key, present[key]))
            elif replaced and value is not None and key in loaded:
                install(key, fit(key, value))

    return visit


class _Installer:
    """Puts one value into one slot, and into the slots that are tied to it."""

    def __init__(self, places: Mapping[str, Slot], plan: Plan, transaction: Transaction | None) -> None:
        self.places = places
        self.transaction = transaction
        self.ties = {group[0]: group[1:] for group in plan.tied}
        self.shared = set() if transaction is not None else _shared_storages(places)
        self._overlapping = overlapping(places, (match.key for match in plan.matches))
        self._laid: dict[str, torch.Tensor] = {}

    def __call__(self, key: str, value: Any) -> None:
        slot = self.places[key]
        if slot.kind == "extra":
            _call(slot.module, "set_extra_state", slot.module.set_extra_state, value)
            return
        try:
            self._put(key, slot.tensor, value)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise unwritable({key: f"{type(error).__name__}: {error}"}) from error

    def refuse_conflicts(self) -> None:
        """Raises FitError if two keys share memory and have different values there."""
        differing = [key for key, value in self._laid.items() if not holds(self.places[key].tensor, value)]
        if differing:
            raise conflict(differing, self._overlapping)

    def _put(self, key: str, old: torch.Tensor, value: torch.Tensor) -> None:
        if is_lazy(old):
            if self.transaction is not None:
                self.transaction.keep_lazy(old)
            old.materialize(tuple(value.shape), device=value.device, dtype=value.dtype)
        if value.shape != old.shape:
            value = value.reshape(old.shape)
        if key in self._overlapping:
            self._laid[key] = value
        if self.transaction is not None:
            self.transaction.keep(old)
            old.copy_(value)
        elif _has_storage(old) and storage_id(old) in self.shared and not is_folded(old):
            old.copy_(value)
        else:
            holders: dict[int, list[Slot]] = {}
            for name in (key, *self.ties.get(key, ())):
                holders.setdefault(id(self.places[name].tensor), []).append(self.places[name])
            for group in holders.values():
                _take_over(group, value)


def _take_over(holders: list[Slot], value: torch.Tensor) -> None:
    """Swaps the contents of the tensor object in these slots, so that other holders of the object see them too."""
    old = holders[0].tensor
    new: torch.Tensor = value.detach()
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)
    try:
        swap_tensors(old, new)  # type: ignore[no-untyped-call]
    except RuntimeError:
        # torch refuses, before any change, to swap a tensor that has weak references or that the constructor computed
        # something from (the old weight_norm and spectral_norm do); the slots then get a new object.
        for slot in holders:
            setattr(slot.module, slot.name, new)


def _shared_storages(places: Mapping[str, Slot]) -> set[int]:
    """Storages that several tensors of the model view: these must be written in place."""
    users: dict[int, set[int]] = {}
    modules = {id(slot.module): slot.module for slot in places.values()}
    for module in modules.values():
        for tensor in (*module._parameters.values(), *module._buffers.values(), *module.__dict__.values()):
            if isinstance(tensor, torch.Tensor) and _has_storage(tensor):
                users.setdefault(storage_id(tensor), set()).add(id(tensor))
    return {storage for storage, tensors in users.items() if len(tensors) > 1}


def _has_storage(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta and tensor.layout == torch.strided


def _registry(slot: Slot) -> dict[str, Any]:
    return slot.module._parameters if slot.kind == "parameter" else slot.module._buffers


def _run_post_hooks(model: nn.Module, plan: Plan) -> None:
    incompatible = _IncompatibleKeys(list(plan.missing), list(plan.unexpected))
    for module in model.modules():
        for hook in module._load_state_dict_post_hooks.values():
            _call(module, "a load hook", hook, module, incompatible)


def _call(module: nn.Module, name: str, method: Callable[..., object], *arguments: object) -> None:
    """Calls the model's own code; an exception becomes a FitError."""
    try:
        method(*arguments)
    except (Exception, SystemExit, GeneratorExit) as error:
        raise FitError(
            f"{name} of {type(module).__name__} raised {type(error).__name__}: {safe_text(error, 200)}"
        ) from error
