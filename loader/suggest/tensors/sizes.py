"""Tensors of another size: vocabularies, heads, first convolutions, position embeddings.

Guarantees: pure functions of names and shapes. All tensors of another size are explained together or nothing is
proposed. A resized tensor is never certain: rows that the file lacks are made up, and shapes do not say in which order
the others are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...keys.candidates import Shape
from ...text.wording import phrases, shape
from ..leftovers import BUFFERS
from . import roles
from .held import Held
from .patterns import globs
from .proposed import Proposed, shown

_MOST_MODULES = 4
_MOST_WAYS = 4
_POSITIONS = frozenset({"pos", "position", "positions", "positional", "wpe", "posemb", "posembed"})
_TABLES = frozenset({"relative", "rel"})
_PREFIXES = (0, 1, 2)
"""How many tokens a position embedding may have in front of its grid: for the class, and for distillation."""
_SUFFIXES = (0, 3)
"""The same behind the grid of a table of relative positions, for its class token."""


@dataclass(frozen=True, slots=True)
class _Change:
    """One tensor of another size."""

    key: str
    mine: Shape
    theirs: Shape

    @property
    def dims(self) -> list[int]:
        """The dims that differ."""
        return [dim for dim, (a, b) in enumerate(zip(self.mine, self.theirs, strict=True)) if a != b]

    @property
    def sizes(self) -> tuple[int, int]:
        """The model's and the file's size in the first of them."""
        return self.mine[self.dims[0]], self.theirs[self.dims[0]]


def resized(held: Held) -> Iterator[Proposed]:
    """Brings tensors of another size to the model's; several ways where several fit."""
    buffers = [key for key in held.crossed if key.rpartition(".")[2] in BUFFERS]
    changes = [_Change(key, *pair) for key, pair in held.crossed.items() if key not in buffers]
    if any(one.key in held.whole or len(one.mine) != len(one.theirs) for one in changes):
        return
    kinds: dict[str, list[_Change]] = {}
    for one in changes:
        kinds.setdefault(_kind(one), []).append(one)
    ways = [list(_ways(kind, alike)) for kind, alike in kinds.items()]
    allowed = tuple(dict.fromkeys(f"*.{key.rpartition('.')[2]}" if "." in key else key for key in buffers))
    for way in itertools.islice(itertools.product(*ways), _MOST_WAYS) if changes else ():
        rules = [
            {"resize": glob, **settings}
            for (settings, _), alike in zip(way, kinds.values(), strict=True)
            for glob in globs([one.key for one in alike], held.file) or [""]
        ]
        if all(rule["resize"] for rule in rules):
            reason = "; ".join(text for _, text in way)
            yield Proposed(tuple(rules), reason, certain=False, resizes=True, allowed=allowed)


def _kind(change: _Change) -> str:
    """Returns what another size probably means; empty if it is none of what `resize` changes."""
    words = roles.words(change.key.split("."))
    dims, rank = change.dims, len(change.mine)
    if not all((*change.mine, *change.theirs)):
        return ""
    if not _POSITIONS.isdisjoint(words) or (words and words[-1] == "pos"):
        relative = not _TABLES.isdisjoint(words)
        flat = len(dims) == 1 and dims[0] == (1 if rank == len("1NC") and change.mine[0] == 1 else 0)
        if relative:
            return "table" if flat and rank > 1 else ""
        return "picture" if len(dims) == 2 and rank == len("1CHW") else "positions" if flat else ""
    if dims == [1] and rank > 2:
        return "channels"
    return "rows" if dims == [0] else ""


_Way = tuple[Mapping[str, object], str]
"""Settings, and what they mean."""


def _ways(kind: str, alike: Sequence[_Change]) -> Iterator[_Way]:
    names = phrases([f"{shown(one.key)} {shape(one.theirs)} → {shape(one.mine)}" for one in alike])
    same = len({one.sizes for one in alike}) == 1
    if kind == "channels" and len(alike) == 1:
        yield {"by": "channels"}, f"input channels are summed or repeated: {names}"
    elif kind == "rows" and same and len({one.key.rpartition(".")[0] for one in alike}) <= _MOST_MODULES:
        yield {"by": "rows"}, f"rows that both have are copied: {names}"
    elif kind == "picture":
        yield {"by": "bicubic"}, f"resized as a picture: {names}"
    elif kind == "table":
        for suffix in _square(alike, _SUFFIXES):
            tokens = {"suffix": suffix} if suffix else {}
            yield {"by": "bicubic", **tokens}, f"resized as a table of relative positions: {names}"
    elif kind == "positions":
        yield from _positions(alike, names)


def _positions(alike: Sequence[_Change], names: str) -> Iterator[_Way]:
    """Yields the ways to resize position embeddings: as a square grid behind a few tokens, or as a line."""
    grids = _square(alike, _PREFIXES)
    for prefix in grids:
        tokens = {"prefix": prefix} if prefix else {}
        kept = f" after {prefix} of its own" if prefix else ""
        yield {"by": "bicubic", **tokens}, f"resized as a square grid of positions{kept}: {names}"
    flat = all(len(one.mine) == 2 for one in alike)
    if flat or not grids:
        yield {"by": "linear"}, f"resized as a line of positions: {names}"
    if flat:
        yield {"by": "rows"}, f"positions that both have are copied: {names}"


def _square(alike: Sequence[_Change], extra: Sequence[int]) -> list[int]:
    """Returns how many tokens may be apart from a grid, so that all grids are square."""
    return [more for more in extra if all(_is_square(size - more) for one in alike for size in one.sizes)]


def _is_square(size: int) -> bool:
    return size > 0 and math.isqrt(size) ** 2 == size
