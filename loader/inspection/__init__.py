"""Fills `report.inspection`."""

from __future__ import annotations

from loader.config.schema import JobConfig
from loader.report.data import Report


def inspect_files(job: JobConfig, report: Report) -> None:
    """Fills `report.inspection`."""
    raise NotImplementedError
