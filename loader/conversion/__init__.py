"""Writes the model."""

from __future__ import annotations

from torch import nn

from loader.config.schema import JobConfig
from loader.report.data import Report


def convert(module: nn.Module, job: JobConfig, report: Report) -> None:
    """Writes the model."""
    raise NotImplementedError
