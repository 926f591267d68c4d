"""Interpolation of one or two dims.

Guarantees: as in `compute`; the values are those of `torch.nn.functional.interpolate` with ``align_corners=False``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import interpolate

from .arithmetic import wide
from .records import Resized


def resized(formula: Resized, inputs: Sequence[Callable[[], torch.Tensor]]) -> torch.Tensor:
    """Interpolates the dims of a formula; all others are channels."""
    value = wide(inputs[0]())
    others = [dim for dim in range(value.dim()) if dim not in formula.dims]
    order = [*others, *formula.dims]
    # A view, not a compact copy: torch's kernels take their order of arithmetic from the strides, as in timm.
    moved = value.permute(order)
    shape = moved.shape[: len(others)]
    images = moved if len(others) == 2 else _as_images(moved, len(others))  # a batch and channels
    options = {} if formula.by in ("nearest", "area") else {"align_corners": False}
    made = interpolate(images, size=list(formula.sizes), mode=formula.by, antialias=formula.antialias, **options)
    back = [order.index(dim) for dim in range(value.dim())]
    return made.reshape(*shape, *formula.sizes).permute(back)


def _as_images(value: torch.Tensor, others: int) -> torch.Tensor:
    """Brings the dims in front of the interpolated ones to two: a batch and channels."""
    if others == 1:
        return value.unsqueeze(0)
    if not others:
        return value[None, None]
    return value.flatten(1, others - 1)
