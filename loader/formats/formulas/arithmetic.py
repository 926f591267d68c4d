"""Arithmetic element by element, and sums of tensors.

Guarantees: as in `compute`. A sum adds whole slices in a fixed order, by halves, so that its bits are the same on every
machine and its error grows with the logarithm of the number of terms; of up to three terms it is the plain sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .records import Reduced, Scaled


def wide(value: torch.Tensor) -> torch.Tensor:
    """Returns values in the dtype of arithmetic: float64 stays, all others become float32; may be the same tensor."""
    return value if value.dtype == torch.float64 else value.to(torch.float32)


def scaled(formula: Scaled, inputs: Sequence[Callable[[], torch.Tensor]]) -> torch.Tensor:
    """X · by + plus."""
    return wide(inputs[0]()) * formula.by + formula.plus


def reduced(formula: Reduced, inputs: Sequence[Callable[[], torch.Tensor]]) -> torch.Tensor:
    """Σ X over dims, or its mean."""
    value, count = inputs[0](), 1
    for dim in sorted(formula.dims, reverse=True):
        count *= value.shape[dim]
        value = _sum(value.movedim(dim, 0))
    total = wide(value)
    if formula.how == "mean":
        return total / count if count else torch.full_like(total, torch.nan)
    return total if formula.dims else total.clone()


def _sum(terms: torch.Tensor) -> torch.Tensor:
    """Adds the slices along the first dim, in memory of their own."""
    if not len(terms):
        return torch.zeros(terms.shape[1:], dtype=wide(terms).dtype)
    if len(terms) == 1:
        return wide(terms[0]).clone()
    while len(terms) > 1:
        half = len(terms) // 2
        added = wide(terms[:half]) + wide(terms[half : 2 * half])
        if len(terms) % 2:
            added[-1] += wide(terms[-1])
        terms = added
    return terms[0]
