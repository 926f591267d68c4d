"""The formulas that compute a tensor from others, as plain data.

Guarantees: records without torch and without values, so that a plan can hold, compare and describe them; `compute`
carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class Formula:
    """How the values of a tensor come from those of others; a subclass holds its numbers.

    The function for it (`formulas.compute`) works in float32, or float64 where a source is float64, and rounds nothing.
    """

    exact: ClassVar[bool] = True
    """Whether the result has the same bits on every machine: element by element, without sums of unspecified order."""


@dataclass(frozen=True, slots=True)
class Scaled(Formula):
    """x · by + plus."""

    by: float = 1.0
    plus: float = 0.0


@dataclass(frozen=True, slots=True)
class Reduced(Formula):
    """The sum or the mean over dims of one tensor, which are removed; an empty sum is 0, an empty mean nan."""

    dims: tuple[int, ...]
    """From 0."""
    how: Literal["sum", "mean"]


@dataclass(frozen=True, slots=True)
class Summed(Formula):
    """Σ wᵢ · xᵢ over tensors of one shape, divided by their number for a mean."""

    weights: tuple[float, ...] = ()
    """One per tensor, as given and never normalised; empty stands for ones."""
    mean: bool = False


@dataclass(frozen=True, slots=True)
class WeightNormed(Formula):
    """g · v / ‖v‖ of a magnitude g and a direction v, as in `torch.nn.utils.parametrizations.weight_norm`."""

    exact: ClassVar[bool] = False

    dim: int | None
    """The norm is taken over all other dims; None takes it over all."""


@dataclass(frozen=True, slots=True)
class Resized(Formula):
    """Interpolates one or two dims to other sizes, as `torch.nn.functional.interpolate` without aligned corners."""

    exact: ClassVar[bool] = False

    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    by: Literal["bicubic", "bilinear", "linear", "nearest", "area"]
    antialias: bool = False


@dataclass(frozen=True, slots=True)
class Initial(Formula):
    """The initial values that the model has under the same key, from an index of the first dim on; takes no inputs.

    It stands in a plan for values that only a built model has, and is never computed.
    """

    start: int
