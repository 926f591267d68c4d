"""Finds the arguments that decide which keys there are, and how large their tensors are.

Guarantees: an argument that decides keys (a depth, a flag, the length of a list) takes a value only where it brings
the keys closer to the file's. A number is moved to where the dimensions that depend on it alone have the file's sizes;
a dimension that several numbers decide is taken up when all but one of them are settled.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from .arguments import CHOICE, FLOAT, INT, SIZES, Knob
from .probe import Axis, Goal, Place, Probe, Response, Seen, Values, axes, current, respond

_ROUNDS = 16
_LARGEST = 2**31
_DIGITS = 10
"""Decimal places of a ratio."""
_GUESS = 8
"""A number to start with if the constructor has none."""

_Votes = dict[Axis, Counter[int | float]]


def settle_sizes(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values) -> dict[str, Any]:
    """Returns the arguments that bring the shapes as close to the file's as possible."""
    best = dict(values)
    for _ in range(_ROUNDS):
        seen = probe.see(best)
        if seen is None or goal.distance(seen)[1] == 0:
            break
        found = next(_closer(probe, goal, knobs, best, seen), None)
        if found is None:
            break
        best = found
    return best


def _closer(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen) -> Iterator[dict[str, Any]]:
    """Yields arguments with which more fits."""
    moves = _Moves(goal, seen, values, _responses(probe, knobs, values, seen))
    for attempt in itertools.chain(_attempts(knobs, moves, moves.found()), _apart(probe, knobs, moves)):
        tried = probe.see(attempt)
        if tried is not None and goal.distance(tried) < goal.distance(seen):
            yield attempt


def _responses(probe: Probe, knobs: Sequence[Knob], values: Values, seen: Seen) -> dict[Axis, Response]:
    found = {axis: respond(probe, values, axis, seen) for axis in axes(knobs, values)}
    return {axis: response for axis, response in found.items() if response is not None}


def _attempts(knobs: Sequence[Knob], situation: _Moves, moves: Mapping[Axis, int | float]) -> Iterator[dict[str, Any]]:
    """Yields all moves at once, as sizes often must divide each other; a number that moves nothing may be a divisor."""
    values = situation.values
    together = dict(values)
    for axis, value in moves.items():
        together = axis.at(together, value)
    yield together
    still = [a for a in axes(knobs, values) if a.knob.kind == INT and a not in situation.moving]
    yield from (axis.at(together, 1) for axis in still if axis.value(values) != 1)
    yield from (axis.at(values, value) for axis, value in moves.items() if len(moves) > 1)
    # If a size grows with a power of a number, or in steps, the first move falls short.
    further = [(axis, value, value - axis.value(values)) for axis, value in moves.items() if axis.knob.kind == INT]
    beyond = [(axis, value + n * step) for axis, value, step in further for n in (1, 2)]
    yield from (axis.at(values, value) for axis, value in beyond if value > 0)
    unset = [knob for knob in knobs if knob.kind == INT and current(knob, values) is None]
    yield from ({**together, knob.name: _GUESS} for knob in unset)


def _apart(probe: Probe, knobs: Sequence[Knob], situation: _Moves) -> Iterator[dict[str, Any]]:
    """Sets one of the numbers that share a dimension to 1, so that the others can be found."""
    whole = (axis for axis in situation.responses if axis in situation.moving and axis.knob.kind == INT)
    for axis in whole:
        if axis.value(situation.values) == 1:
            continue
        values = axis.at(situation.values, 1)
        seen = probe.see(values)
        if seen is not None:
            after = _Moves(situation.goal, seen, values, _responses(probe, knobs, values, seen))
            yield from _attempts(knobs, after, after.found(axis))


@dataclass(frozen=True)
class _Moves:
    """The values of numbers with which the dimensions that depend on them have the file's sizes."""

    goal: Goal
    seen: Seen
    values: Values
    responses: Mapping[Axis, Response]

    @cached_property
    def movers(self) -> dict[Place, list[Axis]]:
        """The numbers that each dimension depends on."""
        movers: dict[Place, list[Axis]] = {}
        for axis, response in self.responses.items():
            for place in response.sizes:
                movers.setdefault(place, []).append(axis)
        return movers

    @property
    def moving(self) -> set[Axis]:
        """The numbers that some dimension depends on."""
        return {axis for axis, response in self.responses.items() if response.sizes}

    def found(self, *pinned: Axis) -> dict[Axis, int | float]:
        """Returns the moves that can be found now; others may follow from them. The pinned numbers stay."""
        settled = set(pinned)
        while True:
            votes = self._alone(settled) or self._with_defaults(settled) or self._first(settled)
            chosen = {axis: tally.most_common(1)[0][0] for axis, tally in votes.items()}
            moves = {axis: value for axis, value in chosen.items() if value != axis.value(self.values)}
            if moves or not chosen:
                return moves
            settled |= chosen.keys()

    def _alone(self, settled: set[Axis]) -> _Votes:
        """Lets the dimensions vote that depend on only one number that is not settled."""
        votes: _Votes = {}
        for place, moving in self.movers.items():
            free = [axis for axis in moving if axis not in settled]
            if len(free) == 1:
                self._vote(votes, free[0], place)
        return votes

    def _with_defaults(self, settled: set[Axis]) -> _Votes:
        """Does the same, with every argument that has a default keeping it."""
        return self._alone({*settled, *(axis for axis in self.responses if not axis.knob.required)})

    def _first(self, settled: set[Axis]) -> _Votes:
        """Votes for one number, if several share every dimension that is wrong."""
        for place, moving in self.movers.items():
            for axis in (axis for axis in moving if axis not in settled):
                exact = self._exact(axis, place)
                if exact is not None and exact > 0 and exact.denominator == 1 and exact != axis.value(self.values):
                    return {axis: Counter([int(exact)])}
        return {}

    def _vote(self, votes: _Votes, axis: Axis, place: Place) -> None:
        exact = self._exact(axis, place)
        if exact is None:
            return
        found = round(float(exact), _DIGITS) if axis.knob.kind == FLOAT else round(exact)
        if 0 < found < _LARGEST:
            votes.setdefault(axis, Counter())[found] += 1

    def _exact(self, axis: Axis, place: Place) -> Fraction | None:
        """Returns the value with which a dimension has the file's size, by linear extrapolation."""
        wanted = self.goal.size(*place, self.seen)
        if wanted is None:
            return None
        response = self.responses[axis]
        away = (wanted - self.seen.sizes[place]) * response.step / response.sizes[place]
        return Fraction(axis.value(self.values)) + away


_DEEPEST = 1024
_PASSES = 4


def settle_structure(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values) -> dict[str, Any]:
    """Returns the arguments that bring the keys as close to the file's as possible, one argument after another."""
    best, seen = dict(values), probe.see(values)
    for _ in range(_PASSES):
        before = best
        for knob in knobs:
            if seen is None or goal.distance(seen)[0] == 0:
                return best
            while (closer := _nearer(probe, goal, knob, best, seen)) is not None:
                best, seen = closer
        if best == before:
            break
    return best


def _nearer(probe: Probe, goal: Goal, knob: Knob, values: Values, seen: Seen) -> tuple[dict[str, Any], Seen] | None:
    """Returns the best candidate; None unless it is better than the present values."""
    tried = [(other, found) for other in _candidates(probe, goal, knob, values, seen) if (found := probe.see(other))]
    best = min(tried, key=lambda pair: goal.distance(pair[1])[0], default=None)
    return best if best is not None and goal.distance(best[1])[0] < goal.distance(seen)[0] else None


def _candidates(probe: Probe, goal: Goal, knob: Knob, values: Values, seen: Seen) -> Iterator[dict[str, Any]]:
    value = current(knob, values)
    if knob.kind == CHOICE:
        yield from ({**values, knob.name: choice} for choice in knob.choices if choice != value)
    elif value is None and knob.kind in (INT, FLOAT):
        yield {**values, knob.name: _GUESS}
    elif knob.kind in (INT, SIZES):
        if knob.kind == SIZES and value:
            lengths = _lengths(probe, goal, knob, values, seen)
            fills = dict.fromkeys((value[-1], 1))
            yield from ({**values, knob.name: stretched(value, n, fill)} for n in lengths for fill in fills)
        for axis in axes([knob], values):
            depths = _depths(respond(probe, values, axis, seen), axis.value(values), goal, seen)
            yield from (axis.at(values, depth) for depth in depths)
        if knob.kind == INT and value and any(count > goal.counts[name] for name, count in seen.counts.items()):
            yield {**values, knob.name: 0}  # how builders leave a part out: num_classes=0 is a network without its head


def _lengths(probe: Probe, goal: Goal, knob: Knob, values: Values, seen: Seen) -> list[int]:
    """Returns the lengths of a list with which there are as many keys as in the file."""
    length = len(current(knob, values))
    longer = probe.see({**values, knob.name: stretched(current(knob, values), length + 1, 1)})
    if longer is None:
        return []
    changes = {name: count - seen.counts[name] for name, count in longer.counts.items() if count != seen.counts[name]}
    return _depths(Response(Fraction(1), {}, True, changes), length, goal, seen)


def _depths(response: Response | None, value: int, goal: Goal, seen: Seen) -> list[int]:
    """Returns the values with which there are as many keys of some name as in the file, most names first."""
    if response is None or not response.structure:
        return []
    votes: dict[int, int] = {}
    for name, change in response.counts.items():
        wanted = value + Fraction(goal.counts[name] - seen.counts[name]) * response.step / change
        if wanted.denominator == 1 and 0 < wanted <= _DEEPEST and wanted != value:
            votes[int(wanted)] = votes.get(int(wanted), 0) + 1
    return sorted(votes, key=lambda depth: (-votes[depth], depth))


def stretched(items: Sequence[int], length: int, fill: int) -> list[int]:
    """Returns the list with another length."""
    return [*items, *[fill] * (length - len(items))][:length]
