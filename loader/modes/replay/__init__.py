"""Repeats a recorded run, and says whether it gives the same again.

Guarantees: the run goes through the same steps as any other, with the config of its report; permissions, credentials
and places to write to come from the command line alone. Differences of the results are a failed verification that names
the first of them; those of the environment are listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...config.laid import Laid
from ...config.parse import parse_job
from ...errors import CheckpointError, ConfigError, FitError, LoaderError, VerificationError
from ...report import environment, terminal
from ...report.data import Check, Difference, ReplayReport, Report
from ...report.kept import KEPT, Kept, read_kept
from ...schema import JobConfig
from ...text.wording import counted, listing, safe_text
from . import recorded as runs
from .comparing import Finding, Sides, compare, environments, files, fix_of
from .outputs import Outputs
from .settings import permission_lines, settings

_LONGEST = 300
_OF_REPLAY = ("mode", "replay")


def lines(report: Report) -> list[terminal.Line]:
    """Returns the report of a replay as labeled lines."""
    return [*terminal.lines(report), *_lines(report.replay)] if report.replay is not None else terminal.lines(report)


def _lines(replay: ReplayReport) -> Iterator[terminal.Line]:
    yield "replay", f"{safe_text(replay.path, _LONGEST)}: {replay.status}", _STYLES[replay.status]
    if replay.overrides:
        yield "", f"laid over it: {listing(replay.overrides, 12)}", ""
    if replay.folder:
        yield "", f"relative paths start at {safe_text(replay.folder, _LONGEST)}", "dim"
    if replay.left_out:
        yield "", f"permissions of the recorded run that this one lacks: {listing(replay.left_out)}", "yellow"
    for check in replay.compared:
        mark, style = terminal.MARKS[check.ok]
        yield "", f"{mark} {check.name}: {safe_text(check.detail, _LONGEST)}", style
    for number, one in enumerate(replay.environment):
        text = f"{safe_text(one.name)}: {safe_text(one.found)}, recorded {safe_text(one.recorded)}"
        yield "other" if number == 0 else "", text, "dim"


_STYLES = {"reproduced": "green", "different": "bold red", "not compared": "yellow"}


class Replay:
    """A recorded run that a job repeats.

    Args:
        named: The recorded run's folder, or its report.
        composed: The config that was composed here.
        laid: What was typed for this run.
        report: The new run's report; gets the repeated config, and the comparison.
        folder: The new run's folder; None for a run without one.

    Raises:
        ConfigError: There is no such run, it did not end well, or its config cannot be repeated.
    """

    def __init__(
        self,
        named: str | None,
        composed: Mapping[str, Any],
        laid: Sequence[Laid],
        report: Report,
        folder: Path | None = None,
    ) -> None:
        self._recorded = runs.read(named)
        self._report, self._folder = report, folder
        report.replay = self._outcome = ReplayReport(str(self._recorded.path))
        if folder is not None:
            runs.refuse_replacing(named, folder)
        self._laid = [one for one in laid if one.path[0] not in _OF_REPLAY]
        where = safe_text(self._recorded.path, _LONGEST)
        made = settings(self._recorded.report, composed, self._laid, where)
        typed = list(dict.fromkeys(one.override for one in self._laid))
        report.config = made.config
        self._outcome.overrides, self._outcome.folder, self._outcome.left_out = typed, made.folder, made.left_out
        self.job = _parsed(made.config, where)
        self._kept = _kept(self._recorded.report, self._recorded.folder)

    @contextmanager
    def compared(self) -> Iterator[None]:
        """Compares the run in the block with the recorded one.

        Raises:
            VerificationError: It does not reproduce.
        """
        try:
            yield
        except LoaderError as error:
            self._refused(error)
            raise
        environment.describe(self._report)
        self._outcome.environment = environments(self._recorded.report, self._report)
        findings = list(compare(self._sides(), self._outputs()))
        self._note(findings)
        failed = [finding for finding in findings if finding.check.ok is False]
        if failed:
            raise self._different(failed)
        self._outcome.status = "reproduced"

    @contextmanager
    def room(self) -> Iterator[Path | None]:
        """Yields a folder for what the run keeps: its own, or a temporary one, if there are outputs to compare with."""
        if self._folder is not None or self._kept is None:
            yield self._folder
            return
        with TemporaryDirectory() as made:
            try:
                yield Path(made)
            finally:
                self._report.verification.kept = None

    def _sides(self) -> Sides:
        return Sides(self._recorded.report, self._report, self.job, self._laid)

    def _outputs(self) -> Outputs | None:
        now = self._report.verification.kept
        if self._kept is None or now is None:
            return None
        return Outputs(self._kept, read_kept(Path(now["path"])))

    def _note(self, findings: Sequence[Finding]) -> None:
        self._outcome.compared = [finding.check for finding in findings]
        self._outcome.differences = [one.difference for one in findings if one.difference is not None]

    def _different(self, failed: Sequence[Finding]) -> VerificationError:
        self._outcome.status = "different"
        first = failed[0].check
        more = f" ({counted(len(failed), 'difference')} in all)" if len(failed) > 1 else ""
        shown = safe_text(self._recorded.path, _LONGEST)
        return VerificationError(f"{shown} is not reproduced: {first.name}: {first.detail}{more}", fix_of(failed))

    def _refused(self, error: LoaderError) -> None:
        """Turns the refusal of a run that ended well before into a difference, if it is about what was loaded."""
        about_result = isinstance(error, FitError | VerificationError)
        if not about_result and not (isinstance(error, CheckpointError) and error.another):
            lines_of = (
                permission_lines(self._outcome.left_out) if isinstance(error, CheckpointError | ConfigError) else []
            )
            raise type(error)(error.message, *error.fixes, *lines_of) from error
        environment.describe(self._report)
        self._outcome.environment = environments(self._recorded.report, self._report)
        refusal = Finding(
            Check("run", False, f"refused, where the recorded one ended well: {error.message}"),
            Difference("run", "ok", f"{type(error).__name__}: {error.message}"),
        )
        opened = list(files(self._sides())) if self._report.parts.keys() == self._recorded.report.parts.keys() else []
        findings = [*opened, refusal]
        self._note(findings)
        failed = [finding for finding in findings if finding.check.ok is False]
        raised = self._different(failed)
        message = raised.message if len(failed) == 1 else f"{raised.message}; {refusal.check.detail}"
        raise VerificationError(message, *error.fixes, *raised.fixes) from error


def _parsed(config: Mapping[str, Any], where: str) -> JobConfig:
    try:
        return parse_job(config)
    except ConfigError as error:
        raise ConfigError(f"the config in {where} cannot be repeated: {error.message}", *error.fixes) from error


def _kept(report: Report, folder: Path) -> Kept | None:
    """Reads what the recorded run kept; None if it kept nothing, or the file is gone."""
    path = folder / KEPT
    return read_kept(path) if report.verification.kept is not None and path.is_file() else None
