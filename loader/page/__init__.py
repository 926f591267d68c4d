"""The HTML pages of a sweep and of a run.

Guarantees: one file each, which opens offline and makes no request, whatever the reports contain. This package is the
only place that knows HTML; it reads reports, summaries and the outputs that jobs keep, and no private state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..schema import CompareConfig
from ..text.wording import safe_text

SWEEP_PAGE = "summary.html"
"""The name of a sweep's page, in its folder."""

RUN_PAGE = "report.html"
"""The name of a run's page, in its folder."""

_LONGEST = 400


def reason_against(write: Callable[[], object]) -> str:
    """Writes a page; returns why it could not be written, and an empty text if it was."""
    try:
        write()
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # noqa: BLE001  # a bug of a page must not cost a finished job its result
        return f"a bug of the loader, please report it: {type(error).__name__}: {safe_text(error, _LONGEST)}"
    return ""


def write_sweep_page(folder: Path, summary: Mapping[str, Any], compare: CompareConfig | None = None) -> Path:
    """Writes the page of a sweep.

    Args:
        folder: The sweep's.
        summary: The content of its ``summary.json``.
        compare: What is compared between jobs; None compares as the defaults say.

    Raises:
        OSError: It cannot be written.
    """
    from .build import write_page  # noqa: PLC0415  # a job without a page needs no templates
    from .sweep import sweep_content  # noqa: PLC0415  # likewise

    return write_page(folder / SWEEP_PAGE, sweep_content(summary, folder, compare or CompareConfig()))


def write_run_page(folder: Path, report: Mapping[str, Any]) -> Path:
    """Writes the page of a run.

    Args:
        folder: The run's.
        report: The content of its ``report.json``.

    Raises:
        OSError: It cannot be written.
    """
    from .build import write_page  # noqa: PLC0415  # a job without a page needs no templates
    from .run import run_content  # noqa: PLC0415  # likewise

    return write_page(folder / RUN_PAGE, run_content(report, folder))
