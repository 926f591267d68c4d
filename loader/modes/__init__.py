"""What a job can do besides loading, one package per mode; each has `lines(report)` for the terminal."""

from __future__ import annotations

from ..report import terminal
from ..report.data import Report


def lines(report: Report) -> list[terminal.Line]:
    """Returns the report of a job as labeled lines, as its mode shows it."""
    # Each mode is imported only for its own jobs.
    if report.mode == "inspect":
        from . import inspect  # noqa: PLC0415

        return inspect.lines(report)
    if report.mode == "convert":
        from . import convert  # noqa: PLC0415

        return convert.lines(report)
    if report.mode == "scaffold":
        from . import scaffold  # noqa: PLC0415

        return scaffold.lines(report)
    if report.mode == "replay":
        from . import replay  # noqa: PLC0415

        return replay.lines(report)
    return terminal.lines(report)
