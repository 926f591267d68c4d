"""Weights that the file has transposed, as GPT-2's ``Conv1D`` keeps them.

Guarantees: pure functions of names and shapes. A matrix whose two sizes differ shows by itself that it is transposed; a
square one next to it does not, so there are two proposals, with and without it, and neither is certain. Nor is that of
a kernel, whose sides may be swapped or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

from ...keys.candidates import Shape
from ...text.wording import phrases
from ..layouts import WAYS, Way, doubted, ways
from ..names import group
from .held import Held, Joint
from .patterns import globs
from .proposed import Proposed, ready

_READY = "conv1d_gpt2"
"""The option with the rules for GPT-2's own names."""
_PIECES = "p"
"""The axis of the pieces of a tensor; no pattern of a way has it."""


def turned(held: Held) -> Iterator[Proposed]:
    """Transposes weights back: once as the shapes show, once with the square weights next to them."""
    crossed = {key: found for key, pair in held.crossed.items() if (found := ways(*pair))}
    squares = _squares(held, {key: held.crossed[key] for key in crossed})
    moves = {key: _Move(found[0].pattern) for key, found in crossed.items()}
    rules = _rules(moves, held)
    what = [f"transposed: {_named(moves)}"] if moves else []
    if moves and not rules:
        return
    if not squares:
        if rules:
            yield Proposed(rules, what[0], certain=all(_readings(*held.crossed[key]) == 1 for key in crossed))
        return
    yield Proposed(rules, "; ".join([*what, f"the square {_named(squares)} as in the file"]), certain=False)
    both = _rules(moves | squares, held)
    if both:
        also = f"and the square {_named(squares)} as well" if what else f"transposed: the square {_named(squares)}"
        yield Proposed(both, ", ".join([*what, also]), certain=False)


@dataclass(frozen=True, slots=True)
class _Move:
    """What `rearrange` does to a tensor."""

    pattern: str
    pieces: int | None = None
    """The size of the axis ``p``, of the pieces that a tensor is made of; None if the pattern has no such axis."""

    def rule(self, glob: str) -> Mapping[str, object]:
        axes = {"axes": {_PIECES: self.pieces}} if self.pieces is not None else {}
        return {"rearrange": glob, "pattern": self.pattern, **axes}


_PLAIN = _Move(WAYS[2][0].pattern)


def _squares(held: Held, crossed: Mapping[str, tuple[Shape, Shape]]) -> dict[str, _Move]:
    """Returns the weights that may be transposed although their shapes do not show it.

    A tensor of several pieces is judged by the shape of a piece. Pieces side by side in the last dim, where outputs
    are last, are in doubt without any transposed weight.
    """
    joints = {name: joint for name, joint in held.joints.items() if name in held.loaded}
    loaded = held.loaded | {name: joint.piece for name, joint in joints.items()}
    found = doubted(loaded, crossed)
    for name, joint in joints.items():
        known = next((way for way in WAYS.get(len(joint.piece), ()) if way.last and way.keeps(joint.piece)), None)
        if joint.is_last and known is not None and name not in held.whole:
            found.setdefault(name, known)
    return {name: _move(way, joints.get(name)) for name, way in found.items()}


def _move(way: Way, joint: Joint | None) -> _Move:
    """Writes a way as a pattern that moves each piece of a tensor by itself."""
    if joint is None or not joint.merged:
        return _Move(way.pattern)
    left, right = (side.split() for side in way.pattern.split("->"))
    for side in (left, right):
        side[joint.dim] = f"({_PIECES} {side[joint.dim]})"
    return _Move(f"{' '.join(left)} -> {' '.join(right)}", joint.count)


def _readings(mine: Shape, theirs: Shape) -> int:
    """Counts the orders of dims that turn one shape into the other."""
    return sum(tuple(theirs[axis] for axis in axes) == mine for axes in permutations(range(len(theirs))))


def _rules(moves: Mapping[str, _Move], held: Held) -> tuple[Mapping[str, object], ...]:
    """Writes the rules; none if they cannot name exactly these keys."""
    known = ready(_READY, list(moves), held.file) if set(moves.values()) == {_PLAIN} else ()
    if known:
        return known
    alike: dict[_Move, list[str]] = {}
    for key, move in moves.items():
        alike.setdefault(move, []).append(key)
    found = {move: globs(keys, held.file) for move, keys in alike.items()}
    return tuple(move.rule(glob) for move, each in found.items() for glob in each) if all(found.values()) else ()


def _named(keys: Iterable[str]) -> str:
    return phrases([found.pattern for found in group(dict.fromkeys(keys), star=False)])
