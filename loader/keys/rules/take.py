"""The rule that takes some indices of a tensor: `take`.

Guarantees: as in `tensors`; an index outside the tensor is a fault and is never cut off.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...formats import boxes
from ...formats.tree import TensorEntry
from ...text.wording import safe_text
from . import boxed
from .boxed import NARROW
from .tensors import Mending, SelectingRule, Unfit, Unusable

_SLICE = re.compile(r"\s*(-?\d{1,18})?\s*:\s*(-?\d{1,18})?\s*(?::\s*(-?\d{1,18})?\s*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Take(SelectingRule):
    """Takes the indices of a list along `dim`, in that order, or those of a slice such as ``'1:'``."""

    take: str
    """A glob over keys."""
    index: str | list[int]
    """A list of indices, or a slice."""
    dim: int = 0
    """The dim that they count along."""
    example: ClassVar[Mapping[str, object]] = {"take": "head.*", "index": [7, 0, 3]}

    @property
    def reversible(self) -> bool:
        """False: what was not taken is gone."""
        return False

    def change(self) -> Callable[[TensorEntry], TensorEntry]:
        """Returns the function of one tensor; as in `SelectingRule`."""
        index = _slice(self.index) if isinstance(self.index, str) else self.index
        if not isinstance(index, slice) and not index:
            raise Unusable("'index' is an empty list, expected an index or more", Mending("index", ":"))

        def changed(entry: TensorEntry) -> TensorEntry:
            dim = boxed.place_of(self.dim, boxed.movable(entry).shape)
            return taken(entry, dim, indices(index, entry.shape[dim], dim))

        return changed


def _slice(text: str) -> slice:
    found = _SLICE.fullmatch(text)
    if found is None:
        number = [Mending("index", [int(text)])] if text.isascii() and text.isdigit() and len(text) < 19 else []
        fault = f"'index' is {safe_text(text)!r}, expected a list of whole numbers, or a slice such as '1:'"
        raise Unusable(fault, *number or [Mending("index", "1:")])
    start, stop, step = (None if one is None else int(one) for one in found.groups())
    if step is not None and step < 1:
        raise ValueError(f"'index' is {safe_text(text)!r}, expected a step from 1, or a list in another order")
    return slice(start, stop, step)


def indices(index: slice | Sequence[int], size: int, dim: int) -> Sequence[int]:
    """Returns the indices from 0 on; negative ones count from the end.

    Raises:
        Unfit: One is out of range, or there are none.
    """
    named = [index.start, index.stop] if isinstance(index, slice) else index
    last = size if isinstance(index, slice) else size - 1  # a slice may end behind the last index
    wrong = [one for one in named if one is not None and not -size <= one <= last]
    if wrong:
        raise Unfit([f"has no index {wrong[0]} along dim {dim}, expected {-size} to {last}"], NARROW)
    if not isinstance(index, slice):
        return [one % size for one in index]
    every = range(*index.indices(size))
    if not every:
        raise Unfit([f"has no index in {_written(index)} along dim {dim}, whose size is {size}"], NARROW)
    return every


def _written(index: slice) -> str:
    return ":".join("" if one is None else str(one) for one in (index.start, index.stop, index.step))


def taken(entry: TensorEntry, dim: int, every: Sequence[int]) -> TensorEntry:
    """Returns some indices of a dim, in order: one view for each run of evenly spaced ones."""
    pieces = [boxes.narrowed(entry, dim, start, length, step) for start, length, step in _runs(every)]
    return pieces[0] if len(pieces) == 1 else boxes.joined(pieces, dim)


def _runs(every: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yields the start, length and step of each run of indices; memory is never read backwards."""
    if isinstance(every, range):
        yield every.start, len(every), every.step
        return
    start, length, step = every[0], 1, 1
    for before, one in itertools.pairwise(every):
        if (length == 1 or one - before == step) and one >= before:
            length, step = length + 1, one - before
        else:
            yield start, length, step
            start, length, step = one, 1, 1
    yield start, length, step
