"""The end of a sweep: summary files, a table on the terminal, and an exit code.

Guarantees: every expected job is listed once, whatever its outcome, on the terminal and, if there is room, on disk.
Writes are atomic. If any job failed, the exit code is not 0. Afterwards the folder is free. The table has colors only
on a terminal; elsewhere no line is cut or wrapped.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from ..config.rewrite import readable
from ..errors import INTERRUPTED, ConfigError
from ..page import SWEEP_PAGE
from ..report.data import REPORT, ErrorReport, Report
from ..report.terminal import print_error
from ..report.writing import write_json, write_report, write_text
from ..schema import SweepConfig
from ..text.lines import Fix, line
from ..text.wording import counted, safe_text
from .callback import Sweep
from .columns import best_of, csv_of
from .command import command_of
from .folders import SUMMARY
from .page import UNAWAITED, write_page
from .record import BAD, GOOD, RUNNING, JobRecord, error_of
from .records import forget, read_all
from .refusals import show_errors
from .swept import swept_values
from .table import best_lines, table_of

SCHEMA = 2
"""Version of the summary's format."""

_REFUSALS = range(2, 7)


@dataclass(frozen=True, slots=True)
class Summary:
    """All jobs of a sweep, in order."""

    folder: Path
    jobs: list[JobRecord]

    @property
    def totals(self) -> dict[str, int]:
        """Number of jobs, of those with a result, without one, skipped, and not run."""
        found = Counter(job.status for job in self.jobs)
        return {
            "total": len(self.jobs),
            "ok": sum(found[status] for status in GOOD),
            "failed": sum(found[status] for status in BAD),
            "skipped": found["skipped"],
            "not_run": found["not run"],
        }

    @property
    def exit_code(self) -> int:
        """The worst of the jobs' codes; a job that did not end counts as a bug."""
        return worst(job.counts_as for job in self.jobs)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of ``summary.json``."""
        jobs = [job.to_dict() for job in self.relative()]
        return {"schema": SCHEMA, **self.totals, "best": best_of(self.jobs), "jobs": jobs}

    def relative(self) -> list[JobRecord]:
        """Returns the jobs with the paths of their results relative to the sweep's folder."""
        return [
            dataclasses.replace(job, output_dir=self._relative(job.output_dir), report=self._relative(job.report))
            for job in self.jobs
        ]

    def _relative(self, path: str | None) -> str | None:
        return path and Path(os.path.relpath(path, self.folder)).as_posix()

    def write(self) -> None:
        """Writes both files into the sweep's folder."""
        write_json(self.folder / SUMMARY, self.to_dict())
        write_text(self.folder / "summary.csv", csv_of(self.relative()))


def worst(codes: Iterable[int]) -> int:
    """Returns the worst of exit codes: 1, like any unknown code, is worst; then 6 down to 2; then 0."""
    bad = [code if code in _REFUSALS else 1 for code in codes if code != 0]
    return 1 if 1 in bad else max(bad, default=0)


def summarize(sweep: Sweep, *, stopped: bool = False) -> Summary:
    """Lists the outcome of every job of a sweep that is over.

    Args:
        sweep: The sweep, as noted when it began.
        stopped: Whether the user or a scheduler ended it.
    """
    records = read_all(sweep.folder)
    resumed = [line("sweep.resume", str(sweep.folder))] if records else []
    expected = sweep.jobs if sweep.jobs is not None else []
    for job, overrides in enumerate(expected):
        if job not in records:
            records[job] = _not_run(job, readable(overrides), resumed)
        elif not records[job].overrides:
            records[job].overrides = readable(overrides)  # the record is damaged
    for record in records.values():
        if record.status == RUNNING:
            record.interrupt(sweep.folder) if stopped else _lost(record)
            _report_for(record)
    _add_values(records, () if sweep.start is None else sweep.start.swept)
    if sweep.start is not None:
        for record in records.values():
            command = command_of(sweep.start, record.job, record.overrides)
            record.command, record.command_note = command.line, command.note
    jobs = [records[job] for job in sorted(records)]
    if sweep.settings.compare.outputs:
        from .outputs import add_output_diffs  # noqa: PLC0415  # imports numpy

        add_output_diffs(jobs, sweep.settings.compare.reference)
    return Summary(sweep.folder, jobs)


def _add_values(records: Mapping[int, JobRecord], known: Iterable[str]) -> None:
    values = swept_values({job: records[job].overrides for job in sorted(records)}, known)
    for job, record in records.items():
        record.values = values[job]


def _not_run(job: int, overrides: list[str], fixes: Iterable[Fix]) -> JobRecord:
    error = error_of("NotRun", "the sweep ended before this job was started", *fixes)
    return JobRecord(job, overrides, status="not run", error=error)


def _lost(record: JobRecord) -> None:
    """Closes a record whose job's supervising process is gone too."""
    record.status, record.exit_code = "crashed", None
    message = "the process that ran the job was lost, and its exit code with it"
    record.error = error_of("Crashed", message)


def _report_for(record: JobRecord) -> None:
    """Writes the report of a job that left none, and whose supervising process left none either."""
    if record.output_dir is None or Path(record.output_dir, REPORT).exists():
        return
    error = ErrorReport(**(record.error or {}))
    report = Report("failed" if record.exit_code == INTERRUPTED else "error", record.exit_code or 1, error)
    report.overrides = record.overrides
    with suppress(OSError):  # no room, or no folder
        record.report = str(write_report(report, Path(record.output_dir)))


def show_summary(summary: Summary, console: Console | None = None, *, written: bool = True, page: bool = False) -> None:
    """Prints the table, the errors, the best jobs, the number of jobs with a result, and where page and summary are."""
    out = console or Console(highlight=False)
    out.print(table_of(summary.jobs, out.width if out.is_terminal else None), soft_wrap=True)
    out.file.flush()
    show_errors(summary.jobs)
    for text in best_lines(summary.jobs):
        out.print(Text(text), soft_wrap=True)
    if page:
        out.print(Text(f"page: {summary.folder / SWEEP_PAGE}"), soft_wrap=True)
    totals = summary.totals
    others = [f"{totals[name]} {name.replace('_', ' ')}" for name in ("skipped", "not_run") if totals[name]]
    counts = ", ".join([f"{totals['ok']} of {counted(totals['total'], 'job')} ok", *others])
    where = f": {summary.folder / SUMMARY}" if written else ""
    out.print(Text(counts + where, style="green" if totals["ok"] == totals["total"] else "red"), soft_wrap=True)


_LONGEST = 400


def conclude(sweep: Sweep, *, broken: bool = False, stopped: bool = False) -> int | None:
    """Writes and shows the summary of a sweep.

    Args:
        sweep: The sweep, as noted when it began.
        broken: Whether something other than a job ended it; then jobs that did not run are listed even if none ran.
        stopped: Whether the user or a scheduler ended it.

    Returns:
        The sweep's exit code; None if no job was started and there is nothing to report.
    """
    try:
        if sweep.watch is not None:
            sweep.watch.stop()
        summary = summarize(sweep, stopped=stopped)
        ran = any(job.status != "not run" for job in summary.jobs)
        if not summary.jobs or not (ran or broken):
            return None
        return worst([summary.exit_code if ran else ConfigError.exit_code, _write(summary, sweep.settings)])
    finally:
        if sweep.claim is not None:
            sweep.claim.release()


def _write(summary: Summary, settings: SweepConfig) -> int:
    folder = safe_text(str(summary.folder), _LONGEST)
    elsewhere = Fix("hydra.sweep.dir=FOLDER", "one with free space")
    try:
        summary.write()
    except OSError as error:
        show_summary(summary, written=False)
        return _refused(f"the summary could not be written to {folder}: {error.strerror}", elsewhere)
    reason = write_page(summary.folder, settings.compare) if settings.page else ""
    show_summary(summary, page=settings.page and not reason)
    forget(summary.folder)
    if reason == UNAWAITED:
        again = line("sweep.resume", str(summary.folder), note="writes it into the folder of the new sweep")
        return _refused(f"{folder}/{SWEEP_PAGE} was not written, as the sweep was interrupted", again)
    if reason:
        return _refused(f"{folder}/{SWEEP_PAGE} could not be written: {reason}", Fix("sweep.page=false"), elsewhere)
    return 0


def _refused(message: str, *fixes: Fix) -> int:
    refusal = ConfigError(message, *fixes)
    print_error(refusal)
    return refusal.exit_code


def print_broken_off(error: Exception, sweep: Sweep) -> None:
    """Reports what ended a sweep early, such as a launcher without its server."""
    what = " or ".join(sweep.plugins) or "the launcher"
    fault = f"{what} ended the sweep: {type(error).__name__}: {safe_text(str(error), _LONGEST)}"
    launched = len(sweep.plugins) > (sweep.jobs is None)  # a sweeper that draws its jobs is one of them
    elsewhere = [Fix("hydra/launcher=basic", "one job after another, on this machine")] if launched else []
    print_error(ConfigError(fault, *elsewhere))
