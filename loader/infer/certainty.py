"""Which of the arguments that were found are the only ones that fit.

Guarantees: an argument counts as told by the shapes only where no other value of it, and no trade with another
argument, gives the same shapes in the neighbourhood that was looked at; nothing does where the
search was cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loader.infer.axes import Axis, axes, current, respond
from loader.infer.knobs import CHOICE, FLOAT, SIZES, Knob
from loader.infer.probe import Goal, Probe, Seen, Values

TOLD, FREE, LOOSE, SHARED, OPEN = "told", "free", "loose", "shared", "open"
"""The shapes tell it, they say nothing of it, numbers beside it do as well, other arguments can stand in for it, or the
search was cut off before other values were tried."""

_Row = tuple[str, int]


def certainty(probe: Probe, goal: Goal, knobs: Sequence[Knob], values: Values, seen: Seen) -> dict[str, str]:
    """How sure each argument is, by name."""
    found = {knob.name: _chosen(probe, goal, knob, values, seen) for knob in knobs if knob.kind == CHOICE}
    numbers = axes(knobs, values)
    columns = {axis: _column(probe, values, axis, seen) for axis in numbers}
    independent = _independent(columns)
    for knob in knobs:
        own = [axis for axis in numbers if axis.knob == knob]
        if not own:
            continue
        if not any(columns[axis] for axis in own) and knob.kind != SIZES:
            found[knob.name] = FREE
        elif any(_slack(probe, goal, values, axis, seen) for axis in own):
            found[knob.name] = LOOSE
        else:
            found[knob.name] = TOLD if independent.issuperset(own) else SHARED
    return dict.fromkeys(found, OPEN) if probe.cut_off else found


def partners(probe: Probe, knobs: Sequence[Knob], values: Values, seen: Seen, name: str) -> list[str]:
    """The other arguments that decide a dimension together with this one."""
    columns = {axis: _column(probe, values, axis, seen) for axis in axes(knobs, values)}
    own = {row for axis, column in columns.items() if axis.knob.name == name for row in column}
    others = (axis.knob.name for axis, column in columns.items() if own & column.keys())
    return [other for other in dict.fromkeys(others) if other != name]


def _chosen(probe: Probe, goal: Goal, knob: Knob, values: Values, seen: Seen) -> str:
    for choice in knob.choices:
        if choice != current(knob, values):
            other = probe.see({**values, knob.name: choice})
            if other is not None and goal.distance(other) <= goal.distance(seen):
                return FREE
    return TOLD


def _column(probe: Probe, values: Values, axis: Axis, seen: Seen) -> dict[_Row, float]:
    """How dimensions and numbers of keys move with a number."""
    response = respond(probe, values, axis, seen)
    if response is None:
        return {}
    step = float(response.step)
    sizes: dict[_Row, float] = {place: change / step for place, change in response.sizes.items()}
    return sizes | {(name, -1): change / step for name, change in response.counts.items()}


def _independent(columns: dict[Axis, dict[_Row, float]]) -> set[Axis]:
    """The numbers that no combination of the others can stand in for."""
    moving = [axis for axis, column in columns.items() if column]
    rows = sorted({row for axis in moving for row in columns[axis]})
    if not rows:
        return set()
    table = np.array([[columns[axis].get(row, 0.0) for axis in moving] for row in rows])
    table = np.unique(table / np.abs(table).max(axis=0), axis=0)
    whole = np.linalg.matrix_rank(table)
    others = {axis: np.delete(table, at, axis=1) for at, axis in enumerate(moving)}
    return {axis for axis, rest in others.items() if (np.linalg.matrix_rank(rest) if rest.size else 0) == whole - 1}


def _slack(probe: Probe, goal: Goal, values: Values, axis: Axis, seen: Seen) -> bool:
    """Whether the number next to this one does as well."""
    if axis.knob.kind == FLOAT:
        return False
    near = (probe.see(axis.at(values, axis.value(values) + step)) for step in (1, -1) if axis.value(values) + step > 0)
    return any(other is not None and goal.distance(other) <= goal.distance(seen) for other in near)
