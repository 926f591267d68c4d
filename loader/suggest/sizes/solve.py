"""The search for constructor arguments under which an architecture has the keys and shapes of a file.

Guarantees: bounded by its probe, and deterministic where that does not cut it off; given arguments are never varied;
what is returned was built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .axes import current
from .certainty import certainty
from .knobs import CHOICE, FLOAT, INT, SIZES, Knob, taking
from .probe import Distance, Goal, Probe, Seen, Values
from .sizes import settle_sizes
from .structure import settle_structure

_ROUNDS = 3
_MOST_SWITCHES = 3
_FEW = re.compile(r"head|group|layer|depth|block|stage|num_|n_|level|expan|ratio|stride|dilation", re.IGNORECASE)
_KERNEL = re.compile(r"kernel|patch|stride|pool", re.IGNORECASE)

Goals = Callable[[Seen], Sequence[Goal]]
"""What a file looks like to an architecture: its tensors under the names that they would have there, best first."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Arguments that were built."""

    values: Mapping[str, Any]
    """Those that differ from the constructor's defaults, or have none."""
    seen: Seen
    goal: Goal
    distance: Distance

    @property
    def merit(self) -> tuple[Distance, int]:
        """Less is better: how far it is from the file, then how much the names assume."""
        return self.distance, self.goal.rank

    @property
    def exact(self) -> bool:
        """Whether it has the file's shapes, under the file's own names."""
        return self.merit == ((0, 0, 0), 0)


def begin(probe: Probe, knobs: Sequence[Knob], hints: Values) -> dict[str, Any] | None:
    """Arguments with which the architecture can be built at all: hints, defaults, and numbers for what has neither."""
    for kept in _fewer(hints):
        for made in _made_up([knob for knob in knobs if knob.required and knob.name not in kept]):
            values = {**made, **kept}
            if probe.see(values) is not None:
                return values
    return None


def solve(probe: Probe, knobs: Sequence[Knob], start: Values, goals: Goals) -> Solution | None:
    """The arguments that bring an architecture closest to a file; None where nothing of the file is like it.

    A switch may change what everything else depends on, the names too: where nothing fits, each is turned, and the
    search begins again from there.
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
    """The best of what is found with one switch turned."""
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
                continue  # other names are all that could be better
            found = _closest(probe, knobs, turned, goals)
            if found is not None and (best is None or found.merit < best.merit):
                best = found
    return best


def sure(probe: Probe, knobs: Sequence[Knob], solution: Solution) -> dict[str, str]:
    """How sure each argument of a solution is, by name (`certainty`)."""
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
    """All hints, all but one, and none."""
    yield hints
    if len(hints) > 1:
        yield from ({key: value for key, value in hints.items() if key != name} for name in hints)
    if hints:
        yield {}


def _made_up(knobs: Sequence[Knob]) -> Iterator[dict[str, Any]]:
    """Values for arguments that have none; sizes often have to divide each other, and counts to be small."""
    for size, few, kernel, length in ((16, 2, 3, 2), (64, 4, 1, 3), (8, 8, 8, 2), (1, 1, 1, 1), (12, 3, 3, 4)):
        yield {knob.name: _made(knob, size, few, kernel, length) for knob in knobs if knob.kind}


def _made(knob: Knob, size: int, few: int, kernel: int, length: int) -> Any:
    number = kernel if _KERNEL.search(knob.name) else few if _FEW.search(knob.name) else size
    match knob.kind:
        case kind if kind == INT:
            return number
        case kind if kind == FLOAT:
            return 0.5
        case kind if kind == CHOICE:
            return knob.choices[0]
        case kind if kind == SIZES:
            return [number] * length
    raise LookupError(knob.kind)


def fixed(knobs: Sequence[Knob], given: Mapping[str, Any]) -> list[Knob]:
    """The knobs that may be varied: those that were not given."""
    return [knob for knob in knobs if knob.kind and knob.name not in given]


def at_start(knobs: Sequence[Knob], values: Values) -> list[Knob]:
    """The knobs with other defaults: those that a config gives already."""
    return [taking(knob, values[knob.name]) if knob.name in values else knob for knob in knobs]
