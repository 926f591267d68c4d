"""Finds the arguments that decide how large the tensors are.

Guarantees: a number is moved to where the dimensions that depend on it alone have the file's sizes; what several
numbers decide together is taken up when all but one of them are settled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from loader.infer.axes import Axis, Place, Response, axes, current, respond
from loader.infer.knobs import FLOAT, INT, Knob
from loader.infer.probe import Goal, Probe, Seen, Values

_ROUNDS = 16
_LARGEST = 2**31
_DIGITS = 10
"""To how many digits behind the point a ratio is told."""
_GUESS = 8

_Votes = dict[Axis, Counter[int | float]]


def settle_sizes(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values) -> dict[str, Any]:
    """The arguments under which the shapes are as close to the file's as they get."""
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
    """Arguments under which more fits."""
    numbers = axes(knobs, values)
    responses = {axis: found for axis in numbers if (found := respond(probe, values, axis, seen)) is not None}
    moves = _Moves(goal, seen, values, responses).found()
    together = dict(values)
    for axis, value in moves.items():
        together = axis.at(together, value)
    for attempt in _attempts(knobs, numbers, values, moves, together, responses):
        tried = probe.see(attempt)
        if tried is not None and goal.distance(tried) < goal.distance(seen):
            yield attempt


def _attempts(
    knobs: Sequence[Knob],
    numbers: Sequence[Axis],
    values: Values,
    moves: Mapping[Axis, int | float],
    together: Values,
    responses: Mapping[Axis, Response],
) -> Iterator[dict[str, Any]]:
    """All moves at once, since sizes often have to divide each other; what moves nothing may be such a divisor."""
    yield dict(together)
    still = [a for a in numbers if a.knob.kind == INT and not (a in responses and responses[a].sizes)]
    yield from (axis.at(together, 1) for axis in still if axis.value(values) != 1)
    yield from (axis.at(values, value) for axis, value in moves.items() if len(moves) > 1)
    # Where a size grows with a power of a number, or in steps, the first move falls short.
    further = [(axis, value, value - axis.value(values)) for axis, value in moves.items() if axis.knob.kind == INT]
    yield from (axis.at(values, value + n * step) for axis, value, step in further for n in (1, 2) if value + n * step > 0)
    unset = [knob for knob in knobs if knob.kind == INT and current(knob, values) is None]
    yield from ({**together, knob.name: _GUESS} for knob in unset)


@dataclass(frozen=True)
class _Moves:
    """Where numbers have to go so that the dimensions that depend on them have the file's sizes."""

    goal: Goal
    seen: Seen
    values: Values
    responses: Mapping[Axis, Response]

    @cached_property
    def movers(self) -> dict[Place, list[Axis]]:
        """What each dimension depends on."""
        movers: dict[Place, list[Axis]] = {}
        for axis, response in self.responses.items():
            for place in response.sizes:
                movers.setdefault(place, []).append(axis)
        return movers

    def found(self) -> dict[Axis, int | float]:
        """The moves of the numbers that can be told now; after them others may be."""
        settled: set[Axis] = set()
        while True:
            votes = self._alone(settled) or self._beside_defaults(settled) or self._first(settled)
            chosen = {axis: tally.most_common(1)[0][0] for axis, tally in votes.items()}
            moves = {axis: value for axis, value in chosen.items() if value != axis.value(self.values)}
            if moves or not chosen:
                return moves
            settled |= chosen.keys()

    def _alone(self, settled: set[Axis]) -> _Votes:
        """The votes of the dimensions that depend on one number, beside those that are settled."""
        votes: _Votes = {}
        for place, moving in self.movers.items():
            free = [axis for axis in moving if axis not in settled]
            if len(free) == 1:
                self._vote(votes, free[0], place)
        return votes

    def _beside_defaults(self, settled: set[Axis]) -> _Votes:
        """The same, with every argument that has a default keeping it."""
        return self._alone({*settled, *(axis for axis in self.responses if not axis.knob.required)})

    def _first(self, settled: set[Axis]) -> _Votes:
        """The votes for one number, where several share every dimension that is not right."""
        votes: _Votes = {}
        for place, moving in self.movers.items():
            free = [axis for axis in moving if axis not in settled]
            if free and not votes and self.goal.size(*place, self.seen) not in (None, self.seen.sizes[place]):
                self._vote(votes, free[0], place)
        return votes

    def _vote(self, votes: _Votes, axis: Axis, place: Place) -> None:
        wanted = self.goal.size(*place, self.seen)
        if wanted is None:
            return
        response = self.responses[axis]
        away = (wanted - self.seen.sizes[place]) * response.step / response.sizes[place]
        exact = Fraction(axis.value(self.values)) + away
        found = round(float(exact), _DIGITS) if axis.knob.kind == FLOAT else round(exact)
        if 0 < found < _LARGEST:
            votes.setdefault(axis, Counter())[found] += 1
