"""Architectures as the search sees them, and the builds that show them.

Guarantees: a bounded number of builds within a bounded time, each value once, and it is kept whether a bound was met; a
constructor that refuses values is an answer and no error, and so is one that needs anything outside the process.
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
from ...keys.plan import Wanted, fits
from ...module.slots import slots, wanted
from .arguments import FLOAT, INT, SIZES, Knob
from .confined import Confined, apart

Values = Mapping[str, Any]
"""Argument → value; what is not in it has the constructor's default."""
Shape = tuple[int, ...]
Distance = tuple[int, int, float]
"""Keys without a partner, keys of another shape, and how much the sizes of these are off."""

_NUMBERS = re.compile(r"(\d+)")
_ANY = "#"
_FAR = 8.0


@dataclass(frozen=True)
class Seen:
    """The keys of one build."""

    wanted: Mapping[str, Wanted]

    @cached_property
    def sizes(self) -> dict[tuple[str, int], int]:
        """Every dimension of every key."""
        shaped = ((key, want.shape) for key, want in self.wanted.items() if want.shape is not None)
        return {(key, axis): size for key, shape in shaped for axis, size in enumerate(shape)}

    @cached_property
    def counts(self) -> Counter[str]:
        """How many keys there are of each name, by `counts`."""
        return counts(self.wanted)


def counts(keys: Mapping[str, object]) -> Counter[str]:
    """How many keys there are of each name: whatever the numbers in it, and whatever one of its numbers."""
    found: Counter[str] = Counter()
    for key in keys:
        pieces = _NUMBERS.split(key)
        found[_ANY.join(pieces[::2])] += 1
        if len(pieces) > 3:
            found.update("".join([*pieces[:at], _ANY, *pieces[at + 1 :]]) for at in range(1, len(pieces), 2))
    return found


@dataclass
class Probe:
    """Builds architectures."""

    build: Callable[[Values], nn.Module]
    most: int
    """How many builds there may be."""
    seconds: float
    """How long after the first build another may begin."""
    clock: Callable[[], float] = time.monotonic
    spent: int = 0
    refusal: LoaderError | None = None
    """What the last constructor that failed said."""
    outside: str = ""
    """What that constructor asked for outside the process; empty where it asked for nothing."""
    cut_off: bool = False
    """Whether a build was asked for that a bound did not allow."""
    _until: float | None = None
    _known: dict[str, Seen | None] = field(default_factory=dict)

    def see(self, values: Values) -> Seen | None:
        """The keys that a build with these values has; None where it fails, or where a bound was met."""
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
        """Whether it can be built with one argument more."""
        return self.see({**values, name: value}) is not None

    def _is_over(self) -> bool:
        return self.spent >= self.most or (self._until is not None and self.clock() >= self._until)

    def _built(self, values: Values) -> Seen | None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a constructor's word on values that nobody asked for
                return Seen(wanted(slots(self.made(values))))
        except LoaderError as refusal:
            self.refusal = refusal
            return None

    def made(self, values: Values) -> nn.Module:
        """The model itself, built apart from everything outside the process.

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
    """The tensors of a file, under the names that they would have in the model."""

    shapes: Mapping[str, Shape]
    rank: int = 0
    """How much the names assume (`Attempt.rank`); 0 where the file has them, but for wrappers and prefixes."""

    @cached_property
    def counts(self) -> Counter[str]:
        """How many keys there are of each name, by `counts`."""
        return counts(self.shapes)

    def distance(self, seen: Seen) -> Distance:
        """How far a build is from the file."""
        filled = {want.first for key, want in seen.wanted.items() if key in self.shapes}
        missing = sum(want.first not in filled for want in seen.wanted.values())
        extra = sum(key not in seen.wanted for key in self.shapes)
        wrong = [key for key, want in seen.wanted.items() if not self.fits(key, want)]
        return missing + extra, len(wrong), sum(self._off(key, seen) for key in wrong)

    def fits(self, key: str, want: Wanted) -> bool:
        """Whether a key of the model has the file's shape, or no partner in the file."""
        shape = self.shapes.get(key)
        return shape is None or fits(want.shape, shape)

    def _off(self, key: str, seen: Seen) -> float:
        mine, theirs = seen.wanted[key].shape or (), self.shapes[key]
        if len(mine) != len(theirs):
            return _FAR
        pairs = ((min(pair) + 1, max(pair) + 1) for pair in zip(mine, theirs, strict=True))
        return sum(1 - small / large for small, large in pairs)

    def size(self, key: str, axis: int, like: Seen) -> int | None:
        """The file's size of one dimension, where its tensor has as many dimensions as the model's."""
        shape, mine = self.shapes.get(key), like.wanted[key].shape
        return shape[axis] if shape is not None and mine is not None and len(shape) == len(mine) else None


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
