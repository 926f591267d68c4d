"""The best job of a sweep by each of its metrics.

Guarantees: a metric whose direction is unknown, or on which jobs disagree, has no best job. Of equal ones, the first is
the best.
"""

from __future__ import annotations

from collections.abc import Iterable

from .record import GOOD, JobRecord


def best_of(jobs: Iterable[JobRecord]) -> dict[str, int]:
    """Returns the number of the best job by each metric, of those with a result."""
    judged = [job for job in jobs if job.status in GOOD]
    names = dict.fromkeys(name for job in judged for name in job.metrics)
    return {name: best for name in names if (best := _best(name, judged)) is not None}


def _best(name: str, jobs: Iterable[JobRecord]) -> int | None:
    found = [job for job in jobs if job.metrics.get(name, {}).get("value") is not None]
    directions = {job.higher_is_better.get(name) for job in found}
    if directions not in ({True}, {False}):
        return None
    choose = max if True in directions else min
    return choose(found, key=lambda job: float(job.metrics[name]["value"])).job
