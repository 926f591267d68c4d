"""What adapters add to a tensor: differences, and products of two small matrices.

Guarantees: as in `compute`. A product is added where it is made, so that it is in memory only as a part of its sum;
its factor is a number that float32 holds, or is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...errors import CheckpointError
from ...text.lines import Fix
from .additions import Added, Agreeing, Difference, Directed, Merged, Product
from .arithmetic import wide

Inputs = Sequence[Callable[[], torch.Tensor]]

_LARGEST = torch.finfo(torch.float32).max


def difference(_formula: Difference, inputs: Inputs) -> torch.Tensor:
    """The first minus the second."""
    left = wide(inputs[0]())
    return left - wide(inputs[1]())


def added(formula: Added, inputs: Inputs) -> torch.Tensor:
    """Base + scale · delta."""
    base, delta = wide(inputs[0]()), wide(inputs[1]())
    dtype = torch.promote_types(base.dtype, delta.dtype)
    # One operation after the other: whether both are rounded at once would depend on the machine.
    return (delta.to(dtype).reshape(base.shape) * formula.scale).add_(base)


def agreeing(_formula: Agreeing, inputs: Inputs) -> torch.Tensor:
    """The first, if the second holds the same values.

    Raises:
        CheckpointError: It does not.
    """
    one, other = inputs[0](), inputs[1]()
    if not torch.equal(wide(one), wide(other)):
        raise CheckpointError(
            "an adapter that was trained with tied names as one tensor changes them differently",
            Fix(note="leave one of them out by a rule of the adapter"),
        )
    return one


def product(formula: Product, inputs: Inputs) -> torch.Tensor:
    """Factor · up · down."""
    left, right, factor = _factors(formula, inputs, 1.0)
    return (left @ right).mul_(factor)


def merged(formula: Merged, inputs: Inputs) -> torch.Tensor:
    """Base + scale · product."""
    return _sum(inputs[0](), formula.product, inputs[1:], formula.scale)


def directed(formula: Directed, inputs: Inputs) -> torch.Tensor:
    """Magnitude · V / ‖V‖ by output row.

    From *DoRA: Weight-Decomposed Low-Rank Adaptation* (Liu et al., 2024), as PEFT merges it.
    """
    base, turned = inputs[0](), formula.product.turned
    made = _sum(base, formula.product, inputs[2:], 1.0)
    flat = made.reshape(made.shape[0], -1)
    magnitude = wide(inputs[1]()).reshape(-1)
    ratio = magnitude / torch.linalg.vector_norm(flat, dim=0 if turned else 1)
    made = (flat * (ratio if turned else ratio.unsqueeze(1))).reshape(made.shape)
    return made if formula.scale == 1 else torch.lerp(wide(base).to(made.dtype), made, formula.scale)


def _sum(given: torch.Tensor, formula: Product, inputs: Inputs, scale: float) -> torch.Tensor:
    left, right, factor = _factors(formula, inputs, scale)
    dtype = torch.promote_types(wide(given).dtype, left.dtype)
    base = given.to(dtype)
    flat = base.reshape(base.shape[0], -1)
    if flat.data_ptr() != given.data_ptr():  # a copy, which may be written
        return flat.addmm_(left.to(dtype), right.to(dtype), alpha=factor).reshape(base.shape)
    return torch.addmm(flat, left.to(dtype), right.to(dtype), alpha=factor).reshape(base.shape)


def _factors(formula: Product, inputs: Inputs, scale: float) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The two matrices, in the order of their product, and its factor times a scale."""
    up, down = wide(inputs[0]()), wide(inputs[1]())
    up, down = up.reshape(up.shape[0], -1), down.reshape(down.shape[0], -1)
    factor = formula.factor * scale
    if formula.alpha:
        factor *= inputs[2]().double().item()
    if not abs(factor) <= _LARGEST:
        raise CheckpointError(
            f"an adapter multiplies its product by {factor:g}, expected a number that float32 can hold",
            Fix(note="do not use this adapter; ask whoever made it"),
        )
    dtype = torch.promote_types(up.dtype, down.dtype)
    up, down = up.to(dtype), down.to(dtype)
    return (down.T, up.T, factor) if formula.turned else (up, down, factor)
