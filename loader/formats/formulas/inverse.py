"""Computes the input of a formula from its result.

Guarantees: as in `compute`; a formula without an inverse is known before any value is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .arithmetic import wide
from .records import Formula, Scaled


def has_inverse(formula: Formula) -> bool:
    """Whether the values that a formula takes follow from those that it gives."""
    return type(formula) in _HOW and not (isinstance(formula, Scaled) and formula.by == 0)


def inverse(formula: Formula, values: torch.Tensor) -> torch.Tensor:
    """Computes the only input of a formula that has an inverse, in float32, or float64 where the values are.

    Args:
        formula: What was computed.
        values: Its result, in the dtype that it was rounded to.
    """
    return _HOW[type(formula)](formula, values)


def _unscaled(formula: Scaled, values: torch.Tensor) -> torch.Tensor:
    return (wide(values) - formula.plus) / formula.by


_HOW: Mapping[type[Formula], Callable[[Any, torch.Tensor], torch.Tensor]] = {Scaled: _unscaled}
