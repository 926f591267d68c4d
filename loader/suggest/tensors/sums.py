"""Shapes that add up to another along one dim.

Guarantees: pure functions of shapes; the work depends on the number of different shapes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...keys.candidates import Shape


def dim_of(pieces: Sequence[Shape], fused: Shape) -> int | None:
    """Returns the dim in which pieces add up to a fused tensor; None if they do not."""
    for dim in range(len(fused)):
        rests = {(*shape[:dim], *shape[dim + 1 :]) for shape in (*pieces, fused)}
        if len(rests) == 1 and sum(shape[dim] for shape in pieces) == fused[dim] and all(s[dim] for s in pieces):
            return dim
    return None


def joinable(whole: Iterable[Shape], apart: Iterable[Shape]) -> set[Shape]:
    """Returns the shapes that some of the others, all but one of whose dims are the same, may add up to."""
    smallest: dict[tuple[int, Shape], int] = {}
    for shape in set(apart):
        for dim, size in enumerate(shape):
            rest = dim, (*shape[:dim], *shape[dim + 1 :])
            smallest[rest] = min(size, smallest.get(rest, size))
    return {
        shape
        for shape in set(whole)
        if any(
            2 * smallest.get((dim, (*shape[:dim], *shape[dim + 1 :])), size) <= size for dim, size in enumerate(shape)
        )
    }
