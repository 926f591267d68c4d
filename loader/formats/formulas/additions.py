"""The formulas of adapters, as plain data.

Guarantees: as in `records`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .records import Formula


@dataclass(frozen=True, slots=True)
class Difference(Formula):
    """One tensor minus another."""


@dataclass(frozen=True, slots=True)
class Added(Formula):
    """base + scale · delta, of which the first has the shape."""

    scale: float


@dataclass(frozen=True, slots=True)
class Agreeing(Formula):
    """The first of two tensors that must hold the same values."""


@dataclass(frozen=True, slots=True)
class Product(Formula):
    """factor · up · down, of two matrices; further dims are one with the last.

    The inputs are `up` [out, rank, 1…], `down` [rank, in, …] and, for `alpha`, the number that is divided by the rank.
    """

    exact: ClassVar[bool] = False
    factor: float
    turned: bool = False
    """Whether the result is transposed: [in, out]."""
    alpha: bool = False
    """Whether the factor is multiplied by a number out of the file."""


@dataclass(frozen=True, slots=True)
class Merged(Formula):
    """base + scale · product, in the base's shape; the inputs are the base and those of the product."""

    exact: ClassVar[bool] = False
    scale: float
    product: Product


@dataclass(frozen=True, slots=True)
class Directed(Formula):
    """DoRA: magnitude · V / ‖V‖ by output row, of V = base + product; its difference to the base times `scale`.

    The inputs are the base, the magnitudes [out] and those of the product.
    """

    exact: ClassVar[bool] = False
    scale: float
    product: Product
