"""How far the weights of the jobs are from those of the reference, module by module.

Guarantees: reads only what the jobs kept in their own folders, one job at a time, up to a bounded number of bytes; a
job that kept nothing is named. Modules that differ in their numbers alone are one row where there are many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CheckpointError
from ..report.modules import fold_names
from ..report.sketched import SKETCHED, Apart, Weights, drift, read_weights
from .figures import Picture, listed, rounded
from .jobs import Job, Jobs
from .plain import word

MOST_BYTES = 1 << 30
"""Bytes that are read; the jobs behind them are not compared."""

MOST_MODULES = 40
"""Modules above which alike ones are one row."""

_LONGEST_NAME = 100


@dataclass(slots=True)
class Drift:
    """The distances of all jobs that kept their weights."""

    reference: int
    estimated: bool
    found: list[tuple[Job, dict[str, Apart]]] = field(default_factory=list)
    without: list[int] = field(default_factory=list)
    """The jobs that kept nothing that can be read."""


def read_drift(jobs: Sequence[Job], reference: int) -> Drift:
    """Compares the weights of all jobs with those of one.

    Args:
        jobs: All jobs.
        reference: The number of the job to compare with; the first that kept its weights replaces one that did not.
    """
    good = [job for job in jobs if job.good]
    first = sorted(good, key=lambda job: job.number != reference)
    chosen = next(((job, weights) for job in first if (weights := _weights(job)) is not None), None)
    if chosen is None:
        return Drift(reference, estimated=False, without=[job.number for job in good])
    result = Drift(chosen[0].number, chosen[1].estimated)
    room = MOST_BYTES
    for job in good:
        path = _path(job)
        room -= path.stat().st_size if path is not None and path.is_file() else 0
        weights = _weights(job) if room >= 0 else None
        if weights is None:
            result.without.append(job.number)
        else:
            result.found.append((job, drift(chosen[1], weights)))
    return result


def _path(job: Job) -> Path | None:
    return None if job.folder is None else job.folder / SKETCHED


def _weights(job: Job) -> Weights | None:
    path = _path(job)
    try:
        return None if path is None else read_weights(path)
    except CheckpointError:
        return None


def drift_picture(found: Drift | None, jobs: Jobs) -> Picture | None:
    """Returns the distances as a picture; None if nobody asked for them."""
    if found is None:
        return None
    if len(found.found) < 2:
        return Picture("drift", "Weight drift", ["Less than two jobs kept their weights.", *_left(found)])
    names = list(dict.fromkeys(name for _, apart in found.found for name in apart))
    groups = fold_names(names) if len(names) > MOST_MODULES else {name: [name] for name in names}
    shown = dict(list(groups.items())[: 4 * MOST_MODULES])
    values = [[_sum(apart, members) for _, apart in found.found] for members in shown.values()]
    modules = [word(name, _LONGEST_NAME) or "(model)" for name in shown]
    data = {
        "modules": modules,
        "jobs": [job.number for job, _ in found.found],
        "labels": [jobs.label(job) for job, _ in found.found],
        "values": [["inf" if value == math.inf else rounded(value, 3) for value in row] for row in values],
    }
    return Picture("drift", "Weight drift", _about(found, modules, values), data)


def _sum(apart: Mapping[str, Apart], members: Sequence[str]) -> float | None:
    known = [apart[name] for name in members if name in apart]
    if not known:
        return None
    return Apart(math.fsum(each.distance for each in known), math.fsum(each.norm for each in known)).relative


def _about(found: Drift, modules: Sequence[str], values: Sequence[Sequence[float | None]]) -> list[str]:
    numbers = [job.number for job, _ in found.found]
    cells = [
        (value, modules[row], numbers[column])
        for row, line in enumerate(values)
        for column, value in enumerate(line)
        if value is not None
    ]
    far = max(cells, default=(0.0, "", 0))
    same = [job.number for job, apart in found.found if apart and not any(each.distance for each in apart.values())]
    text = f"Distance of each module to that of job {found.reference}, relative to its norm"
    how = "estimated within about 2 % of itself" if found.estimated else "exact"
    most = f" The farthest: {_percent(far[0])}, {far[1]} of job {far[2]}." if far[0] else " All are the same."
    others = [number for number in same if number != found.reference]
    return [
        f"{text} ({how}).{most}",
        *listed(f"The same weights as job {found.reference}", others),
        *_left(found),
    ]


def _left(found: Drift) -> list[str]:
    return listed("Without kept weights, as they ran without sweep.compare.weights or are too large", found.without)


def _percent(value: float) -> str:
    return "not finite" if value == math.inf else f"{value * 100:.3g} %"
