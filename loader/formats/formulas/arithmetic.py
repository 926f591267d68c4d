"""Arithmetic element by element, sums and norms of tensors.

Guarantees: as in `compute`. A sum adds whole slices in a fixed order, by halves, so that its bits are the same on every
machine and its error grows with the logarithm of the number of terms; of up to three terms it is the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .records import Reduced, Scaled, Summed, WeightNormed

Inputs = Sequence[Callable[[], torch.Tensor]]
_FEW = 3
_BLOCK = 1 << 16
"""Elements that are added in one piece of work; a constant, for the order of a sum depends on it."""
_RUN = 30 << 10
"""Elements that stay in a processor's cache, and that torch gives to one thread: sums wait for memory in any case."""


def wide(value: torch.Tensor) -> torch.Tensor:
    """Returns values in the dtype of arithmetic: float64 stays, all others become float32; may be the same tensor."""
    return value if value.dtype == torch.float64 else value.to(torch.float32)


def scaled(formula: Scaled, inputs: Inputs) -> torch.Tensor:
    """X · by + plus."""
    value = inputs[0]()
    result = wide(value)
    result = result * formula.by if result is value else result.mul_(formula.by)
    return result.add_(formula.plus)


def reduced(formula: Reduced, inputs: Inputs) -> torch.Tensor:
    """Σ X over dims, or its mean."""
    value, count = inputs[0](), 1
    # The largest dim first: its slices, of which the rest of the work is made, are the smallest.
    dims = sorted(formula.dims, key=lambda dim: value.shape[dim])
    while dims:
        dim = dims.pop()
        count *= value.shape[dim]
        value = _sum(value.movedim(dim, 0))
        dims = [other - (other > dim) for other in dims]
    total = wide(value)
    if formula.how == "mean":
        return total / count if count else torch.full_like(total, torch.nan)
    return total if formula.dims else total.clone()


def summed(formula: Summed, inputs: Inputs) -> torch.Tensor:
    """Σ wᵢ · xᵢ, one term after the other; a mean divides the sum once."""
    weights = formula.weights or (1.0,) * len(inputs)
    total: torch.Tensor | None = None
    for read, weight in zip(inputs, weights, strict=True):
        total = _plus(total, read(), weight)
    if total is None:
        raise ValueError("a sum needs a tensor")
    for run in torch.split(total.view(-1), _RUN) if formula.mean else ():
        run.div_(len(inputs))
    return total


def _plus(total: torch.Tensor | None, term: torch.Tensor, weight: float) -> torch.Tensor:
    """Adds weight · term to a sum in place, or begins one; nothing of the term's size is allocated besides."""
    dtype = torch.float64 if term.dtype == torch.float64 else torch.float32
    begins = total is None
    total = torch.empty(term.shape, dtype=dtype) if total is None else total.to(torch.promote_types(total.dtype, dtype))
    for own, run in zip(torch.split(total.view(-1), _RUN), torch.split(term.reshape(-1), _RUN), strict=True):
        added = run.to(dtype)
        # Not `add_(alpha=…)`: some processors round its product, others do not.
        added = added if weight == 1 else added * weight
        own.copy_(added) if begins else own.add_(added)
    return total


def weight_normed(formula: WeightNormed, inputs: Inputs) -> torch.Tensor:
    """Returns g · v / ‖v‖, bit for bit torch's own."""
    direction, magnitude = wide(inputs[1]()), wide(inputs[0]())
    dtype = torch.promote_types(direction.dtype, magnitude.dtype)
    if formula.dim is None:
        magnitude = magnitude.reshape(())
    # The function of both of torch's implementations, which has no public name.
    made: torch.Tensor = torch._weight_norm(  # noqa: SLF001
        direction.to(dtype), magnitude.to(dtype), -1 if formula.dim is None else formula.dim
    )
    return made


def _sum(terms: torch.Tensor) -> torch.Tensor:
    """Adds the slices along the first dim, in memory of their own; beside them it needs that of one block."""
    if not len(terms):
        return torch.zeros(terms.shape[1:], dtype=wide(terms).dtype)
    if len(terms) == 1:
        return wide(terms[0]).clone()
    if len(terms) > _FEW and terms.numel() > _BLOCK:
        half = len(terms) // 2
        return _sum(terms[:half]).add_(_sum(terms[half:]))
    while len(terms) > 1:
        half = len(terms) // 2
        added = wide(terms[:half]) + wide(terms[half : 2 * half])
        if len(terms) % 2:
            added[-1] += wide(terms[-1])
        terms = added
    return terms[0]
