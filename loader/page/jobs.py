"""The jobs of a sweep, as its page shows them: out of ``summary.json`` and each job's ``report.json``.

Guarantees: every job of the summary is one job of the page, whatever its report contains; a job whose report cannot be
read says so. Nothing else that a report names is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..report.modules import OUTCOMES
from .plain import block, mapping, number, read_report, rows, typed_line, whole, without_shared_folder, word

GOOD = ("ok", "reused")
"""The statuses of jobs that have a result."""

QUIET = (*GOOD, "skipped", "not run")
"""The statuses of jobs that did not fail."""

_LONGEST_SERIES = 80
_LONGEST_MODULE = 1000

Map = tuple[tuple[str, int, int, tuple[int, ...]], ...]
"""``(module, count, parameters, numbers of keys by outcome)`` of each row."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of each job is shown, so that a page has a bounded size."""

    message: int = 3000
    """Characters of an error's message."""
    line: int = 4000
    """The longest line to type that is shown; a longer one is left out, since a part of it would not work."""
    fixes: int = 8
    """Lines to type per job."""
    text: int = 200
    """Characters of a value in the table."""
    modules: int = 400
    """Rows of a coverage map."""
    maps: int = 40
    """Coverage maps that differ."""
    compared: int = 250
    """Jobs in a matrix."""

    def scaled(self, factor: float) -> Limits:
        """Returns smaller limits."""
        return Limits(*(max(1, int(getattr(self, each.name) * factor)) for each in fields(self)))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job has no result, and what to type."""

    type: str
    message: str
    fixes: list[dict[str, str]]
    """``{line, note}`` each; without a line, the note is advice."""


@dataclass(slots=True)
class Job:
    """One job."""

    number: int
    status: str
    row: Mapping[str, Any]
    """Its entry in ``summary.json``."""
    map: Map = ()
    """Its coverage map; empty if its report has none, or is damaged."""
    target: str = ""
    """The name of its model."""
    kept: bool = False
    """Whether it kept its inputs and outputs."""
    folder: Path | None = None
    damage: str = ""
    """Why its report cannot be shown."""
    texts: dict[str, str] = field(default_factory=dict)
    """Its values of the swept keys in few words."""

    @property
    def good(self) -> bool:
        """Whether it has a result."""
        return self.status in GOOD

    @property
    def values(self) -> Mapping[str, Any]:
        """Its values of the swept keys."""
        return mapping(self.row.get("values"))

    def metric(self, name: str) -> tuple[float | None, float | None]:
        """Returns the value and the standard error of a metric."""
        found = mapping(mapping(self.row.get("metrics")).get(name))
        return number(found.get("value")), number(found.get("stderr"))

    def figure(self, name: str) -> float | None:
        """Returns a number of its row."""
        return number(self.row.get(name))

    def label(self, keys: list[str]) -> str:
        """Writes its values of some keys: ``dtype=bfloat16 seed=1``."""
        return " ".join(f"{word(key)}={self.texts[key]}" for key in keys if self.texts.get(key))

    def failure(self, limits: Limits) -> Failure | None:
        """Returns why it has no result; None if nothing went wrong."""
        error = mapping(self.row.get("error"))
        if not error and not self.damage:
            return None
        message = block(error.get("message"), limits.message)
        message = "\n".join(filter(None, (message, self.damage)))
        return Failure(word(error.get("type")) or "Damaged", message, fixes_of(error, limits))


def fixes_of(error: Mapping[str, Any], limits: Limits) -> list[dict[str, str]]:
    """Returns the lines to type next to an error, each whole or not at all."""
    fixes = [
        {"line": typed_line(fix.get("line"), limits.line), "note": word(fix.get("note"), limits.message)}
        for fix in rows(error.get("fixes"))
    ]
    return [fix for fix in fixes if fix["line"] or fix["note"]][: limits.fixes]


def short(text: str) -> str:
    """Cuts a value for a legend; of a path, the end stays."""
    return text if len(text) <= _LONGEST_SERIES else "…" + text[1 - _LONGEST_SERIES :]


@dataclass(frozen=True, slots=True)
class Jobs:
    """All jobs of a sweep, and what they are compared by."""

    every: list[Job]
    keys: list[str]
    """The swept keys, in the order in which they were typed."""
    metrics: list[str]
    """The names of all metrics, in the order of the config."""
    best: Mapping[str, Any]
    """Metric → the number of the best job, where that is known."""

    def label(self, job: Job) -> str:
        """Writes the swept values of a job."""
        return job.label(self.keys)


def jobs_of(summary: Mapping[str, Any], folder: Path) -> Jobs:
    """Returns the jobs of a sweep with their reports.

    Args:
        summary: The content of ``summary.json``.
        folder: The sweep's.
    """
    maps: dict[Map, Map] = {}
    every = [_job(row, index, folder, maps) for index, row in enumerate(rows(summary.get("jobs")))]
    keys = list(dict.fromkeys(key for job in every for key in job.values))
    metrics = list(dict.fromkeys(name for job in every for name in mapping(job.row.get("metrics"))))
    for key in keys:
        texts = without_shared_folder([word(job.values.get(key), 1000) for job in every])
        for job, text in zip(every, texts, strict=True):
            job.texts[key] = short(text)
    return Jobs(every, keys, metrics, mapping(summary.get("best")))


def _job(row: Mapping[str, Any], index: int, folder: Path, maps: dict[Map, Map]) -> Job:
    given = row.get("job")
    job = Job(given if type(given) is int else index, word(row.get("status")) or "not run", row)
    path = row.get("report")
    if isinstance(path, str) and path:
        place = folder / path
        report, job.damage = read_report(place)
        job.folder = place.parent
        found = map_of(report)
        job.map = maps.setdefault(found, found)  # that of most jobs is the same
        job.target = word(mapping(report.get("model")).get("target"))
        job.kept = bool(mapping(mapping(report.get("verification")).get("kept")))
    return job


def map_of(report: Mapping[str, Any]) -> Map:
    """Returns the coverage map of a report; empty if it has none."""
    return tuple(
        (
            name[:_LONGEST_MODULE] if isinstance(name := row.get("module"), str) else "",
            whole(row.get("count")),
            whole(row.get("parameters")),
            tuple(whole(row.get(outcome)) for outcome in OUTCOMES),
        )
        for row in rows(report.get("modules"))
    )


def complete(found: Map) -> bool:
    """Whether every key of a map is loaded, or to be loaded."""
    return not any(any(outcomes[1:]) for *_, outcomes in found)
