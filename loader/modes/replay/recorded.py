"""The recorded run that a replay repeats.

Guarantees: only a run that ended well is repeated, and only one that loads; nothing of its report is followed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from ...report.data import REPORT, Report
from ...report.reading import read_report
from ...text.lines import Fix, line
from ...text.wording import safe_text

_LONGEST = 400
_SUMMARY = "summary.json"
_EXPECTED = Fix("replay.path=FOLDER", "of a run that ended well")


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run that ended well."""

    path: Path
    """Its report.json."""
    report: Report
    """What it reported."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.path.parent


def read(named: str | None) -> Recorded:
    """Reads the run that ``replay.path`` names.

    Raises:
        ConfigError: There is no such run, its report is damaged or of another version, or it has nothing to compare.
    """
    if not named:
        raise ConfigError("mode=replay needs replay.path, the folder of the run to repeat", Fix("replay.path=FOLDER"))
    path = _report_of(named)
    report = read_report(path, _EXPECTED)
    shown = safe_text(path, _LONGEST)
    _refuse_values(report, shown)
    if report.mode not in ("load", "replay"):
        fault = f"{shown} is of a run with mode={report.mode}; only runs with mode=load are repeated"
        raise ConfigError(fault, Fix("replay.path=FOLDER", "of a run with mode=load"))
    if report.status != "ok" or report.exit_code != 0:
        error = report.error
        why = f" ({error.type}: {safe_text(' '.join(error.message.split()), 200)})" if error is not None else ""
        raise ConfigError(f"{shown} is of a run that did not end well{why}; there is nothing to compare", _EXPECTED)
    return Recorded(path, report)


def _refuse_values(report: Report, shown: str) -> None:
    """Refuses a recorded metric that is not a number; null stands for one that JSON does not have."""
    for name, row in report.evaluation.metrics.items() if report.evaluation is not None else ():
        value = row.get("value")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            place = f"evaluation.metrics.{safe_text(name)}.value"
            found = f"{safe_text(value)!r}" if isinstance(value, str) else safe_text(value)
            raise ConfigError(f"{shown} is damaged: '{place}' is {found}, expected a number", _EXPECTED)


def refuse_replacing(named: object, folder: Path, *, swept: bool = False) -> None:
    """Refuses to write over a recorded run before anything is written; a path that names no run is refused elsewhere.

    Args:
        named: What ``replay.path`` says.
        folder: Where the new run, or the sweep, will write.
        swept: Whether it is a sweep, whose jobs have folders of their own in that one.

    Raises:
        ConfigError: The recorded run is there.
    """
    try:
        recorded = _report_of(named).parent if isinstance(named, str) else None
    except ConfigError:
        return
    if recorded is None or not folder.exists():
        return
    above = recorded.parent
    is_job = swept and (recorded.name.isdecimal() or (above / _SUMMARY).is_file())
    if folder.samefile(recorded) or (is_job and folder.samefile(above)):
        key = "hydra.sweep.dir" if swept else "hydra.run.dir"
        fault = f"{safe_text(recorded, _LONGEST)} is the folder of the recorded run, which must stay"
        raise ConfigError(f"{fault}; a folder for the new run was expected", Fix(f"{key}=FOLDER"))


def _report_of(named: str) -> Path:
    if "\0" in named:
        raise ConfigError(f"'replay.path' is {named!r:.60}, expected the folder of a run", _EXPECTED)
    path = Path(os.path.abspath(os.path.expanduser(named)))  # noqa: PTH100, PTH111  # pathlib raises on an unknown user
    shown = safe_text(path, _LONGEST)
    if not os.path.lexists(path):
        raise ConfigError(f"'replay.path' is {shown}, which does not exist; expected the folder of a run", _EXPECTED)
    if not path.is_dir():
        return path
    if not os.path.lexists(path / REPORT):
        if (path / _SUMMARY).is_file():
            fault = f"{shown} is the folder of a sweep; a replay repeats one job"
            raise ConfigError(fault, line("replay.path", f"{named.rstrip('/')}/0", note="the first job"))
        raise ConfigError(f"{shown} has no {REPORT}; expected the folder of a run", _EXPECTED)
    return path / REPORT
