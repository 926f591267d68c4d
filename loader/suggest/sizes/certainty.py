"""Which of the arguments that were found are the only ones that fit.

Guarantees: an argument counts as told by the shapes only where no other value of it, and no trade with another
argument, gives the same shapes in the neighbourhood that was looked at; nothing does where the
search was cut off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .axes import Axis, axes, current, respond
from .knobs import CHOICE, FLOAT, SIZES, Knob
from .probe import Goal, Probe, Seen, Values
from .sizes import settle_sizes

TOLD, FREE, LOOSE, SHARED, OPEN = "told", "free", "loose", "shared", "open"
"""The shapes tell it, they say nothing of it, numbers beside it do as well, other arguments can stand in for it, or the
search was cut off before other values were tried."""

_LITTLE = 1e-6
_Row = tuple[str, int]
_Name = tuple[Knob, object]
"""What moves: a number by its place in an argument, a switch by what it is turned to."""


def certainty(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen) -> dict[str, str]:
    """How sure each argument is, by name."""
    numbers = axes(knobs, values)
    columns = _columns(probe, goal, knobs, values, seen)
    independent = _independent(columns)
    found = {}
    for knob in knobs:
        own = [axis for axis in numbers if axis.knob == knob]
        moves = [name for name in columns if name[0] == knob]
        if knob.kind == CHOICE:
            fits = _fits_otherwise(probe, goal, knob, values, seen)
            found[knob.name] = FREE if fits else SHARED if moves else TOLD
        elif own and not any(columns[name] for name in moves) and knob.kind != SIZES:
            found[knob.name] = FREE
        elif own and any(_slack(probe, goal, values, axis, seen) for axis in own):
            found[knob.name] = LOOSE
        elif own:
            found[knob.name] = TOLD if independent.issuperset(moves) else SHARED
    return dict.fromkeys(found, OPEN) if probe.cut_off else found


def partners(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen, name: str) -> list[str]:
    """The other arguments that decide a dimension together with this one."""
    columns = _columns(probe, goal, knobs, values, seen).items()
    own = {row for (knob, _), column in columns if knob.name == name for row in column}
    others = (knob.name for (knob, _), column in columns if own & column.keys())
    return [other for other in dict.fromkeys(others) if other != name]


def _columns(
    probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen
) -> dict[_Name, dict[_Row, float]]:
    """How dimensions move with each number, and with each switch that numbers can make up for."""
    columns: dict[_Name, dict[_Row, float]] = {
        (axis.knob, axis.index): _column(probe, values, axis, seen) for axis in axes(knobs, values)
    }
    traded = dict(columns)
    for name, choice, column in _switches(probe, knobs, values, seen):
        numbers = _standing_in(column, columns)
        if not numbers:
            continue
        made_up = settle_sizes(probe, goal, numbers, {**values, name[0].name: choice})
        other = probe.see(made_up)
        if other is not None and goal.distance(other) <= goal.distance(seen):
            traded[name] = column
    return traded


def _standing_in(column: Mapping[_Row, float], columns: Mapping[_Name, Mapping[_Row, float]]) -> list[Knob]:
    """The numbers that together move as a switch does; none where they cannot."""
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
    """Whether a switch may as well be turned."""
    others = (choice for choice in knob.choices if choice != current(knob, values))
    built = (probe.see({**values, knob.name: choice}) for choice in others)
    return any(other is not None and goal.distance(other) <= goal.distance(seen) for other in built)


def _switches(
    probe: Probe, knobs: Sequence[Knob], values: Values, seen: Seen
) -> Iterator[tuple[_Name, Any, dict[_Row, float]]]:
    """How dimensions change where a switch is turned that leaves the keys as they are."""
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
    """How dimensions and numbers of keys move with a number."""
    response = respond(probe, values, axis, seen)
    if response is None:
        return {}
    step = float(response.step)
    sizes: dict[_Row, float] = {place: change / step for place, change in response.sizes.items()}
    return sizes | {(name, -1): change / step for name, change in response.counts.items()}


def _independent(columns: Mapping[_Name, Mapping[_Row, float]]) -> set[_Name]:
    """What no combination of the others can stand in for."""
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
    """Whether the number next to this one does as well."""
    if axis.knob.kind == FLOAT:
        return False
    near = (probe.see(axis.at(values, axis.value(values) + step)) for step in (1, -1) if axis.value(values) + step > 0)
    return any(other is not None and goal.distance(other) <= goal.distance(seen) for other in near)
