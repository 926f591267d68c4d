"""Writes a config."""

from __future__ import annotations

from loader.config.schema import JobConfig
from loader.report.data import Report


def write_scaffold(job: JobConfig, report: Report) -> None:
    """Writes a config."""
    raise NotImplementedError
