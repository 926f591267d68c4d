"""The results of an earlier sweep, for a sweep that goes on where it ended.

Guarantees: a result is used only if it is that of the same job (`report.identity`) and ended well; whatever is damaged,
incomplete or another version's is not used, and the job runs again. A folder from which nothing could ever be used is
refused before the first job. The earlier sweep's folder is only read, and may itself have reused results; one that was
interrupted is as good as one that ended.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ..errors import ConfigError
from ..report.data import REPORT
from ..report.identity import difference, identity_of
from ..report.terminal import print_note
from ..text.lines import Fix, line, typed
from ..text.wording import counted, safe_text
from .folders import SUMMARY, is_written
from .record import GOOD, RUNNING
from .records import records_folder

SCHEMA = 2
"""The version of a summary that can be read."""
_LARGEST = 256 << 20
"""Bytes of a report or summary that are read at most."""
_LONGEST = 400
_ALL = typed("sweep.resume=null", note="runs every job")
_SWEEPS = Fix("ls -td multirun/*/*/", "lists the sweeps, the last one first")


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job of the earlier sweep."""

    report: Path
    identity: Mapping[str, Any]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier sweep."""

    folder: Path
    results: Mapping[str, list[Result]]
    """By the digest of the job's config."""
    unusable: int
    """Number of jobs that ended well, but whose reports do not say what they were of."""

    def find(self, config: Mapping[str, Any]) -> Result | str:
        """Returns the result of the same job, or why there is none.

        Args:
            config: The job's resolved config.
        """
        now = identity_of(config)
        reason = "no job that ended well there has this config"
        for result in self.results.get(now["config"], []):
            found = difference(result.identity, now)
            if found is None:
                return result
            reason = f"{found} is not what it was then"
        return reason


def read_resumed(config: DictConfig, folder: Path) -> None:
    """Reads the sweep that another one resumes, if it does, before its first job.

    Args:
        config: The new sweep's own config.
        folder: The new sweep's folder.

    Raises:
        ConfigError: It is the new sweep's own folder, or nothing in it could be used.
    """
    resume = OmegaConf.select(config, "sweep.resume")
    if resume is None:
        return
    place = place_of(str(resume), Path(config.hydra.runtime.cwd))
    if place == folder.resolve():
        fault = f"{_shown(place)} is this sweep's own folder; expected that of an earlier sweep (sweep.resume)"
        raise ConfigError(fault, Fix("hydra.sweep.dir=FOLDER", "another folder for this sweep"))
    found = earlier(place)
    if found.unusable:
        jobs = counted(found.unusable, "job")
        print_note(f"{jobs} of {_shown(place)} cannot be recognized: the reports are missing, damaged or incomplete")


def place_of(resume: str, cwd: Path) -> Path:
    """Returns the absolute path of the folder of an earlier sweep."""
    return (cwd / Path(resume).expanduser()).resolve()


@functools.lru_cache(maxsize=4)
def earlier(folder: Path) -> Earlier:
    """Reads an earlier sweep.

    Args:
        folder: Its folder, absolute.

    Raises:
        ConfigError: Nothing in it could be used.
    """
    _refuse_other(folder)
    results: dict[str, list[Result]] = {}
    unusable = 0
    for path, seconds, sure in _finished(folder):
        result = _result(path, seconds)
        if result is not None:
            results.setdefault(str(result.identity.get("config")), []).append(result)
        else:
            unusable += sure
    return Earlier(folder, results, unusable)


def _refuse_other(folder: Path) -> None:
    """Refuses what is not the folder of a sweep that is over."""
    shown, summary = _shown(folder), folder / SUMMARY
    if folder.name == SUMMARY and folder.is_file():
        fault = f"'sweep.resume' is {shown}, a file; expected the folder of a sweep"
        raise ConfigError(fault, line("sweep.resume", str(folder.parent)))
    if not folder.is_dir():
        how = "is not a folder" if folder.exists() else "does not exist"
        raise ConfigError(f"{shown} {how}; expected the folder of a sweep (sweep.resume)", _SWEEPS)
    if is_written(folder):
        fault = f"the sweep in {shown} is still running; expected one that is over (sweep.resume)"
        raise ConfigError(fault, Fix(note="run it again once that sweep is over"))
    if not summary.is_file() and not any(records_folder(folder).glob("[0-9]*.json")):
        run = f", only the {REPORT} of a single run" if (folder / REPORT).is_file() else ""
        fault = f"{shown} has no {SUMMARY} and no records of jobs{run}; expected the folder of a sweep (sweep.resume)"
        raise ConfigError(fault, _SWEEPS)


def _finished(folder: Path) -> Iterator[tuple[Path, float | None, bool]]:
    """Yields the report of each job that ended well, how long it took, and whether it is known that it did."""
    rows = [*_of_records(folder), *_of_summary(folder)]
    for row in rows:
        status, report, own = row.get("status"), row.get("report"), row.get("output_dir")
        seconds = row.get("seconds") if isinstance(row.get("seconds"), int | float) else None
        if status in GOOD and isinstance(report, str):
            yield folder / report, seconds, True
        elif status == RUNNING and isinstance(own, str):
            # The job may have ended after the process that would have noted it.
            yield folder / own / REPORT, None, False


def _of_records(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yields the records of a sweep that was interrupted."""
    for file in sorted(records_folder(folder).glob("[0-9]*.json")):
        try:
            yield _mapping_in(file)
        except (OSError, ValueError):
            continue  # the job runs again


def _of_summary(folder: Path) -> list[Mapping[str, Any]]:
    summary = folder / SUMMARY
    if not summary.is_file():
        return []
    try:
        content = _read(summary)
        schema, rows = content.get("schema"), content.get("jobs")
    except (OSError, ValueError) as error:
        if any(records_folder(folder).glob("[0-9]*.json")):
            return []  # it was interrupted while it wrote its summary
        raise ConfigError(f"{_shown(summary)} cannot be read: {safe_text(str(error), _LONGEST)}", _ALL) from error
    if schema != SCHEMA:
        fault = f"{_shown(summary)} has schema {safe_text(schema)}, of another version of the loader; expected {SCHEMA}"
        raise ConfigError(fault, _ALL)
    if not isinstance(rows, list):
        raise ConfigError(f"{_shown(summary)} is damaged: it lists no jobs", _ALL)
    return [row for row in rows if isinstance(row, Mapping)]


def _result(path: Path, seconds: float | None) -> Result | None:
    try:
        report = _read(path)
    except (OSError, ValueError):
        return None
    identity = report.get("identity")
    if report.get("status") != "ok" or not isinstance(identity, Mapping) or not _is_there(report.get("written")):
        return None
    from .sound import is_sound  # noqa: PLC0415  # few sweeps resume another one

    if not is_sound(report, path.parent):
        return None
    return Result(path, identity, seconds)


def _is_there(written: Any) -> bool:
    """Returns whether the file that a job wrote, if it did, still exists."""
    path = written.get("path") if isinstance(written, Mapping) else None
    return path is None or (isinstance(path, str) and Path(path).exists())


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise ValueError(f"{path.name} is not a file of a bounded size")  # like any other damage
    return _mapping_in(path)


def _mapping_in(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a mapping")  # as for any other damage
    return content


def _shown(path: Path) -> str:
    return safe_text(str(path), _LONGEST)
