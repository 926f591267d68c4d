"""The content of a sweep's page.

Guarantees: a total function of any summary and any reports; what is missing or damaged is left out, or named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..schema import CompareConfig
from ..text.wording import counted
from . import SWEEP_PAGE
from .build import Content
from .compared import output_matrix
from .coverage import coverage, maps_of
from .drift import drift_picture, read_drift
from .figures import cost_pictures, metric_pictures
from .jobs import QUIET, Failure, Jobs, Limits, jobs_of
from .plain import figure, link, typed_line, word
from .table import table_of

_ORDER = ("ok", "reused", "failed", "error", "crashed", "timed out", "skipped", "not run")


def sweep_content(summary: Mapping[str, Any], folder: Path, compare: CompareConfig) -> Callable[[Limits], Content]:
    """Reads the jobs of a sweep; returns what makes its page's content.

    Args:
        summary: The content of ``summary.json``.
        folder: The sweep's, with the files of its jobs.
        compare: What is compared between jobs.
    """
    jobs = jobs_of(summary, folder)
    maps = maps_of(jobs.every)
    drift = read_drift(jobs.every, compare.reference) if compare.weights else None
    name = "/".join(word(part) for part in folder.resolve().parts[-2:])

    def make(limits: Limits) -> Content:
        failures = [job.failure(limits) for job in jobs.every]
        values = {
            "name": name,
            "file": SWEEP_PAGE,
            "jobs": jobs.every,
            "totals": _totals(jobs),
            "best": _best(jobs),
            "table": table_of(jobs, failures, limits),
            "failures": _failures(jobs, failures, limits),
        }
        pictures = [
            *metric_pictures(jobs),
            output_matrix(jobs, limits) if compare.outputs else None,
            drift_picture(drift, jobs),
            coverage(maps, jobs, limits),
            *cost_pictures(jobs),
        ]
        shown = [picture for picture in pictures if picture is not None]
        count = len(jobs.every)
        return Content("sweep.html", f"{name}: {counted(count, 'job')}", values, shown, count)

    return make


def _totals(jobs: Jobs) -> list[tuple[str, int]]:
    counts = Counter(job.status for job in jobs.every)
    known = [(status, counts.pop(status)) for status in _ORDER if status in counts]
    return [*known, *sorted(counts.items())]


def _best(jobs: Jobs) -> list[dict[str, str]]:
    """The best job by each metric."""
    found = []
    for name in jobs.metrics:
        job = next((job for job in jobs.every if job.number == jobs.best.get(name)), None)
        if job is not None and job.metric(name)[0] is not None:
            value, stderr = job.metric(name)
            more = f"± {figure(stderr, 2)}" if stderr is not None else ""
            about = {"metric": word(name), "value": figure(value), "more": more, "job": str(job.number)}
            found.append(about | {"values": jobs.label(job), "href": link(job.row.get("report"))})
    return found


def _failures(jobs: Jobs, failures: Sequence[Failure | None], limits: Limits) -> list[dict[str, Any]]:
    """The jobs whose outcome needs an explanation, failed ones first."""
    found = [
        {
            "job": job.number,
            "status": job.status,
            "failed": job.status not in QUIET,
            "values": jobs.label(job),
            "failure": failure,
            "command": typed_line(job.row.get("command"), limits.line),
            "note": word(job.row.get("command_note"), limits.text),
            "href": link(job.row.get("report")),
        }
        for job, failure in zip(jobs.every, failures, strict=True)
        if failure is not None
    ]
    return sorted(found, key=lambda each: not each["failed"])
