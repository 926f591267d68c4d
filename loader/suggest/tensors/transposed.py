"""Weights that the file has transposed, as GPT-2's ``Conv1D`` keeps them.

Guarantees: pure functions of names and shapes. A matrix whose two sizes differ shows by itself that it is transposed; a
square one next to it does not, so there are two proposals, with and without it, and neither is certain. Nor is that of
a kernel, whose sides may be swapped or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations

from ...keys.candidates import Shape
from ...text.wording import phrases
from ..names import group
from ..nature import doubted
from .held import Held
from .patterns import globs
from .proposed import Proposed, ready

_WAYS: Mapping[int, Sequence[tuple[str, tuple[int, ...]]]] = {
    2: [("i o -> o i", (1, 0))],
    3: [("e i o -> e o i", (0, 2, 1)), ("i o k -> o i k", (1, 0, 2)), ("k i o -> o i k", (2, 1, 0))],
    4: [("i o h w -> o i h w", (1, 0, 2, 3)), ("h w i o -> o i h w", (3, 2, 0, 1))],
    5: [("i o d h w -> o i d h w", (1, 0, 2, 3, 4)), ("d h w i o -> o i d h w", (4, 3, 0, 1, 2))],
}
"""Number of dims → the ways in which libraries keep a weight, as patterns from the file's to the model's."""

_READY = "conv1d_gpt2"
"""The option with the rules for GPT-2's own names."""


def turned(held: Held) -> Iterator[Proposed]:
    """Transposes weights back: once as the shapes show, once with the square weights next to them."""
    ways: dict[str, list[str]] = {}
    open_ = False
    for key, (mine, theirs) in held.crossed.items():
        fitting = [pattern for pattern, axes in _WAYS.get(len(theirs), ()) if _moved(theirs, axes) == mine]
        if not fitting:
            continue
        ways.setdefault(fitting[0], []).append(key)
        open_ = open_ or _readings(mine, theirs) > 1
    crossed = {key: held.crossed[key][0] for keys in ways.values() for key in keys}
    rules = _rules(ways, held)
    if not rules:
        return
    squares = doubted(held.loaded, crossed)
    what = f"transposed: {_named(crossed)}"
    if not squares:
        yield Proposed(rules, what, certain=not open_)
        return
    yield Proposed(rules, f"{what}; the square {_named(squares)} as in the file", certain=False)
    for square in squares:
        pattern = next((own for own, keys in ways.items() if len(crossed[keys[0]]) == len(held.loaded[square])), None)
        if pattern is not None:
            ways[pattern].append(square)
    both = _rules(ways, held)
    if both:
        yield Proposed(both, f"{what}, and the square {_named(squares)} as well", certain=False)


def _moved(shape: Shape, axes: Sequence[int]) -> Shape:
    return tuple(shape[axis] for axis in axes)


def _readings(mine: Shape, theirs: Shape) -> int:
    """Counts the orders of dims that turn one shape into the other."""
    return sum(_moved(theirs, axes) == mine for axes in permutations(range(len(theirs))))


def _rules(ways: Mapping[str, Sequence[str]], held: Held) -> tuple[Mapping[str, object], ...]:
    """Writes the rules; none if they cannot name exactly these keys."""
    known = ready(_READY, next(iter(ways.values())), held.file) if len(ways) == 1 else ()
    if known:
        return known
    rules: list[Mapping[str, object]] = []
    for pattern, keys in ways.items():
        found = globs(keys, held.file)
        if not found:
            return ()
        rules += [{"rearrange": glob, "pattern": pattern} for glob in found]
    return tuple(rules)


def _named(keys: Mapping[str, Shape] | Sequence[str]) -> str:
    return phrases([found.pattern for found in group(dict.fromkeys(keys), star=False)])
