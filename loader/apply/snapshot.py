"""Snapshots of the state of modules.

Guarantees: a restored module holds the same objects with the same contents: parameters, buffers and hooks, plain
attributes, and what lies in containers and in the objects that attributes hold. Restoring may be repeated, changes
nothing that did not change, and goes on where a part of it fails. Parameters above a size are remembered by their place
alone, and listed.
"""

from __future__ import annotations

import sys
import types
from collections import deque
from collections.abc import Callable, Collection, Iterable, MutableSet
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..module.slots import storage_id

MOST = 64 * 2**20
"""The most bytes of a model's parameters whose values are kept."""

_LEVELS = 2
"""How deep objects within objects are followed: a cache, and its layers."""
_PLAIN = frozenset((type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size))


class Snapshot:
    """The state of a model's modules at one moment.

    Args:
        model: The whole model.
        only: The modules to keep, each without its children and with all values of its parameters; None for the whole
            model, whose parameters are kept up to `MOST` bytes.
    """

    def __init__(self, model: nn.Module, only: Collection[nn.Module] | None = None) -> None:
        chosen = list(model.modules() if only is None else only)
        parameters = [p for module in chosen for p in module._parameters.values() if p is not None and not is_lazy(p)]
        self._keeps_parameters = only is not None or sum(p.numel() * p.element_size() for p in parameters) <= MOST
        self._parameters = {storage_id(p) for p in parameters if _has_storage(p)}
        self._storages = set(self._parameters)
        self._restores: list[Callable[[], object]] = []
        self.spared: list[torch.Tensor] = []
        """The parameters whose values are not kept."""
        self.kept: dict[int, torch.Tensor] = {}
        """The tensors whose values are, by their id."""
        self._held: list[object] = []  # keeps the objects alive whose ids are noted
        self._seen: set[int] = set()
        self._others = {id(module) for module in model.modules()} - {id(module) for module in chosen}
        self._pending: list[tuple[Any, int]] = [(module, _LEVELS) for module in chosen]
        while self._pending:
            self._keep(*self._pending.pop())

    def restore(self) -> None:
        """Restores everything; raises the first error at the end."""
        first: BaseException | None = None
        with torch.no_grad():
            for restore in self._restores:
                try:
                    restore()
                except BaseException as error:  # noqa: BLE001  # an interruption too must not leave half a model
                    first = first or error
        if first is not None:
            raise first

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor views memory of the modules."""
        return _has_storage(tensor) and storage_id(tensor) in self._storages

    def _keep(self, value: Any, levels: int) -> None:
        if type(value) in _PLAIN or id(value) in self._seen or id(value) in self._others:
            return
        self._seen.add(id(value))
        self._held.append(value)
        if isinstance(value, torch.Tensor):
            self._keep_tensor(value)
        elif isinstance(value, nn.Module):
            self._keep_attributes(value, _LEVELS)
            if isinstance(value, torch.jit.ScriptModule):
                self._keep_script(value)
        elif _is_array(value):
            array = value.copy()
            self._restores.append(lambda: value.tobytes() == array.tobytes() or value.__setitem__(..., array))
        elif isinstance(value, torch.Generator):
            state = value.get_state()
            self._restores.append(lambda: value.set_state(state))
        elif isinstance(value, tuple | frozenset):
            self._pending += [(item, levels) for item in value]
        elif isinstance(value, dict | list | deque | MutableSet | bytearray):
            self._keep_container(value, levels)
        elif levels and _is_followed(value):
            self._keep_attributes(value, levels - 1)

    def _keep_attributes(self, owner: Any, levels: int) -> None:
        kind, own = type(owner), _own(owner)
        if own is None:
            return
        held = dict(own)

        def restore() -> None:
            if type(owner) is not kind:  # a lazy module becomes another class on its first forward pass
                owner.__class__ = kind
            if not _are_one(own.items(), held.items()):
                own.clear()
                own.update(held)

        self._restores.append(restore)
        self._pending += [(item, levels) for item in held.values()]

    def _keep_script(self, module: Any) -> None:
        """Keeps the attributes of a scripted module, which are not Python attributes; a frozen one has none."""
        kind = getattr(module, "_concrete_type", None)
        script = module._c  # noqa: SLF001  # only there are they all
        values = {name: script.getattr(name) for name in (kind.get_attributes() if kind is not None else ())}
        self._pending += [(value, 0) for value in values.values() if isinstance(value, torch.Tensor)]
        self._restores += [partial(script.setattr, name, value) for name, value in values.items()]

    def _keep_container(self, value: Any, levels: int) -> None:
        if isinstance(value, dict):
            entries = dict(value.items())
            self._pending += [(item, levels) for item in entries.values()]
            self._restores.append(partial(_refill, value, entries))
            return
        items = list(value)
        self._pending += [(item, levels) for item in items]
        self._restores.append(partial(_refill, value, items))

    def _keep_tensor(self, tensor: Any) -> None:
        if is_lazy(tensor):
            self._restores.append(lazy_again(tensor))
            return
        with torch.no_grad():
            alias, place = tensor.detach(), _place(tensor)
            spared = _has_storage(tensor) and storage_id(tensor) in self._parameters and not self._keeps_parameters
            values = None if tensor.is_meta or spared else alias.clone()
        if spared:
            self.spared.append(tensor)
        if values is not None:
            self.kept[id(tensor)] = tensor
        if _has_storage(tensor):
            self._storages.add(storage_id(tensor))

        def restore() -> None:
            if _place(tensor) != place:
                tensor.data = alias
            if values is not None:
                put_back(tensor, values)

        self._restores += [restore, _gradient_again(tensor)]


def _gradient_again(tensor: torch.Tensor) -> Callable[[], object]:
    """Returns a function that restores a tensor's gradient and `requires_grad`."""
    requires, gradient = tensor.requires_grad, tensor.grad if tensor.is_leaf else None

    def restore() -> None:
        if tensor.is_leaf:
            if tensor.requires_grad != requires:
                tensor.requires_grad_(requires)
            if tensor.grad is not gradient:
                tensor.grad = gradient

    return restore


def put_back(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Writes previous values to a tensor, unless it still has them."""
    own = tensor.detach()
    if own.layout != torch.strided or own.is_quantized or own.is_nested:
        # A detached tensor does not share indices and scales with the original.
        tensor.copy_(values)
    elif not same_bytes(own, values):
        own.copy_(values)


def lazy_again(tensor: Any) -> Callable[[], object]:
    """Returns a function that makes a materialized parameter or buffer lazy again."""
    kind, data = tensor.__class__, tensor.data

    def restore() -> None:
        if tensor.__class__ is not kind:
            tensor.data = data
            tensor.__class__ = kind

    return restore


def same_bytes(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two dense tensors of one shape and dtype hold the same elements, bit for bit."""
    # Conjugate and negative views are marked by a bit that is not part of their bytes.
    return torch.equal(
        *(side.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8) for side in (left, right))
    )


def _place(tensor: torch.Tensor) -> tuple[object, ...]:
    if tensor.is_nested:
        return (tensor.dtype, tensor.device)  # it has no shape
    if not _has_storage(tensor):
        return (tensor.dtype, tuple(tensor.shape), tensor.device)
    return (storage_id(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def _has_storage(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided and not tensor.is_nested


def _refill(value: Any, held: Any) -> None:
    """Restores the contents of a container, unless it still has them."""
    if isinstance(value, dict):
        if not _are_one(value.items(), held.items()):
            value.clear()
            value.update(held)
    elif not _are_same(list(value), held):
        value.clear()
        if isinstance(value, MutableSet):
            for item in held:
                value.add(item)
        else:
            value.extend(held)


def _are_one(left: Iterable[tuple[Any, Any]], right: Iterable[tuple[Any, Any]]) -> bool:
    """Whether two runs of items have the same keys in the same order, and the same objects under them."""
    return _are_same([part for item in left for part in item], [part for item in right for part in item])


def _are_same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(one is other for one, other in zip(left, right, strict=True))


def _is_followed(value: Any) -> bool:
    """Whether an object belongs to the model, not to the standard library (loggers, pools, locks)."""
    library = type(value).__module__.partition(".")[0] in sys.stdlib_module_names
    return isinstance(value, types.SimpleNamespace) or not library


def _own(value: Any) -> dict[str, Any] | None:
    """The attributes of an object; None if it has no dictionary of them."""
    try:
        own = vars(value)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # none, or code of its own that raises
        return None
    return own if isinstance(own, dict) else None


def _is_array(value: object) -> bool:
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray) and bool(value.flags.writeable)
