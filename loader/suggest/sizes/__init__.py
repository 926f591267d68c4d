"""Searches for constructor arguments with which an architecture has a file's keys and shapes, and judges them.

Guarantees: bounded by its probe, and deterministic unless that cuts it off; given arguments are never varied; every
solution was built. An argument is certain only if no other value of it, and no trade with another argument, gives the
same shapes in the neighborhood that was tried; none is if the search was cut off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arguments import CHOICE, FLOAT, INT, SIZES, Knob, taking
from .probe import Axis, Distance, Goal, Probe, Seen, Values, axes, current, respond
from .settle import settle_sizes, settle_structure

_ROUNDS = 3
_MOST_SWITCHES = 3
_FEW = re.compile(r"head|group|layer|depth|block|stage|num_|n_|level|expan|ratio|stride|dilation", re.IGNORECASE)
_KERNEL = re.compile(r"kernel|patch|stride|pool", re.IGNORECASE)

Goals = Callable[[Seen], Sequence[Goal]]
"""Returns a file's tensors under the names that they would have in an architecture, best first."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Arguments of a successful build."""

    values: Mapping[str, Any]
    """Those that differ from the constructor's defaults, or have none."""
    seen: Seen
    goal: Goal
    distance: Distance

    @property
    def merit(self) -> tuple[Distance, int]:
        """The distance from the file, then how much the names assume; less is better."""
        return self.distance, self.goal.rank

    @property
    def exact(self) -> bool:
        """Whether it has the file's shapes under the file's own names."""
        return self.merit == ((0, 0, 0), 0)


def begin(probe: Probe, knobs: Sequence[Knob], hints: Values) -> dict[str, Any] | None:
    """Returns arguments with which the architecture can be built: hints, defaults, and made-up values for the rest."""
    for kept in _fewer(hints):
        for made in _made_up([knob for knob in knobs if knob.required and knob.name not in kept]):
            values = {**made, **kept}
            if probe.see(values) is not None:
                return values
    return None


def solve(probe: Probe, knobs: Sequence[Knob], start: Values, goals: Goals) -> Solution | None:
    """Returns the arguments that bring an architecture closest to a file; None if nothing in the file is like it.

    A switch may change everything else, names included: if nothing fits, each switch is turned, and the search starts
    again from there.
    """
    best = alike = _closest(probe, knobs, start, goals)
    for _ in range(_MOST_SWITCHES):
        if best is not None and best.exact:
            break
        found = _turned(probe, knobs, start, goals, best)
        if found is None or (best is not None and best.merit <= found.merit):
            break
        best = found
    return best if alike is not None or (best is not None and not any(best.distance)) else None


def _closest(probe: Probe, knobs: Sequence[Knob], start: Values, goals: Goals) -> Solution | None:
    seen = probe.see(start)
    found: list[Solution] = []
    for goal in goals(seen) if seen is not None else ():
        found.append(_approach(probe, knobs, start, goal))
        if not any(found[-1].distance):
            break
    return min(found, key=lambda solution: solution.merit, default=None)


def _turned(
    probe: Probe, knobs: Sequence[Knob], start: Values, goals: Goals, before: Solution | None
) -> Solution | None:
    """Returns the best solution with one switch turned."""
    values = before.values if before is not None else start
    fits = before is not None and not any(before.distance)
    best: Solution | None = None
    for knob in (knob for knob in knobs if knob.kind == CHOICE):
        for choice in knob.choices:
            if choice == current(knob, values) or (best is not None and best.exact):
                continue
            turned = {**values, knob.name: choice}
            seen = probe.see(turned) if fits else None
            if fits and (seen is None or not any(goal.rank == 0 for goal in goals(seen))):
                continue  # only other names could be better
            found = _closest(probe, knobs, turned, goals)
            if found is not None and (best is None or found.merit < best.merit):
                best = found
    return best


def sure(probe: Probe, knobs: Sequence[Knob], solution: Solution) -> dict[str, str]:
    """Returns how certain each argument of a solution is, by name (`certainty`)."""
    return certainty(probe, solution.goal, knobs, solution.values, solution.seen)


def _approach(probe: Probe, knobs: Sequence[Knob], start: Values, goal: Goal) -> Solution:
    values = dict(start)
    for _ in range(_ROUNDS):
        before = values
        values = settle_structure(probe, goal, knobs, values)
        values = settle_sizes(probe, goal, knobs, values)
        if values == before:
            break
    seen = probe.see(values)
    if seen is None:
        raise LookupError(values)
    return Solution(values, seen, goal, goal.distance(seen))


def _fewer(hints: Values) -> Iterator[Mapping[str, Any]]:
    """Yields all hints, all but one, and none."""
    yield hints
    if len(hints) > 1:
        yield from ({key: value for key, value in hints.items() if key != name} for name in hints)
    if hints:
        yield {}


def _made_up(knobs: Sequence[Knob]) -> Iterator[dict[str, Any]]:
    """Yields values for required arguments; sizes often must divide each other, and counts be small."""
    for size, few, kernel, length in ((16, 2, 3, 2), (64, 4, 1, 3), (8, 8, 8, 2), (1, 1, 1, 1), (12, 3, 3, 4)):
        yield {knob.name: _made(knob, size, few, kernel, length) for knob in knobs if knob.kind}


def _made(knob: Knob, size: int, few: int, kernel: int, length: int) -> Any:
    number = kernel if _KERNEL.search(knob.name) else few if _FEW.search(knob.name) else size
    made: dict[str, Any] = {INT: number, FLOAT: 0.5, SIZES: [number] * length}
    return knob.choices[0] if knob.kind == CHOICE else made[knob.kind]


def fixed(knobs: Sequence[Knob], given: Mapping[str, Any]) -> list[Knob]:
    """Returns the arguments that may be varied: those that were not given."""
    return [knob for knob in knobs if knob.kind and knob.name not in given]


def at_start(knobs: Sequence[Knob], values: Values) -> list[Knob]:
    """Returns the arguments with the values in a config as their defaults."""
    return [taking(knob, values[knob.name]) if knob.name in values else knob for knob in knobs]


CERTAIN, FREE, LOOSE, SHARED, OPEN = "certain", "free", "loose", "shared", "open"
"""The shapes determine it, do not depend on it, allow the next number as well, or allow other arguments in its place;
or the search was cut off before other values were tried."""

_LITTLE = 1e-6
_Row = tuple[str, int]
_Name = tuple[Knob, object]
"""What moves: a number by its place in an argument, a switch by its new value."""


def certainty(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen) -> dict[str, str]:
    """Returns how certain each argument is, by name."""
    numbers = axes(knobs, values)
    columns = _columns(probe, goal, knobs, values, seen)
    independent = _independent(columns)
    found = {}
    for knob in knobs:
        own = [axis for axis in numbers if axis.knob == knob]
        moves = [name for name in columns if name[0] == knob]
        if knob.kind == CHOICE:
            fits = _fits_otherwise(probe, goal, knob, values, seen)
            found[knob.name] = FREE if fits else SHARED if moves else CERTAIN
        elif own and not any(columns[name] for name in moves) and knob.kind != SIZES:
            found[knob.name] = FREE
        elif own and any(_slack(probe, goal, values, axis, seen) for axis in own):
            found[knob.name] = LOOSE
        elif own:
            found[knob.name] = CERTAIN if independent.issuperset(moves) else SHARED
    return dict.fromkeys(found, OPEN) if probe.cut_off else found


def partners(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen, name: str) -> list[str]:
    """Returns the other arguments that decide a dimension together with this one."""
    columns = _columns(probe, goal, knobs, values, seen).items()
    own = {row for (knob, _), column in columns if knob.name == name for row in column}
    others = (knob.name for (knob, _), column in columns if own & column.keys())
    return [other for other in dict.fromkeys(others) if other != name]


def _columns(
    probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen
) -> dict[_Name, dict[_Row, float]]:
    """Returns how dimensions move with each number, and with each switch that numbers can replace."""
    columns: dict[_Name, dict[_Row, float]] = {
        (axis.knob, axis.index): _column(probe, values, axis, seen) for axis in axes(knobs, values)
    }
    traded = dict(columns)
    for name, choice, column in _switches(probe, knobs, values, seen):
        numbers = _replacing(column, columns)
        if not numbers:
            continue
        made_up = settle_sizes(probe, goal, numbers, {**values, name[0].name: choice})
        other = probe.see(made_up)
        if other is not None and goal.distance(other) <= goal.distance(seen):
            traded[name] = column
    return traded


def _replacing(column: Mapping[_Row, float], columns: Mapping[_Name, Mapping[_Row, float]]) -> list[Knob]:
    """Returns the numbers that together move like a switch; none if they cannot."""
    names = [name for name, other in columns.items() if other]
    rows = sorted({*column, *(row for name in names for row in columns[name])})
    if not names:
        return []
    table = np.array([[columns[name].get(row, 0.0) for name in names] for row in rows])
    wanted = np.array([column.get(row, 0.0) for row in rows])
    shares = np.linalg.lstsq(table, wanted, rcond=None)[0]
    if not np.allclose(table @ shares, wanted):
        return []
    weights = np.abs(shares) * np.abs(table).max(axis=0)
    return list(dict.fromkeys(n[0] for n, weight in zip(names, weights, strict=True) if weight > _LITTLE))


def _fits_otherwise(probe: Probe, goal: Goal, knob: Knob, values: Values, seen: Seen) -> bool:
    """Whether another value of a switch fits as well."""
    others = (choice for choice in knob.choices if choice != current(knob, values))
    built = (probe.see({**values, knob.name: choice}) for choice in others)
    return any(other is not None and goal.distance(other) <= goal.distance(seen) for other in built)


def _switches(
    probe: Probe, knobs: Sequence[Knob], values: Values, seen: Seen
) -> Iterator[tuple[_Name, Any, dict[_Row, float]]]:
    """Yields how dimensions change with each switch that leaves the keys as they are."""
    for knob in (knob for knob in knobs if knob.kind == CHOICE):
        for choice in knob.choices:
            turned = probe.see({**values, knob.name: choice}) if choice != current(knob, values) else None
            if turned is not None and turned.wanted.keys() == seen.wanted.keys():
                after = turned.sizes
                changes = {place: after.get(place, size) - size for place, size in seen.sizes.items()}
                column = {place: float(change) for place, change in changes.items() if change}
                if column:
                    yield (knob, repr(choice)), choice, column


def _column(probe: Probe, values: Values, axis: Axis, seen: Seen) -> dict[_Row, float]:
    """Returns how dimensions and numbers of keys move with a number."""
    response = respond(probe, values, axis, seen)
    if response is None:
        return {}
    step = float(response.step)
    sizes: dict[_Row, float] = {place: change / step for place, change in response.sizes.items()}
    return sizes | {(name, -1): change / step for name, change in response.counts.items()}


def _independent(columns: Mapping[_Name, Mapping[_Row, float]]) -> set[_Name]:
    """Returns the columns that no combination of the others can replace."""
    moving = [name for name, column in columns.items() if column]
    rows = sorted({row for name in moving for row in columns[name]})
    if not rows:
        return set()
    table = np.array([[columns[name].get(row, 0.0) for name in moving] for row in rows])
    table = np.unique(table / np.abs(table).max(axis=0), axis=0)
    whole = np.linalg.matrix_rank(table)
    others = {name: np.delete(table, at, axis=1) for at, name in enumerate(moving)}
    return {name for name, rest in others.items() if (np.linalg.matrix_rank(rest) if rest.size else 0) == whole - 1}


def _slack(probe: Probe, goal: Goal, values: Values, axis: Axis, seen: Seen) -> bool:
    """Whether the next number fits as well."""
    if axis.knob.kind == FLOAT:
        return False
    near = (probe.see(axis.at(values, axis.value(values) + step)) for step in (1, -1) if axis.value(values) + step > 0)
    return any(other is not None and goal.distance(other) <= goal.distance(seen) for other in near)
