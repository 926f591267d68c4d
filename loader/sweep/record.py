"""One job of a sweep, as ``summary.json`` lists it.

Guarantees: a record holds only plain data, at most a few kilobytes of it, whatever the job's report contains. Whichever
way a job ended, its record has a status, and what the sweep counts it as.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import INTERRUPTED, ConfigError
from ..report.data import REPORT, ErrorReport
from ..report.facts import facts_of
from ..report.reading import read_content
from ..text.lines import Fix, line, typed
from ..text.wording import counted, printable
from .output import OUTPUT, has_output

RUNNING = "running"
"""The status of a job that has not ended; it never appears in a summary."""

TIMED_OUT = 124
"""The exit code of a job that took too long, as of ``timeout``."""

GOOD = ("ok", "reused")
"""The statuses of jobs that have a result."""

BAD = ("failed", "error", "crashed", "timed out")
"""The statuses of jobs that ended without one."""

STOPPED = "Stopped"
"""The type of the error of a job that did not run because of ``sweep.stop_after``."""


def error_of(kind: str, message: str, *fixes: Fix) -> dict[str, Any]:
    """Returns an error as a record stores it."""
    return dataclasses.asdict(ErrorReport.of(kind, message, fixes))


@dataclass(frozen=True, slots=True)
class Unwritten:
    """The part of a report that a record needs, where the report itself could not be written."""

    error: dict[str, Any] | None
    """The job's; if it ended well, the reason why there is no report."""
    facts: dict[str, Any]

    @classmethod
    def of(cls, report: Mapping[str, Any], reason: str) -> Unwritten:
        """Makes it from the content of a report.

        Args:
            report: As it would be read from its file.
            reason: Why it could not be written.
        """
        elsewhere = Fix("hydra.sweep.dir=FOLDER", "one with free space")
        fault = error_of("ConfigError", f"the job's {REPORT} could not be written: {reason}", elsewhere)
        return cls(_error_in(report) or fault, facts_of(report))


@dataclass(slots=True)
class JobRecord:
    """One job of a sweep, as ``summary.json`` lists it."""

    job: int
    """The job's number in the sweep."""
    overrides: list[str] = field(default_factory=list)
    """The job's overrides, as typed."""
    status: str = RUNNING
    """``ok``, ``failed`` (refused), ``error`` (a bug of the loader), ``crashed``, ``timed out``, ``skipped`` (its
    device may be absent), ``reused`` (an earlier sweep's result) or ``not run``."""
    exit_code: int | None = None
    """The job's exit code; null if it is lost, or if the job did not run."""
    error: dict[str, Any] | None = None
    """``{type, message, hint, fixes}``, as in ``report.json``; null if the job succeeded."""
    values: dict[str, Any] = field(default_factory=dict)
    """The job's value of each swept key; an option of a group is its name."""
    step: float | None = None
    """The file's ``global_step``, else its ``step``, else its ``epoch``; null if it has none of them."""
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    """``{value, stderr, n}`` of each metric."""
    higher_is_better: dict[str, bool] = field(default_factory=dict)
    """Whether the highest or the lowest value of a metric is the best one, where that is known."""
    n: int | None = None
    """Number of samples that were measured."""
    fingerprint: str | None = None
    """The identity of the loaded weights."""
    output_diff: float | None = None
    """Largest absolute difference to the outputs of the reference job; null unless both had the same inputs."""
    golden_diff: float | None = None
    """Largest absolute difference to the golden record's outputs."""
    parameters: int | None = None
    """Number of elements of all parameters."""
    loaded: int | None = None
    """Number of loaded keys."""
    missing: int | None = None
    """Number of missing keys, also if allowed."""
    unexpected: int | None = None
    """Number of unexpected keys, also if allowed."""
    mismatched: int | None = None
    """Number of mismatched keys, also if allowed."""
    cast: int | None = None
    """Number of tensors whose dtype changed."""
    dtype: str | None = None
    """The dtypes of the model's tensors, separated by ``/``; null if the job ended before they were final."""
    device: str | None = None
    """The device that the model is on."""
    file_bytes: int | None = None
    """Size of the job's files."""
    load_seconds: float | None = None
    """Time from opening the files to the model on its device."""
    forward_seconds: float | None = None
    """Time of the forward pass."""
    evaluate_seconds: float | None = None
    """Time of the evaluation."""
    seconds: float | None = None
    """How long the job took, with the start of its process."""
    peak_rss_bytes: int | None = None
    """The largest resident memory of the job's process."""
    torch: str | None = None
    """The version of torch."""
    command: str | None = None
    """A line for a POSIX shell that runs this job alone, from the folder in the report's ``environment.cwd``; null if
    no line can."""
    command_note: str = ""
    """Why there is no command, or how the line must be completed; empty if it can be pasted as it is."""
    output_dir: str | None = None
    """The job's folder; in ``summary.json``, relative to the sweep's."""
    report: str | None = None
    """Path of the job's ``report.json``, if it wrote one; in ``summary.json``, relative to the sweep's folder."""

    @property
    def counts_as(self) -> int:
        """The exit code as the sweep counts it: a job that did not finish counts as a bug."""
        if self.status in (*GOOD, "skipped") or (self.error or {}).get("type") == STOPPED:
            return 0
        return self.exit_code if self.status == "failed" and self.exit_code is not None else 1

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain data."""
        return dataclasses.asdict(self)

    def settle(self, exit_code: int, unwritten: Unwritten | None = None) -> None:
        """Takes the outcome of a finished job from its report.

        Args:
            exit_code: The job's.
            unwritten: What the job sent instead of a report.
        """
        self.exit_code = exit_code
        self.status = {0: "ok", 1: "error"}.get(exit_code, "failed")
        if unwritten is not None:
            self._take(unwritten.error, unwritten.facts)
            return
        path = Path(self.output_dir or "", REPORT)
        try:
            report = read_content(path)
        except FileNotFoundError:
            self.error = error_of("ConfigError", f"{path} could not be written")
        except (OSError, ValueError) as error:
            self.report = str(path)
            self.error = error_of("ConfigError", f"{path} cannot be read: {printable(str(error))}")
        else:
            self.report = str(path)
            self.describe(report)

    def describe(self, report: Mapping[str, Any]) -> None:
        """Takes the job's error and figures from its report."""
        self._take(_error_in(report), facts_of(report))

    def _take(self, error: dict[str, Any] | None, facts: Mapping[str, Any]) -> None:
        self.error = error
        for name, value in facts.items():
            setattr(self, name, value)

    def refuse(self, error: ConfigError) -> None:
        """Notes that the job was refused before it ran."""
        self.status, self.exit_code = "failed", error.exit_code
        self.error = error_of(type(error).__name__, error.message, *error.fixes)

    def crash(self, process_code: int) -> None:
        """Notes that the job's process ended before the job was done.

        Args:
            process_code: As `multiprocessing` gives it: the exit code, or minus the signal's number.
        """
        self.status = "crashed"
        self.exit_code = process_code if process_code >= 0 else 128 - process_code
        how = f"ended with code {process_code}" if process_code >= 0 else f"was killed by {_signal_name(-process_code)}"
        fixes = [*_last_words(self.output_dir)]
        fixes += [Fix("dmesg | tail", "says whether memory ran out")] if "SIGKILL" in how else []
        path = Path(self.output_dir or "", REPORT)
        self.report = str(path) if path.is_file() else None
        self.error = error_of("Crashed", f"the job's process {how} before the job was done", *fixes)

    def time_out(self, seconds: float) -> None:
        """Notes that the job took longer than it may, and was ended.

        Args:
            seconds: The value of ``sweep.timeout``.
        """
        self.status, self.exit_code = "timed out", TIMED_OUT
        path = Path(self.output_dir or "", REPORT)
        self.report = str(path) if path.is_file() else None
        ended = f"it was ended {seconds:g} s after its process began (sweep.timeout={seconds:g})"
        twice = float(2 * seconds)
        longer = line(
            "sweep.timeout", int(twice) if twice.is_integer() else twice, note="allows more time, and null any"
        )
        self.error = error_of("TimedOut", f"the job was not done in time: {ended}", longer)

    def reuse(self, path: Path, report: Mapping[str, Any], seconds: float | None) -> None:
        """Takes the outcome of the same job in an earlier sweep.

        Args:
            path: The earlier job's report.
            report: Its content.
            seconds: How long the earlier job took.
        """
        self.status, self.exit_code, self.seconds = "reused", 0, seconds
        self.report, self.output_dir = str(path), str(path.parent)
        self.describe(report)

    def skip(self) -> None:
        """Notes that the job's device may be absent, and is; the error that it ended with is the reason."""
        reason = (self.error or {}).get("message", "")
        self.status, self.exit_code, self.error = "skipped", 0, error_of("Skipped", reason)

    def stop(self, limit: int, folder: Path) -> None:
        """Notes that the job is not started, since enough others did not end well.

        Args:
            limit: The value of ``sweep.stop_after``.
            folder: The sweep's.
        """
        self.status, self.output_dir = "not run", None
        ended = f"{counted(limit, 'job')} did not end well, and sweep.stop_after={limit} starts no more then"
        self.error = error_of(STOPPED, ended, line("sweep.resume", str(folder)))

    def fail(self, error: Exception) -> None:
        """Notes that the job could not be started."""
        self.status, self.exit_code = "error", 1
        self.error = error_of(type(error).__name__, printable(str(error)))

    def interrupt(self, folder: Path) -> None:
        """Notes that the user or a scheduler stopped the sweep while the job ran.

        Args:
            folder: The sweep's.
        """
        self.status, self.exit_code = "crashed", INTERRUPTED
        path = Path(self.output_dir or "", REPORT)
        self.report = str(path) if path.is_file() else None
        self.error = error_of("Interrupted", "interrupted before the job was done", line("sweep.resume", str(folder)))


def _error_in(report: Mapping[str, Any]) -> dict[str, Any] | None:
    error = report.get("error")
    return error if isinstance(error, dict) else None


def _last_words(folder: str | None) -> Iterator[Fix]:
    """Yields the line that shows what a job printed before its end, if it printed anything."""
    if folder is not None and has_output(Path(folder)):
        yield typed("tail", str(Path(folder, OUTPUT)), note="shows its last output")


def _signal_name(number: int) -> str:
    known = {member.value: member.name for member in signal.Signals}
    return f"signal {number} ({known[number]})" if number in known else f"signal {number}"
