"""The errors of a sweep's jobs, at its end.

Guarantees: each different error is shown once, with its jobs and the lines to type, however many jobs it ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import LoaderError
from ..report.terminal import print_error, print_note
from ..text.lines import Fix, typed
from ..text.wording import counted, listing
from .output import OUTPUT, has_output
from .record import JobRecord

_MOST = 20
"""Different errors that are shown."""
_ENDED = ("Interrupted", "NotRun")
"""Errors of jobs that ended, or never began, because their sweep did."""
_OF_THE_SWEEP = (*_ENDED, "Skipped")
"""Errors that say no more than the table does."""


def show_errors(jobs: Sequence[JobRecord]) -> None:
    """Prints the errors of jobs on stderr."""
    found = list(errors_of(jobs))
    for error in found[:_MOST]:
        print_error(error)
    if len(found) > _MOST:
        print_note(f"{counted(len(found) - _MOST, 'more error')}: summary.csv lists them")


def errors_of(jobs: Sequence[JobRecord]) -> Iterator[LoaderError]:
    """Yields each different error, as a refusal that names its jobs."""
    for group in _grouped([job for job in jobs if job.error and job.error.get("type") not in _OF_THE_SWEEP]):
        first = group[0]
        error = first.error or {}
        numbers = listing([job.job for job in group])
        name = f"job {numbers}" if len(group) == 1 else f"jobs {numbers}"
        fixes = [*_fixes(error.get("fixes"))]
        if first.status == "error":
            fixes += _traceback(first)
        yield LoaderError(f"{name}: {error.get('message')}", *fixes)
    yield from _ended_early(jobs)


def _ended_early(jobs: Sequence[JobRecord]) -> Iterator[LoaderError]:
    """Yields one refusal for all jobs that the end of the sweep cost, if there is a line that runs them."""
    found = [job for job in jobs if job.error and job.error.get("type") in _ENDED]
    fixes = next((fixes for job in found if (fixes := [*_fixes((job.error or {}).get("fixes"))])), [])
    if fixes:
        numbers = listing([job.job for job in found])
        name = f"job {numbers} was" if len(found) == 1 else f"jobs {numbers} were"
        yield LoaderError(f"{name} not run to the end, as the sweep ended before", *fixes)


def _fixes(found: Any) -> Iterator[Fix]:
    """Reads the fixes of a report, which may be damaged."""
    for fix in found if isinstance(found, list) else ():
        if isinstance(fix, dict):
            yield Fix(str(fix.get("line") or ""), str(fix.get("note") or ""))


def _grouped(jobs: Sequence[JobRecord]) -> Iterator[list[JobRecord]]:
    groups: dict[tuple[str, ...], list[JobRecord]] = {}
    for job in jobs:
        error = job.error or {}
        groups.setdefault(tuple(str(error.get(name)) for name in ("type", "message", "hint")), []).append(job)
    yield from groups.values()


def _traceback(job: JobRecord) -> Iterator[Fix]:
    if job.output_dir and has_output(Path(job.output_dir)):
        yield typed("cat", str(Path(job.output_dir, OUTPUT)), note="has the traceback")
