"""A sweep's jobs as one table on the terminal.

Guarantees: pure text, in colour only on a terminal; elsewhere every line is whole, however long.
"""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..text.wording import counted, safe_text
from .folder import SUMMARY
from .records import JobRecord
from .summary import Summary

_HEADS = ("job", "status", "exit", "seconds", "overrides", "error")
_LONGEST = 200
_STYLES = {"ok": "green", "failed": "red", "error": "bold red", "crashed": "bold red", "not run": "yellow"}


def show_summary(summary: Summary, console: Console | None = None, *, written: bool = True) -> None:
    """Prints the table, and the line that says how many jobs ended well and where the details are, if anywhere."""
    out = console or Console(highlight=False)
    rows = _rows(summary.jobs)
    if out.is_terminal:
        out.print(_rich_table(rows))
    else:
        out.print(Text("\n".join(_plain_lines(rows))), soft_wrap=True)
    total = len(summary.jobs)
    line = f"{summary.ok} of {counted(total, 'job')} ok" + (f": {summary.folder / SUMMARY}" if written else "")
    out.print(Text(line, style="green" if summary.ok == total else "red"), soft_wrap=True)


def _rows(jobs: list[JobRecord]) -> list[tuple[str, ...]]:
    shared = Counter(override for job in jobs for override in set(job.overrides))
    rows = []
    for job in jobs:
        # What all jobs share tells none of them apart.
        own = [override for override in job.overrides if shared[override] < len(jobs) or len(jobs) == 1]
        error = job.error or {}
        message = f"{error.get('type')}: {' '.join(str(error.get('message')).split())}" if error else ""
        seconds = "" if job.seconds is None else f"{job.seconds:.2f}"
        code = "" if job.exit_code is None else str(job.exit_code)
        shown = [safe_text(text, _LONGEST) for text in (" ".join(own), message)]
        rows.append((str(job.job), job.status, code, seconds, *shown))
    return rows


def _rich_table(rows: list[tuple[str, ...]]) -> Table:
    table = Table()
    for head in _HEADS:
        table.add_column(head, overflow="fold", no_wrap=head in _HEADS[:4])
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES[row[1]] if column == 1 else "") for column, cell in enumerate(row)))
    return table


def _plain_lines(rows: list[tuple[str, ...]]) -> list[str]:
    lines = [_HEADS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
