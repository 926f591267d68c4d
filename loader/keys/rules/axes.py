"""The notation of einops for shapes: ``(h d r) i -> (h r d) i``.

Guarantees: what cannot work with any tensor is a ValueError; sizes are solved exactly or the tensor is refused.
An axis is a name, a number (its size, mostly 1), or one of those that ``...`` stands for; parentheses join axes to a
dim, the last running fastest.

Source: einops (Rogozhnikov, "Einops: Clear and Reliable Tensor Manipulations with Einstein-like Notation", ICLR 2022).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...text.wording import counted, listing, safe_text
from .boxed import NARROW
from .tensors import Mending, Unfit, Unusable

Side = tuple[tuple[str, ...], ...]
"""The axes of each dim."""

_TOKEN = re.compile(r"\s*(\.\.\.|[A-Za-z]\w*|\d+|[()])", re.ASCII)
_ELLIPSIS = "..."
_LONGEST = 500
_EXAMPLE = "'(h d r) i -> (h r d) i'"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Both sides of an expression; numbers have become axes with names of their own."""

    left: Side
    right: Side
    sizes: Mapping[str, int]
    """The sizes of the axes that are known from the expression."""

    def axes(self, side: Side) -> list[str]:
        """Returns the axes of a side, in order, without ``...``."""
        return [axis for dim in side for axis in dim if axis != _ELLIPSIS]

    def for_rank(self, rank: int) -> Pattern:
        """Returns the expression with ``...`` written out; raises Unfit for another number of dims."""
        open_ = (_ELLIPSIS,) in self.left
        least = len(self.left) - open_
        if rank < least or (rank > least and not open_):
            expected = f"{least} or more" if open_ else str(least)
            raise Unfit([f"has {counted(rank, 'dim')}, but the left side of the pattern has {expected}"], NARROW)
        every = tuple(f"{_ELLIPSIS}{at}" for at in range(rank - least))
        left, right = (tuple(_written_out(side, every)) for side in (self.left, self.right))
        return Pattern(left, right, self.sizes)

    def solved(self, shape: Sequence[int]) -> dict[str, int]:
        """Returns the size of every axis, for a shape with as many dims as the left side.

        Raises:
            Unfit: The shape contradicts the sizes that are known.
        """
        sizes = dict(self.sizes)
        for at, (dim, size) in enumerate(zip(self.left, shape, strict=True)):
            known = math.prod(sizes[axis] for axis in dim if axis in sizes)
            unknown = [axis for axis in dim if axis not in sizes]
            if (size % known if unknown else size != known) or (unknown and not known):
                parts = " · ".join(f"{axis} = {sizes[axis]}" if axis in sizes else axis for axis in dim) or "1"
                raise Unfit([f"does not fit the pattern: dim {at} is {size}, expected {_plain(parts)}"], NARROW)
            if unknown:
                sizes[unknown[0]] = size // known
        return sizes


def _written_out(side: Side, every: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for dim in side:
        if dim == (_ELLIPSIS,):
            yield from ((axis,) for axis in every)
        else:
            yield tuple(axis for one in dim for axis in (every if one == _ELLIPSIS else [one]))


def _plain(parts: str) -> str:
    """Removes the names of axes that are numbers in the expression."""
    return re.sub(r"#\d+ = ", "", parts)


def parsed(text: str, sizes: Mapping[str, int], *, reducing: bool) -> Pattern:
    """Parses an expression.

    Args:
        text: The expression.
        sizes: The sizes of axes, by name.
        reducing: Whether axes of the left side may be absent on the right.

    Raises:
        ValueError: It is malformed, or an axis has no size.
    """
    sides = text.split("->")
    if len(sides) != 2 or len(text) > _LONGEST:
        raise _malformed(text, "expected two sides" if len(text) <= _LONGEST else "it is too long")
    numbers, known = itertools.count(), dict(sizes)
    left, right = (_side(text, one, numbers, known) for one in sides)
    pattern = Pattern(left, right, known)
    _check(text, pattern, sizes, reducing=reducing)
    return pattern


def _side(text: str, side: str, numbers: Iterator[int], known: dict[str, int]) -> Side:
    dims, at = list[tuple[str, ...]](), 0
    inside: list[str] | None = None
    while side[at:].strip():
        found = _TOKEN.match(side, at)
        if found is None:
            raise _malformed(text, f"{side[at:].strip()[0]!r} has no meaning there")
        mark, at = found[1], found.end()
        if mark == "(" and inside is None:
            inside = []
        elif mark == ")" and inside is not None:
            dims.append(tuple(inside))
            inside = None
        elif mark in "()":
            raise _malformed(text, "parentheses do not match")
        else:
            axis = f"#{next(numbers)}" if mark.isdigit() else mark
            if mark.isdigit():
                known[axis] = _size(text, mark)
            if inside is None:
                dims.append((axis,))
            else:
                inside.append(axis)
    if inside is not None:
        raise _malformed(text, "parentheses do not match")
    return tuple(dims)


def _size(text: str, mark: str) -> int:
    if len(mark) > 18 or not int(mark):
        raise _malformed(text, f"{mark} is not a size")
    return int(mark)


def _check(text: str, pattern: Pattern, sizes: Mapping[str, int], *, reducing: bool) -> None:
    """Raises ValueError for axes that no tensor can give a size or a place."""
    left, right = pattern.axes(pattern.left), pattern.axes(pattern.right)
    for side in (pattern.left, pattern.right):
        counts = Counter(axis for dim in side for axis in dim)
        if twice := [axis for axis, count in counts.items() if count > 1]:
            raise _malformed(text, f"{listing(twice)} occurs twice on one side")
    if any(_ELLIPSIS in dim and len(dim) > 1 for dim in pattern.left):
        raise _malformed(text, "'...' in parentheses has no meaning on the left")
    has = [any(_ELLIPSIS in dim for dim in side) for side in (pattern.left, pattern.right)]
    if has[0] != has[1] and not (has[0] and reducing):
        raise _malformed(text, "'...' is on one side only")
    if unused := [axis for axis in sizes if axis not in {*left, *right}]:
        kept = {axis: size for axis, size in sizes.items() if axis not in unused}
        fault = f"'axes' has {listing(unused)}, which the pattern {safe_text(text)!r} does not have"
        raise Unusable(fault, Mending("axes", kept))
    for dim in pattern.left:
        if len(open_ := [axis for axis in dim if axis not in pattern.sizes]) > 1:
            fault = f"the sizes of {listing(open_)} are unknown, expected all but one in 'axes'"
            raise Unusable(fault, Mending(f"axes.{open_[-1]}", 2))
    if new := [axis for axis in right if axis not in left and axis not in pattern.sizes]:
        fault = f"{listing(new)} is new on the right and has no size, expected one in 'axes'"
        raise Unusable(fault, Mending(f"axes.{new[0]}", 2))
    gone = [axis for axis in left if axis not in right and pattern.sizes.get(axis) != 1]
    if gone and not reducing:
        shown = [str(pattern.sizes[axis]) if axis.startswith("#") else axis for axis in gone]
        fault = f"{listing(shown)} disappears on the right, expected 'reduce': sum or mean"
        raise Unusable(fault, Mending("reduce", "sum"))


def _malformed(text: str, reason: str) -> ValueError:
    return ValueError(f"the pattern {safe_text(text)!r} is malformed: {reason} (a valid one is {_EXAMPLE})")
