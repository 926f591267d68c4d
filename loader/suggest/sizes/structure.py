"""Finds the arguments that decide which keys there are: depths, flags, the lengths of lists.

Guarantees: takes a value only where it brings the keys closer to the file's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from .axes import Response, axes, current, respond
from .knobs import CHOICE, FLOAT, INT, SIZES, Knob
from .probe import Goal, Probe, Seen, Values

_DEEPEST = 1024
_ROUNDS = 4
_GUESS = 8
"""A number to begin with where the constructor names none."""


def settle_structure(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values) -> dict[str, Any]:
    """The arguments under which the keys are as close to the file's as they get, one argument after the other."""
    best, seen = dict(values), probe.see(values)
    for _ in range(_ROUNDS):
        before = best
        for knob in knobs:
            if seen is None or goal.distance(seen)[0] == 0:
                return best
            while (closer := _closer(probe, goal, knob, best, seen)) is not None:
                best, seen = closer
        if best == before:
            break
    return best


def _closer(probe: Probe, goal: Goal, knob: Knob, values: Values, seen: Seen) -> tuple[dict[str, Any], Seen] | None:
    """The best of the candidates, where it is better than what there is."""
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
            yield {**values, knob.name: 0}  # builders leave a part out so: num_classes=0 is a network without its head


def _lengths(probe: Probe, goal: Goal, knob: Knob, values: Values, seen: Seen) -> list[int]:
    """The lengths of a list under which there are as many keys as in the file."""
    length = len(current(knob, values))
    longer = probe.see({**values, knob.name: stretched(current(knob, values), length + 1, 1)})
    if longer is None:
        return []
    changes = {name: count - seen.counts[name] for name, count in longer.counts.items() if count != seen.counts[name]}
    return _depths(Response(Fraction(1), {}, True, changes), length, goal, seen)


def _depths(response: Response | None, value: int, goal: Goal, seen: Seen) -> list[int]:
    """The values under which there are as many keys of some name as in the file, most names first."""
    if response is None or not response.structure:
        return []
    votes: dict[int, int] = {}
    for name, change in response.counts.items():
        wanted = value + Fraction(goal.counts[name] - seen.counts[name]) * response.step / change
        if wanted.denominator == 1 and 0 < wanted <= _DEEPEST and wanted != value:
            votes[int(wanted)] = votes.get(int(wanted), 0) + 1
    return sorted(votes, key=lambda depth: (-votes[depth], depth))


def stretched(items: Sequence[int], length: int, fill: int) -> list[int]:
    """A list of another length."""
    return [*items, *[fill] * (length - len(items))][:length]
