"""Arithmetic element by element, and sums of tensors.

Guarantees: as in `compute`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .records import Scaled


def wide(value: torch.Tensor) -> torch.Tensor:
    """Returns values in the dtype of arithmetic: float64 stays, all others become float32; may be the same tensor."""
    return value if value.dtype == torch.float64 else value.to(torch.float32)


def scaled(formula: Scaled, inputs: Sequence[Callable[[], torch.Tensor]]) -> torch.Tensor:
    """X · by + plus."""
    return wide(inputs[0]()) * formula.by + formula.plus
