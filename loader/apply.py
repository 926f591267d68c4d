"""The only place that changes a model.

Guarantees: all or nothing. Every tensor is read, cast and checked before the first one is put in place; whatever goes
wrong after that, an interruption included, a live model gets its old values back. Parameters keep their identity, so
ties, lists and optimizers that hold them stay right.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _IncompatibleKeys
from torch.nn.parameter import is_lazy
from torch.utils import swap_tensors

from loader.errors import FitError
from loader.hooks import Metadata, State, customises_loading, run_hooks
from loader.plan import Plan
from loader.wants import Slot, own_slots, storage_id
from loader.wording import safe_text

Visit = Callable[[nn.Module, str, State, list[str]], None]
"""What is done at each module of a walk, as `hooks.run_hooks` takes it."""

Fit = Callable[[str, torch.Tensor], torch.Tensor]
"""Brings a value that a load hook computed to the dtype and device of its model key."""


@dataclass(slots=True)
class Staged:
    """Values that are ready to be put in place."""

    state: State = field(default_factory=dict)
    """Offered key → value."""
    metadata: Metadata = field(default_factory=dict)
    """Module prefix → version, for load hooks."""
    release: Callable[[str], None] | None = None
    """Told of each offered key whose value was copied and is not looked at any more."""


def apply(
    model: nn.Module, places: Mapping[str, Slot], plan: Plan, staged: Staged, fit: Fit, *, live: bool
) -> Callable[[], None]:
    """Puts staged values in place, all or nothing.

    Args:
        model: What is changed.
        places: Every key of the model with its slot, as it was planned.
        plan: What goes where.
        staged: The values, by offered key.
        fit: For values that load hooks compute.
        live: True copies into the model's own memory (device, dtype and memory stay); False lets the model take the
            staged tensors over, without a copy.

    Returns:
        What gives a live model its old values back, should a later check fail.
    """
    journal = _Journal(live)
    try:
        with torch.no_grad():
            _commit(model, places, plan, staged, fit, journal)
    except BaseException:
        journal.undo()
        raise
    return journal.undo


def _commit(
    model: nn.Module, places: Mapping[str, Slot], plan: Plan, staged: Staged, fit: Fit, journal: _Journal
) -> None:
    install = _Installer(places, plan, journal)
    customised = [module for module in model.modules() if customises_loading(module)]
    if customised:
        for module in customised:
            journal.keep_module(module)
        visit = _visitor(places, plan, fit, install)
        run_hooks(model, staged.state, staged.metadata, visit, assign=not journal.live)
    else:
        for match in plan.matches:
            # Values leave memory one by one as the journal takes up the old ones.
            install(match.key, staged.state.pop(match.taken.key))
            if staged.release is not None:
                staged.release(match.taken.key)
    _run_post_hooks(model, plan)


def _visitor(places: Mapping[str, Slot], plan: Plan, fit: Fit, install: _Installer) -> Visit:
    """What happens to each module of a model whose load hooks run."""
    sources = {match.key for match in plan.matches}
    loaded = set(plan.loaded)
    before = {key: slot.tensor for key, slot in places.items() if slot.kind != "extra"}

    def visit(module: nn.Module, prefix: str, present: State, _rest: list[str]) -> None:
        loads_itself = customises_loading(module)
        for name, slot in own_slots(module):
            key = prefix + name
            if not loads_itself:
                if key in sources:
                    install(key, present[key] if slot.kind == "extra" else fit(key, present[key]))
            elif slot.kind != "extra" and slot.tensor is not before[key]:
                # The module took a tensor over; the one that stood there has to stay, and take its values.
                value = slot.tensor.detach()
                _registry(slot)[name] = before[key]
                if key in loaded:
                    install(key, fit(key, value))

    return visit


class _Installer:
    """Puts one value into one slot, and into the slots that are tied to it."""

    def __init__(self, places: Mapping[str, Slot], plan: Plan, journal: _Journal) -> None:
        self.places = places
        self.journal = journal
        self.ties = {group[0]: group[1:] for group in plan.tied}
        self.shared = set() if journal.live else _shared_storages(places)

    def __call__(self, key: str, value: Any) -> None:
        slot = self.places[key]
        if slot.kind == "extra":
            self.journal.keep_extra_state(slot.module)
            _call(slot.module, "set_extra_state", slot.module.set_extra_state, value)
            return
        old = slot.tensor
        if is_lazy(old):
            self.journal.keep_lazy(old)
            old.materialize(tuple(value.shape), device=value.device, dtype=value.dtype)
        if value.shape != old.shape:
            value = value.reshape(old.shape)
        if self.journal.live:
            self.journal.keep(old)
            old.copy_(value)
        elif _has_storage(old) and storage_id(old) in self.shared:
            old.copy_(value)
        else:
            holders: dict[int, list[Slot]] = {}
            for name in (key, *self.ties.get(key, ())):
                holders.setdefault(id(self.places[name].tensor), []).append(self.places[name])
            for group in holders.values():
                _take_over(group, value)


def _take_over(holders: list[Slot], value: torch.Tensor) -> None:
    """Gives the tensor object in these slots new contents; whoever else holds that object sees them too."""
    old = holders[0].tensor
    new: torch.Tensor = value.detach()
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    new.__dict__.update(old.__dict__)
    try:
        swap_tensors(old, new)  # type: ignore[no-untyped-call]
    except RuntimeError:
        # torch does not swap a tensor that is referred to weakly, or that the constructor computed something from
        # (weight_norm and spectral_norm as they were do); it says so first, and the slots take a new object instead.
        for slot in holders:
            setattr(slot.module, slot.name, new)


def _shared_storages(places: Mapping[str, Slot]) -> set[int]:
    """Storages of real tensors that something else in the model looks into too: these must be written in place."""
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
    told = _IncompatibleKeys(list(plan.missing), list(plan.unexpected))
    for module in model.modules():
        for hook in module._load_state_dict_post_hooks.values():  # noqa: SLF001  # torch's own walk runs them so
            _call(module, "a load hook", hook, module, told)


def _call(module: nn.Module, what: str, method: Callable[..., object], *arguments: object) -> None:
    """Calls code of the model's; what it takes exception to is a misfit."""
    try:
        method(*arguments)
    except Exception as error:
        raise FitError(
            f"{what} of {type(module).__name__} raised {type(error).__name__}: {safe_text(error, 200)}", ""
        ) from error


class _Journal:
    """Remembers what a live model held, so that it can be given back."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self._undo: list[Callable[[], object]] = []

    def keep(self, tensor: torch.Tensor) -> None:
        old = tensor.detach().clone()
        self._undo.append(lambda: tensor.detach().copy_(old))

    def keep_lazy(self, tensor: Any) -> None:
        kind, data = tensor.__class__, tensor.data

        def restore() -> None:
            tensor.data = data
            tensor.__class__ = kind

        self._undo.append(restore)

    def keep_module(self, module: nn.Module) -> None:
        """Remembers everything that a module's own code may change while it is loaded."""
        if not self.live:
            return
        self._keep_attributes(module)
        for _, slot in own_slots(module):
            if slot.kind == "extra":
                self.keep_extra_state(module)
            elif is_lazy(slot.tensor):
                self.keep_lazy(slot.tensor)
            else:
                self.keep(slot.tensor)

    def keep_extra_state(self, module: nn.Module) -> None:
        if not self.live:
            return
        old = copy.deepcopy(module.get_extra_state())

        def restore() -> None:
            # Attributes that were set anew are back already; what was changed inside them is not.
            if not _equal(module.get_extra_state(), old):
                module.set_extra_state(old)

        self._undo.append(restore)
        self._keep_attributes(module)

    def _keep_attributes(self, module: nn.Module) -> None:
        kind = type(module)
        held = {name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(module).items()}

        def restore() -> None:
            # A lazy module becomes another class on its first forward pass.
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(held)

        self._undo.append(restore)

    def undo(self) -> None:
        with torch.no_grad():
            for restore in reversed(self._undo):
                restore()


def _equal(left: Any, right: Any) -> bool:
    """Whether two plain values are equal; what cannot be compared counts as different."""
    if isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor):
        both = isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
        return both and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple) and type(left) is type(right):
        return len(left) == len(right) and all(map(_equal, left, right))
    return type(left) in _PLAIN and left == right


_PLAIN = (type(None), bool, int, float, complex, str, bytes)
