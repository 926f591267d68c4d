"""What became of a model's modules in each job: the coverage map.

Guarantees: jobs with the same map share it, so that many jobs of one model take the room of one. The numbers are those
of ``report.json``; a module behind the limit is part of the row ``…``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..report.modules import OUTCOMES
from ..text.wording import counted
from .figures import Picture, listed
from .jobs import Job, Jobs, Limits, Map, complete
from .plain import figure, word

_LONGEST_NAME = 100


def shown(found: Map, limits: Limits) -> Map:
    """Returns what a page shows of a map: the largest modules, and all that are not loaded whole, if there is room."""
    ordered = sorted(range(len(found)), key=lambda at: (not any(found[at][3][1:]), -found[at][2]))
    kept = set(ordered[: limits.modules])
    lines = [(_name(row[0]), *row[1:]) for at, row in enumerate(found) if at in kept]
    left = [row for at, row in enumerate(found) if at not in kept]
    if left:
        outcomes = tuple(sum(row[3][at] for row in left) for at in range(len(OUTCOMES)))
        lines.append(("…", sum(row[1] for row in left), sum(row[2] for row in left), outcomes))
    return tuple(lines)


Users = tuple[Map, list[Job]]
"""A map and the jobs that have it: all of them have a result, or none has."""


def maps_of(jobs: Sequence[Job]) -> list[Users]:
    """Returns the different maps of jobs with the jobs that have them, incomplete ones and failed jobs first."""
    maps: dict[tuple[Map, bool], list[Job]] = {}
    for job in jobs:
        if job.map:
            maps.setdefault((job.map, job.good), []).append(job)
    found = [(key, users) for (key, _), users in maps.items()]
    return sorted(found, key=lambda item: (_is_loaded(item), complete(item[0]), item[1][0].number))


def _is_loaded(item: Users) -> bool:
    return complete(item[0]) and item[1][0].good


def coverage(ordered: Sequence[Users], jobs: Jobs, limits: Limits) -> Picture | None:
    """Returns the coverage maps of a sweep; None if there are none."""
    if not ordered:
        return None
    data = {
        "outcomes": OUTCOMES,
        "maps": [
            {
                "rows": shown(found, limits),
                "about": describe(found, users[0].target, good=users[0].good),
                "jobs": [[job.number, jobs.label(job)] for job in users],
            }
            for found, users in ordered[: limits.maps]
        ],
    }
    return Picture("coverage", "Coverage", _about(ordered, limits), data)


def _name(module: str) -> str:
    return word(module, _LONGEST_NAME) or "(model)"


def describe(found: Map, target: str, *, good: bool) -> str:
    """Writes a map as a sentence; that of a job without a result is only planned."""
    total = sum(parameters for _, _, parameters, _ in found)
    counts = [sum(outcomes[at] for *_, outcomes in found) for at in range(len(OUTCOMES))]
    model = f"{target}, {counted(total, 'parameter')}" if target else counted(total, "parameter")
    if not any(counts[1:]):
        return f"{model}: all {counted(counts[0], 'key')} {'loaded' if good else 'found; the job failed later'}."
    parts = [f"{figure(n)} {name}" for n, name in zip(counts, OUTCOMES, strict=True) if n]
    worst = [module for module, _, _, outcomes in found if any(outcomes[1:])]
    named = ", ".join(map(_name, worst[:4])) + (f" and {len(worst) - 4:,} more" if len(worst) > 4 else "")
    return f"{model}: {', '.join(parts)} of {counted(sum(counts), 'key')}. Not loaded whole: {named}."


def _about(ordered: Sequence[Users], limits: Limits) -> list[str]:
    jobs = sum(len(users) for _, users in ordered)
    whole_ones = sum(len(users) for found, users in ordered if _is_loaded((found, users)))
    left = sorted(job.number for _, users in ordered[limits.maps :] for job in users)
    notes = listed("Not shown, for their number", left)
    if whole_ones == jobs:
        return [f"Every key is loaded in {'the job' if jobs == 1 else f'all {jobs:,} jobs'}.", *notes]
    return [f"Every key is loaded in {whole_ones:,} of {counted(jobs, 'job')}.", *notes]
