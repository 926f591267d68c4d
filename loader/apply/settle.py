"""Brings what a load did not place itself to its device and dtype.

Guarantees: a cast that would change the values of anything that stayed unloaded is refused before the first one.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from ..module.castable import can_cast
from ..module.losses import Cast, refuse_losses
from ..module.slots import dtype_name
from ..schema import AllowConfig
from .place import cast


def settle(model: nn.Module, device: torch.device, policy: str | None, allow: AllowConfig) -> None:
    """Moves whatever a load did not place itself: buffers of the model's own, parameters that stayed unloaded.

    A model with tensors that have no data is left alone: it is not whole, and no move makes it so.

    Args:
        model: The loaded model.
        device: Where it goes.
        policy: Its dtype, as `place.resolve_dtype` returns it.
        allow: `allow.mismatched` admits lossy casts.

    Raises:
        FitError: A cast loses values.
    """
    dtype = getattr(torch, policy) if policy is not None and policy != "checkpoint" else None
    tensors = [*model.parameters(), *model.buffers()]
    if device.type != "meta" and any(tensor.is_meta for tensor in tensors):
        return
    if any(_misplaced(tensor, device, dtype) for tensor in tensors):
        refuse_losses(_lossy(model, dtype), allow, "dtype=null keeps the model's own dtypes")
        # Module.to would cast complex tensors to the dtype as well, and take their imaginary parts.
        move = model._apply  # noqa: SLF001
        move(lambda tensor: tensor.to(device, dtype if _is_cast(tensor, dtype) else None))  # type: ignore[no-untyped-call]


def _lossy(model: nn.Module, dtype: torch.dtype | None) -> Iterator[Cast]:
    """The casts to a dtype of a smaller range, one tensor at a time."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if dtype is None or tensor.is_meta or not _is_cast(tensor, dtype):
            continue
        if torch.finfo(dtype).max < torch.finfo(tensor.dtype).max:
            yield Cast(name, dtype_name(tensor.dtype), dtype_name(dtype), cast(tensor.detach(), dtype)[1])


def _misplaced(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> bool:
    off = tensor.device.type != device.type or device.index not in (None, tensor.device.index)
    return off or _is_cast(tensor, dtype)


def _is_cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> bool:
    other = dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype
    return other and dtype is not None and can_cast(tensor.dtype, dtype)
