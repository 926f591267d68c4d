"""The keys of a model's state dict and where each one lives; the tensors of a model, and which have no values.

Guarantees: reads a model and changes nothing, unless the model's own code does; the keys are those that
`torch.nn.Module.load_state_dict` fills, in the same order, second names of tied tensors and shared modules included.
Missing values are found by name: a forward pass would not reveal them, since a weight on the meta device can give
finite garbage.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..errors import FitError
from ..formats.tensor import dtype_name, is_plain
from ..formats.tree import TensorEntry
from ..keys.plan import SlotKind, Wanted
from ..text.wording import phrases, safe_text, shape
from .dtype import all_finite, can_cast

EXTRA_STATE = "_extra_state"
"""The key of a module's extra state in a state dict."""


_TURNED = ("transformers.pytorch_utils", "Conv1D")
"""The class of a linear layer whose weight is [in, out]."""
_NO_TENSORS = frozenset((dict, OrderedDict, set, bool, int, float, str, NoneType))
"""Types of nearly all attributes of a module; looking at the type alone halves the time of the walk."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one key in a model."""

    module: nn.Module
    name: str
    kind: SlotKind

    @property
    def tensor(self) -> torch.Tensor:
        """The tensor in the slot; not for extra state."""
        found = (self.module._parameters if self.kind == "parameter" else self.module._buffers)[self.name]
        if found is None:
            raise LookupError(self.name)
        return found


def own_slots(module: nn.Module) -> Iterator[tuple[str, Slot]]:
    """Yields the slots of one module, without those of its children."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            yield name, Slot(module, name, "parameter")
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            yield name, Slot(module, name, "buffer")
    if type(module).set_extra_state is not nn.Module.set_extra_state:
        yield EXTRA_STATE, Slot(module, EXTRA_STATE, "extra")
    for name in own_values(module):
        yield name, Slot(module, name, "extra")


def is_own_key(slot: Slot) -> bool:
    """Whether only its module's own code knows a slot; that code decides whether it is needed."""
    return slot.kind == "extra" and slot.name != EXTRA_STATE


def slots(model: nn.Module) -> dict[str, Slot]:
    """Returns every key of a model's state dict with its place."""
    return {
        f"{prefix}.{name}" if prefix else name: slot
        for prefix, module in model.named_modules(remove_duplicate=False)
        for name, slot in own_slots(module)
    }


def wanted(places: dict[str, Slot]) -> dict[str, Wanted]:
    """Describes slots as plain data for a plan."""
    first: dict[object, str] = {}
    described = {}
    for key, slot in places.items():
        if slot.kind == "extra":
            # Extra state cannot be tied: torch gives it to a shared module once for each of its names.
            described[key] = Wanted(None, "", "extra", key)
            continue
        tensor = slot.tensor
        owner = first.setdefault(identity(tensor), key)
        fixed = None if is_lazy(tensor) else tuple(tensor.shape)
        described[key] = Wanted(fixed, dtype_name(tensor.dtype), slot.kind, owner, _turned(slot))
    return described


def _turned(slot: Slot) -> bool | None:
    """Whether a layer keeps its weight as [in, out], as PEFT decides it; None for another one."""
    if slot.name != "weight":
        return None
    if isinstance(slot.module, nn.Linear):
        return False
    return True if any((one.__module__, one.__name__) == _TURNED for one in type(slot.module).__mro__) else None


def storage_id(tensor: torch.Tensor) -> int:
    """Returns the identity of a tensor's storage; unlike the data pointer it also works on the meta device."""
    identity: int = tensor.untyped_storage()._cdata  # noqa: SLF001  # data_ptr() is 0 for all meta tensors
    return identity


def identity(tensor: torch.Tensor) -> object:
    """Returns a value that is equal for two names of one tensor: one object, or the same view of the same storage."""
    if is_lazy(tensor) or tensor.layout != torch.strided or tensor.is_quantized or not is_plain(tensor):
        return id(tensor)
    view = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return (storage_id(tensor), *view, tensor.is_conj(), tensor.is_neg())


def own_values(module: nn.Module) -> dict[str, object]:
    """Returns the entries that a module saves and loads by its own code, as torch's quantized modules do."""
    kind, base = type(module), nn.Module
    # torch's walks over state dicts have no public form.
    saves, loads = kind._save_to_state_dict, kind._load_from_state_dict  # noqa: SLF001
    if saves is base._save_to_state_dict or loads is base._load_from_state_dict:  # noqa: SLF001
        return {}
    saved: dict[str, object] = {}
    try:
        saves(module, saved, "", keep_vars=True)
    except Exception:  # noqa: BLE001  # without values this may fail; the module then has the keys that it declares
        return {}
    known = {*module._parameters, *module._buffers, EXTRA_STATE}
    return {name: value for name, value in saved.items() if name not in known}


def refuse_other_shapes(mine: Mapping[str, object], theirs: Mapping[str, object]) -> None:
    """Refuses values of another shape, which a module's own loading code may accept silently.

    Args:
        mine: The model's values, by key.
        theirs: The files' values, or entries, under these keys.

    Raises:
        FitError: Tensors in them differ in shape.
    """
    differing = []
    for key, value in mine.items():
        shapes, others = _shapes(value), _shapes(theirs[key])
        if shapes and others and shapes != others:
            theirs_text, mine_text = (" and ".join(map(shape, found)) for found in (others, shapes))
            differing.append(f"{safe_text(key)} is {theirs_text} in the file and {mine_text} in the model")
    if differing:
        raise FitError(phrases(differing))


def _shapes(value: object) -> list[tuple[int, ...]]:
    if isinstance(value, torch.Tensor | TensorEntry):
        return [tuple(value.shape)]
    return [each for item in value for each in _shapes(item)] if isinstance(value, tuple | list) else []


def without_data(model: nn.Module) -> list[str]:
    """Lists the names of tensors without data: on the meta device, or not initialized yet."""
    return [name for name, tensor in tensors(model) if is_lazy(tensor) or tensor.is_meta]


def tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields every parameter, buffer and plain tensor attribute of a model with its name, each object once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        places = (*module._parameters.items(), *module._buffers.items(), *_attributes(module))
        for name, tensor in places:
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}" if prefix else name, tensor


def nonfinite(model: nn.Module) -> list[str]:
    """Lists the names of parameters and buffers that hold inf or nan."""
    # Not by `state_dict`, which is the model's own code: it may accept no arguments, or raise.
    return [name for name, slot in slots(model).items() if not _is_finite(_value(slot))]


def _value(slot: Slot) -> object:
    if slot.kind != "extra":
        return slot.tensor
    return own_values(slot.module).get(slot.name) if is_own_key(slot) else None


def _attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(module).items():
        if type(value) in _NO_TENSORS:
            continue
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, list | tuple) and value and not name.startswith("_"):
            yield from ((f"{name}[{i}]", item) for i, item in enumerate(value) if isinstance(item, torch.Tensor))


def _is_finite(tensor: object) -> bool:
    if not isinstance(tensor, torch.Tensor) or is_lazy(tensor) or tensor.is_meta or tensor.is_quantized:
        return True
    if tensor.is_nested:
        return all(map(_is_finite, tensor.detach().unbind()))
    values = tensor.detach()
    if values.layout != torch.strided:
        values = (values.coalesce() if values.layout == torch.sparse_coo else values).values()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if not values.is_floating_point() or not can_cast(values.dtype, torch.float32):
        return True
    return all_finite(values.to(torch.float32) if values.element_size() == 1 else values)
