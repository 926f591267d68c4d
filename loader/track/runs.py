"""A run, or a sweep with its jobs, as plain data for a tracker.

Guarantees: everything comes from `report.json` and `summary.json`, where URLs have no credentials. Jobs that never
ran, and figures that are not finite numbers, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..report.data import REPORT
from ..report.facts import facts_of
from ..report.reading import read_content

SUMMARY = "summary.json"

_FIGURES = (
    *("seconds", "load_seconds", "forward_seconds", "evaluate_seconds"),
    *("peak_rss_bytes", "output_diff", "golden_diff"),
)
"""What a row of a summary has besides its metrics."""

_TAGS = ("status", "exit_code", "fingerprint", "dtype", "device", "torch", "command")
_TOTALS = ("total", "ok", "failed", "skipped", "not_run")
_STATUS = {"ok": "FINISHED", "reused": "FINISHED", "failed": "FAILED", "error": "FAILED"}
_STOPPED = "KILLED"
"""The status of a job that crashed or took too long."""

_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a tracker."""

    name: str
    status: str
    """``FINISHED``, ``FAILED`` or ``KILLED``."""
    began: float
    """Seconds since the epoch."""
    ended: float
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = 0
    tags: dict[str, Any] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    jobs: list[Run] = field(default_factory=list)
    """The runs of a sweep's jobs."""


def of_run(folder: Path, name: str | None) -> Run:
    """Describes a single run.

    Args:
        folder: The run's, with its report.
        name: The run's name; None for that of the folder.

    Raises:
        OSError: There is no report.
        ValueError: It is not JSON.
    """
    report = read_content(folder / REPORT)
    row = {
        **facts_of(report),
        "seconds": _mapping(report.get("timings")).get("total"),
        **{key: report.get(key) for key in ("status", "exit_code", "error")},
        "values": dict(_typed(report.get("overrides") or ())),
    }
    return _of_row(row, name or _named(folder), folder)


def of_sweep(folder: Path, name: str | None) -> Run:
    """Describes a sweep with its jobs.

    Args:
        folder: The sweep's, with its summary.
        name: The sweep's name; None for that of the folder.

    Raises:
        OSError: There is no summary.
        ValueError: It is not JSON.
    """
    summary = read_content(folder / SUMMARY)
    ran = [row for row in summary["jobs"] if row.get("status") in _STATUS or row.get("exit_code") is not None]
    jobs = [_of_row(row, _job_name(row), folder / str(row.get("output_dir") or "")) for row in ran]
    ended = (folder / SUMMARY).stat().st_mtime
    totals = {key: number for key in _TOTALS if (number := _number(summary.get(key))) is not None}
    return Run(
        name or _named(folder),
        "FINISHED" if totals.get("failed") == totals.get("not_run") == 0 else "FAILED",
        min((job.began for job in jobs), default=ended),
        ended,
        metrics=totals,
        tags={f"best.{metric}": job for metric, job in _mapping(summary.get("best")).items()},
        files=_there(folder, SUMMARY, "summary.csv", "summary.html"),
        jobs=jobs,
    )


def _of_row(row: Mapping[str, Any], name: str, folder: Path) -> Run:
    metrics = {figure: number for figure in _FIGURES if (number := _number(row.get(figure))) is not None}
    for metric, found in _mapping(row.get("metrics")).items():
        for key, figure in ((metric, "value"), (f"{metric}_stderr", "stderr")):
            if (number := _number(_mapping(found).get(figure))) is not None:
                metrics[key] = number
    files = _there(folder, REPORT, "report.html")
    ended = files[0].stat().st_mtime if files else 0.0
    error = _mapping(row.get("error"))
    tags = {key: row[key] for key in _TAGS if row.get(key) is not None}
    return Run(
        name,
        _STATUS.get(str(row.get("status")), _STOPPED),
        ended - (_number(row.get("seconds")) or 0),
        ended,
        params=dict(_mapping(row.get("values"))),
        metrics=metrics,
        step=int(_number(row.get("step")) or 0),
        tags=tags | ({"error": f"{error.get('type')}: {error.get('message')}"} if error else {}),
        files=files,
    )


def _job_name(row: Mapping[str, Any]) -> str:
    values = " ".join(f"{key}={value}" for key, value in _mapping(row.get("values")).items())
    return f"{row.get('job')} {values}".strip()[:_LONGEST_NAME]


def _named(folder: Path) -> str:
    """Names a run after its folder: in Hydra's own folders, that is a date and a time."""
    return "/".join(folder.resolve().parts[-2:])


def _typed(overrides: Iterable[str]) -> Iterable[tuple[str, str]]:
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        if equals and not key.startswith(("~", "hydra.", "hydra/", "track")):
            yield key, value


def _there(folder: Path, *names: str) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
