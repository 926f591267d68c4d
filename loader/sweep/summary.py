"""How a sweep went, as files and as an exit code.

Guarantees: every job that was to run is listed once, whatever became of it; the files are there as a whole or not at
all; a sweep in which any job did not end well never ends with 0.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.rewrite import readable
from ..report.files import write_json, write_text
from ..text.redaction import redacted
from .callback import Sweep
from .folder import SUMMARY
from .records import RUNNING, JobRecord, error_of, read_all

SCHEMA = 1
"""Version of the summary's form."""

_COLUMNS = ("job", "status", "exit_code", "seconds", "overrides", "error_type", "error", "hint", "output_dir", "report")
_REFUSALS = range(2, 7)


@dataclass(frozen=True, slots=True)
class Summary:
    """All jobs of a sweep, in order."""

    folder: Path
    jobs: list[JobRecord]

    @property
    def ok(self) -> int:
        """How many jobs ended well."""
        return sum(job.status == "ok" for job in self.jobs)

    @property
    def exit_code(self) -> int:
        """The worst of the jobs' codes; a job that crashed or never ran counts as a bug does."""
        return worst(job.counts_as for job in self.jobs)

    def to_dict(self) -> dict[str, Any]:
        """The summary as ``summary.json`` holds it."""
        total = len(self.jobs)
        jobs = [job.to_dict() for job in self.jobs]
        return {"schema": SCHEMA, "total": total, "ok": self.ok, "failed": total - self.ok, "jobs": jobs}

    def to_csv(self) -> str:
        """The summary as ``summary.csv`` holds it: one line for each job."""
        text = io.StringIO()
        writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_row(job) for job in self.jobs)
        return text.getvalue()

    def write(self) -> None:
        """Writes both files into the sweep's folder."""
        write_json(self.folder / SUMMARY, self.to_dict())
        write_text(self.folder / "summary.csv", self.to_csv())


def worst(codes: Iterable[int]) -> int:
    """Returns the worst of exit codes: 1, and whatever no table knows, is the worst; then 6 to 2; 0 is none."""
    bad = [code if code in _REFUSALS else 1 for code in codes if code != 0]
    return 1 if 1 in bad else max(bad, default=0)


def summarise(sweep: Sweep) -> Summary:
    """Lists what became of every job of a sweep that is over."""
    records = read_all(sweep.folder)
    expected = sweep.jobs if sweep.jobs is not None else []
    for job, overrides in enumerate(expected):
        records.setdefault(job, _not_run(job, readable(overrides)))
    for record in records.values():
        if record.status == RUNNING:
            _lost(record)
    return Summary(sweep.folder, [records[job] for job in sorted(records)])


def _not_run(job: int, overrides: list[str]) -> JobRecord:
    error = error_of("NotRun", "the sweep ended before this job was started")
    return JobRecord(job, overrides, status="not run", error=error)


def _lost(record: JobRecord) -> None:
    """A record that was never closed: the process that watched over the job is gone too."""
    record.status, record.exit_code = "crashed", None
    message = "the process that ran the job was lost, and its exit code with it"
    record.error = error_of("Crashed", message)


def _row(job: JobRecord) -> dict[str, Any]:
    error = job.error or {}
    told = {"error_type": error.get("type"), "error": error.get("message"), "hint": error.get("hint")}
    # One line for each job also where a message has several.
    flat = {name: " ".join(text.split()) if text else text for name, text in told.items()}
    own = {name: value for name, value in job.to_dict().items() if name in _COLUMNS and name != "error"}
    row = {**own, **flat, "overrides": " ".join(job.overrides)}
    return {name: redacted(value) if isinstance(value, str) else value for name, value in row.items()}
