"""What a model wants: the keys of its state dict, and where each one lives.

Guarantees: reads a model and changes nothing; the keys are those that `torch.nn.Module.load_state_dict` fills, in the
same order, second names of tied tensors and shared modules included.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..keys.plan import Wanted
from .own_keys import EXTRA_STATE, own_values


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of one key in a model."""

    module: nn.Module
    name: str
    kind: str
    """``parameter``, ``buffer`` or ``extra``."""

    @property
    def tensor(self) -> torch.Tensor:
        """What stands there now; not for extra state."""
        found = (self.module._parameters if self.kind == "parameter" else self.module._buffers)[self.name]
        if found is None:
            raise LookupError(self.name)
        return found


def own_slots(module: nn.Module) -> Iterator[tuple[str, Slot]]:
    """The slots of one module, without those of its children."""
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
    """Whether a slot is one that only its module's own code knows; it decides whether it needs it."""
    return slot.kind == "extra" and slot.name != EXTRA_STATE


def slots(model: nn.Module) -> dict[str, Slot]:
    """Every key of a model's state dict with its place."""
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
            # No tensor that could be tied: torch hands a shared module its extra state once for each of its names.
            described[key] = Wanted(None, "", "extra", key)
            continue
        tensor = slot.tensor
        owner = first.setdefault(identity(tensor), key)
        fixed = None if is_lazy(tensor) else tuple(tensor.shape)
        described[key] = Wanted(fixed, dtype_name(tensor.dtype), slot.kind, owner)
    return described


def dtype_name(dtype: torch.dtype) -> str:
    """Names a dtype as torch does, without its package: ``float32``."""
    return str(dtype).removeprefix("torch.")


def storage_id(tensor: torch.Tensor) -> int:
    """Tells which storage a tensor looks into; unlike its data pointer it also works on the meta device."""
    identity: int = tensor.untyped_storage()._cdata  # noqa: SLF001  # data_ptr() is 0 for all meta tensors
    return identity


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of torch's own classes, and no wrapper around others."""
    return type(tensor) in _PLAIN


def identity(tensor: torch.Tensor) -> object:
    """Two names are one tensor when they are one object, or the same view of the same storage."""
    if is_lazy(tensor) or tensor.layout != torch.strided or tensor.is_quantized or not is_plain(tensor):
        return id(tensor)
    view = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return (storage_id(tensor), *view, tensor.is_conj(), tensor.is_neg())


_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)
