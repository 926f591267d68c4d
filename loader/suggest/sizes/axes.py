"""The numbers that can be moved, and what moves with them.

Guarantees: deterministic; what an architecture answers is asked of its constructor and never guessed from names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from .knobs import FLOAT, INT, SIZES, Knob
from .probe import Probe, Seen, Values

_LARGEST = 2**53
"""Beyond it, and where it is no number at all, a value cannot be reckoned with."""

Place = tuple[str, int]
"""A key and one of its dimensions."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A number among the arguments: a whole one, or one of a list."""

    knob: Knob
    index: int | None = None

    def value(self, values: Values) -> Any:
        """What it is now."""
        found = current(self.knob, values)
        return found if self.index is None else found[self.index]

    def at(self, values: Values, value: Any) -> dict[str, Any]:
        """The arguments with another number here."""
        if self.index is None:
            return {**values, self.knob.name: value}
        items = list(current(self.knob, values))
        items[self.index] = value
        return {**values, self.knob.name: items}


@dataclass(frozen=True, slots=True)
class Response:
    """What a build answers when one number is moved."""

    step: Fraction
    sizes: Mapping[Place, int]
    """By how much the dimensions change that do."""
    structure: bool
    """Whether there are other keys."""
    counts: Mapping[str, int]
    """By how much the numbers of keys of one name change that do."""


def current(knob: Knob, values: Values) -> Any:
    """An argument's value."""
    return values.get(knob.name, knob.default)


def axes(knobs: Sequence[Knob], values: Values) -> list[Axis]:
    """The numbers among the arguments."""
    found = []
    for knob in knobs:
        value = current(knob, values)
        if knob.kind in (INT, FLOAT) and _is_number(value):
            found.append(Axis(knob))
        elif knob.kind == SIZES and isinstance(value, list | tuple) and all(map(_is_number, value)):
            found += [Axis(knob, index) for index in range(len(value))]
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST


def respond(probe: Probe, values: Values, axis: Axis, seen: Seen) -> Response | None:
    """What moves with a number; None where no other value of it can be built."""
    value = axis.value(values)
    quiet = None
    for other in _others(axis, value):
        moved = probe.see(axis.at(values, other))
        if moved is None:
            continue
        response = _compared(seen, moved, Fraction(other) - Fraction(value))
        if response.structure or response.sizes:
            return response
        if quiet is not None:
            break
        quiet = response
    return quiet


def _others(axis: Axis, value: Any) -> list[Any]:
    """Values to compare with, one that divides well first."""
    if axis.knob.kind == FLOAT:
        return [other for other in (value * 2, value / 2) if abs(other) < _LARGEST] if value else [0.5]
    tried = dict.fromkeys((value * 2, value * 3, value + 1, value + 2, value + 8, value - 1, value // 2, 1))
    return [other for other in tried if other > 0 and other != value]


def _compared(seen: Seen, moved: Seen, step: Fraction) -> Response:
    before, after = seen.sizes, moved.sizes
    sizes = {place: after[place] - size for place, size in before.items() if after.get(place, size) != size}
    names = {*seen.counts, *moved.counts}
    changes = {name: moved.counts[name] - seen.counts[name] for name in sorted(names)}
    structure = seen.wanted.keys() != moved.wanted.keys()
    return Response(step, sizes, structure, {name: change for name, change in changes.items() if change})
