"""Trackers: a run, or a sweep with its jobs, as the runs of another tool.

`runs` turns what a run or sweep has written into plain data, `names` makes its names acceptable, and `mlflow` logs it.
A tracker reads `report.json` and `summary.json` alone, after they were written. It never changes the outcome of a job.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_waiting: list[Callable[[Path], None]] = []
"""What logs this process's sweep once it has been summarized."""


def await_summary(log: Callable[[Path], None]) -> None:
    """Notes what is to be called with a sweep's folder after its summary was written."""
    _waiting.append(log)


def summarized(folder: Path) -> None:
    """Logs a sweep whose summary was written."""
    while _waiting:
        _waiting.pop()(folder)
