"""What became of a model's modules in each job: the coverage map.

Guarantees: jobs with the same map share it, so that many jobs of one model take the room of one. The numbers are those
of ``report.json``; a module behind the limit is part of the row ``…``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report.modules import OUTCOMES
from ..text.wording import counted
from .figures import Picture, listed
from .jobs import Job, Jobs, Limits
from .plain import figure, mapping, rows, whole, word

Map = tuple[tuple[str, int, int, tuple[int, ...]], ...]
"""``(module, count, parameters, numbers of keys by outcome)`` of each row."""

_LONGEST_NAME = 100


def map_of(report: Mapping[str, Any]) -> Map:
    """Returns the coverage map of a report, with its names as they are; empty if it has none."""
    return tuple(
        (
            name[: 10 * _LONGEST_NAME] if isinstance(name := row.get("module"), str) else "",
            whole(row.get("count")),
            whole(row.get("parameters")),
            tuple(whole(row.get(outcome)) for outcome in OUTCOMES),
        )
        for row in rows(report.get("modules"))
    )


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


def maps_of(jobs: Sequence[Job]) -> list[tuple[Map, list[Job]]]:
    """Returns the different maps of jobs with the jobs that have them, incomplete ones first."""
    maps: dict[Map, list[Job]] = {}
    for job in jobs:
        found = map_of(job.report)
        if found:
            maps.setdefault(found, []).append(job)
    return sorted(maps.items(), key=lambda item: (complete(item[0]), item[1][0].number))


def coverage(ordered: Sequence[tuple[Map, list[Job]]], jobs: Jobs, limits: Limits) -> Picture | None:
    """Returns the coverage maps of a sweep; None if there are none."""
    if not ordered:
        return None
    data = {
        "outcomes": OUTCOMES,
        "maps": [
            {
                "rows": shown(found, limits),
                "about": describe(found, _target(users[0])),
                "jobs": [[job.number, jobs.label(job)] for job in users],
            }
            for found, users in ordered[: limits.maps]
        ],
    }
    return Picture("coverage", "Coverage", _about(ordered, limits), data)


def _name(module: str) -> str:
    return word(module, _LONGEST_NAME) or "(model)"


def complete(found: Map) -> bool:
    """Whether every key of a map is loaded."""
    return not any(any(outcomes[1:]) for *_, outcomes in found)


def describe(found: Map, target: str) -> str:
    """Writes a map as a sentence."""
    total = sum(parameters for _, _, parameters, _ in found)
    counts = [sum(outcomes[at] for *_, outcomes in found) for at in range(len(OUTCOMES))]
    model = f"{target}, {counted(total, 'parameter')}" if target else counted(total, "parameter")
    if not any(counts[1:]):
        return f"{model}: all {counted(counts[0], 'key')} loaded."
    parts = [f"{figure(n)} {name}" for n, name in zip(counts, OUTCOMES, strict=True) if n]
    worst = [module for module, _, _, outcomes in found if any(outcomes[1:])]
    named = ", ".join(map(_name, worst[:4])) + (f" and {len(worst) - 4:,} more" if len(worst) > 4 else "")
    return f"{model}: {', '.join(parts)} of {counted(sum(counts), 'key')}. Not loaded whole: {named}."


def _target(job: Job) -> str:
    return word(mapping(job.report.get("model")).get("target"))


def _about(ordered: Sequence[tuple[Map, list[Job]]], limits: Limits) -> list[str]:
    jobs = sum(len(users) for _, users in ordered)
    whole_ones = sum(len(users) for found, users in ordered if complete(found))
    left = sorted(job.number for _, users in ordered[limits.maps :] for job in users)
    notes = listed("Not shown, for their number", left)
    if whole_ones == jobs:
        return [f"Every key is loaded in {'the job' if jobs == 1 else f'all {jobs:,} jobs'}.", *notes]
    return [f"Every key is loaded in {whole_ones:,} of {counted(jobs, 'job')}.", *notes]
