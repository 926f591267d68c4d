"""What a job can do besides loading, one package per mode; each has `lines(report)` for the terminal."""

from __future__ import annotations

from ..report import terminal
from ..report.data import Report
from ..runtime import importing
from ..schema import JobConfig


def run_without_model(job: JobConfig, report: Report) -> bool:
    """Carries a job out if its mode builds no model, or builds it in its own way.

    Args:
        job: The job.
        report: Filled on the way.

    Returns:
        Whether the job's mode is one of these.

    Raises:
        LoaderError: The job is refused.
    """
    # Imports are per mode: importing torch takes longer than inspecting a file.
    if job.mode == "inspect":
        from .inspect import run as run_inspect  # noqa: PLC0415  # only this mode needs it

        run_inspect(job, report)
    elif job.mode == "scaffold":
        with importing():
            from .scaffold import write_scaffold  # noqa: PLC0415  # only this mode needs it

        write_scaffold(job, report)
    elif job.mode == "compare":
        with importing():
            from .compare import run as run_compare  # noqa: PLC0415  # only this mode needs it

        run_compare(job, report)
    else:
        return False
    return True


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
    if report.mode == "compare":
        from . import compare  # noqa: PLC0415

        return compare.lines(report)
    return terminal.lines(report)
