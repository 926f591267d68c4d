"""The rule that gives a tensor's elements another order or shape: `rearrange`.

Guarantees: as in `tensors`; without `reduce`, every element of the result is one of the source, unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from ...formats import boxes
from ...formats.formulas.records import Reduced
from ...formats.tree import TensorEntry
from . import boxed
from .arithmetic import refuse_outsized, refuse_unfit_values
from .axes import Pattern, parsed
from .tensors import SelectingRule


@dataclass(frozen=True, slots=True)
class Rearrange(SelectingRule):
    """Transposes, reshapes, repeats or reduces by a pattern in the notation of einops."""

    rearrange: str
    """A glob over keys."""
    pattern: str
    """Both sides in the notation of einops: ``(h d r) i -> (h r d) i``."""
    axes: dict[str, int] | None = None
    """The sizes of axes that no shape shows, by name."""
    reduce: Literal["sum", "mean"] | None = None
    """How the elements along axes that are absent on the right are joined; null where there are none."""
    example: ClassVar[Mapping[str, object]] = {"rearrange": "*.c_attn.weight", "pattern": "i o -> o i"}

    @property
    def reversible(self) -> bool:
        """Whether it sums nothing."""
        return self.reduce is None

    def change(self) -> Callable[[TensorEntry], TensorEntry]:
        """Returns the function of one tensor; as in `SelectingRule`."""
        sizes = self.axes or {}
        for axis, size in sizes.items():
            boxed.check_number(size, f"axes.{axis}")
        pattern = parsed(self.pattern, sizes, reducing=self.reduce is not None)

        @functools.cache  # a model has few shapes
        def solved(shape: tuple[int, ...]) -> tuple[Pattern, Mapping[str, int]]:
            ranked = pattern.for_rank(len(shape))
            return ranked, ranked.solved(shape)

        return lambda entry: rearranged(boxed.movable(entry), *solved(entry.shape), self.reduce)


def rearranged(
    entry: TensorEntry, pattern: Pattern, sizes: Mapping[str, int], reduce: Literal["sum", "mean"] | None
) -> TensorEntry:
    """Returns an entry by both sides of a pattern.

    Args:
        entry: The entry, whose shape fits the left side.
        pattern: The pattern for its rank.
        sizes: The size of every axis.
        reduce: How axes are joined that are absent on the right.

    Raises:
        Unfit: Integers are to be summed.
    """
    left, right = pattern.axes(pattern.left), pattern.axes(pattern.right)
    entry = boxes.reshaped(entry, [sizes[axis] for axis in left])
    kept, gone = [axis for axis in right if axis in left], [axis for axis in left if axis not in right]
    entry = boxes.permuted(entry, [left.index(axis) for axis in (*kept, *gone)])
    if reduce is not None and any(sizes[axis] != 1 for axis in gone):
        refuse_unfit_values(entry)
        refuse_outsized(entry, entry.shape[: len(kept)])
        dims = range(len(kept), len(kept) + len(gone))
        entry, gone = boxes.computed(Reduced(tuple(dims), reduce), [entry], entry.shape[: len(kept)]), []
    for _ in gone:  # each has size 1
        entry = boxes.indexed(entry, len(kept), 0)
    for at, axis in enumerate(right):
        if axis not in left:
            entry = boxes.repeated(entry, at, sizes[axis])
    return boxes.reshaped(entry, [_product(sizes, dim) for dim in pattern.right])


def _product(sizes: Mapping[str, int], axes: tuple[str, ...]) -> int:
    product = 1
    for axis in axes:
        product *= sizes[axis]
    return product
