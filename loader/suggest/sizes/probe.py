"""Trial builds of an architecture: its keys and shapes, and how these move with the arguments.

Guarantees: a bounded number of builds within a bounded time, each set of values once; it is known whether a bound was
met. A constructor that refuses values, or needs anything outside the process, is an answer and not an error. What moves
with an argument is asked of the constructor and never guessed from names.
"""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

from torch import nn

from ...errors import LoaderError
from ...keys.candidates import Shape
from ...keys.plan import Wanted, fits
from ...module.slots import slots, wanted
from .arguments import FLOAT, INT, SIZES, Knob
from .confined import Confined, apart

Values = Mapping[str, Any]
"""Argument → value; all others have the constructor's defaults."""

Distance = tuple[int, int, float]
"""Number of keys without a partner, of keys with another shape, and how far off the sizes of these are."""

_NUMBERS = re.compile(r"(\d+)")
_ANY = "#"
_FAR = 8.0


@dataclass(frozen=True)
class Seen:
    """The keys of one build."""

    wanted: Mapping[str, Wanted]

    @cached_property
    def sizes(self) -> dict[tuple[str, int], int]:
        """The size of every dimension of every key."""
        shaped = ((key, want.shape) for key, want in self.wanted.items() if want.shape is not None)
        return {(key, axis): size for key, shape in shaped for axis, size in enumerate(shape)}

    @cached_property
    def counts(self) -> Counter[str]:
        """The number of keys of each name, by `counts`."""
        return counts(self.wanted)


def counts(keys: Mapping[str, object]) -> Counter[str]:
    """Counts the keys of each name: with any numbers in it, and with any value of one of its numbers."""
    found: Counter[str] = Counter()
    for key in keys:
        pieces = _NUMBERS.split(key)
        found[_ANY.join(pieces[::2])] += 1
        if len(pieces) > 3:
            found.update("".join([*pieces[:at], _ANY, *pieces[at + 1 :]]) for at in range(1, len(pieces), 2))
    return found


@dataclass
class Probe:
    """Builds an architecture with trial values of its arguments."""

    build: Callable[[Values], nn.Module]
    most: int
    """The largest number of builds."""
    seconds: float
    """The time after the first build in which another may begin."""
    clock: Callable[[], float] = time.monotonic
    spent: int = 0
    refusal: LoaderError | None = None
    """The refusal of the last constructor that failed."""
    outside: str = ""
    """What that constructor asked for outside the process; empty if nothing."""
    cut_off: bool = False
    """Whether a bound prevented a build."""
    _until: float | None = None
    _known: dict[str, Seen | None] = field(default_factory=dict)

    def see(self, values: Values) -> Seen | None:
        """Builds with these values and returns its keys; None if it fails, or a bound was met."""
        name = repr(sorted(values.items()))
        if name not in self._known:
            if self._is_over():
                self.cut_off = True
                return None
            self.spent += 1
            self._known[name] = self._built(values)
            if self._until is None:
                self._until = self.clock() + self.seconds
        return self._known[name]

    def takes(self, values: Values, name: str, value: object) -> bool:
        """Whether it can be built with one more argument."""
        return self.see({**values, name: value}) is not None

    def _is_over(self) -> bool:
        return self.spent >= self.most or (self._until is not None and self.clock() >= self._until)

    def _built(self, values: Values) -> Seen | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about values that the user did not choose
                return Seen(wanted(slots(self.made(values))))
        except LoaderError as refusal:
            self.refusal = refusal
            return None

    def made(self, values: Values) -> nn.Module:
        """Builds the model itself, confined to the process.

        Raises:
            ConfigError: The constructor fails, or asks for something outside.
        """
        asked = Confined()
        try:
            return apart(lambda: self.build(values), asked)
        except LoaderError:
            self.outside = asked.refused
            raise


@dataclass(frozen=True)
class Goal:
    """A file's tensors, under the names that they would have in the model."""

    shapes: Mapping[str, Shape]
    rank: int = 0
    """How much the names assume (`Attempt.rank`); 0 if only wrappers and prefixes differ from the file."""

    @cached_property
    def counts(self) -> Counter[str]:
        """The number of keys of each name, by `counts`."""
        return counts(self.shapes)

    def distance(self, seen: Seen) -> Distance:
        """Returns how far a build is from the file."""
        filled = {want.first for key, want in seen.wanted.items() if key in self.shapes}
        missing = sum(want.first not in filled for want in seen.wanted.values())
        extra = sum(key not in seen.wanted for key in self.shapes)
        wrong = [key for key, want in seen.wanted.items() if not self.fits(key, want)]
        return missing + extra, len(wrong), sum(self._off(key, seen) for key in wrong)

    def fits(self, key: str, want: Wanted) -> bool:
        """Whether a model key has the file's shape, or no partner in the file."""
        shape = self.shapes.get(key)
        return shape is None or fits(want.shape, shape)

    def _off(self, key: str, seen: Seen) -> float:
        mine, theirs = seen.wanted[key].shape or (), self.shapes[key]
        if len(mine) != len(theirs):
            return _FAR
        pairs = ((min(pair) + 1, max(pair) + 1) for pair in zip(mine, theirs, strict=True))
        return sum(1 - small / large for small, large in pairs)

    def size(self, key: str, axis: int, like: Seen) -> int | None:
        """Returns the file's size of one dimension; None unless its tensor has as many dimensions as the model's."""
        shape, mine = self.shapes.get(key), like.wanted[key].shape
        return shape[axis] if shape is not None and mine is not None and len(shape) == len(mine) else None


_LARGEST = 2**53
"""Larger values, infinities and NaN are left alone."""

Place = tuple[str, int]
"""A key and one of its dimensions."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A number among the arguments: an argument, or an item of a list."""

    knob: Knob
    index: int | None = None

    def value(self, values: Values) -> Any:
        """Returns its present value."""
        found = current(self.knob, values)
        return found if self.index is None else found[self.index]

    def at(self, values: Values, value: Any) -> dict[str, Any]:
        """Returns the arguments with another number here."""
        if self.index is None:
            return {**values, self.knob.name: value}
        items = list(current(self.knob, values))
        items[self.index] = value
        return {**values, self.knob.name: items}


@dataclass(frozen=True, slots=True)
class Response:
    """The changes in a build when one number is moved."""

    step: Fraction
    sizes: Mapping[Place, int]
    """The dimensions that change, and by how much."""
    structure: bool
    """Whether the keys differ."""
    counts: Mapping[str, int]
    """The names whose number of keys changes, and by how much."""


def current(knob: Knob, values: Values) -> Any:
    """Returns an argument's value."""
    return values.get(knob.name, knob.default)


def axes(knobs: Sequence[Knob], values: Values) -> list[Axis]:
    """Returns the numbers among the arguments."""
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
    """Returns what moves with a number; None if no other value of it can be built."""
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
    """Returns values to compare with, first one that divides well."""
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
