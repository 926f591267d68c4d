"""The table of jobs: columns, and a cell of each job in each of them.

Guarantees: a plain table that is complete without scripts. A cell has the text that is shown and, if it is a number,
the number that it is sorted by. Columns in which all jobs are alike are listed once instead, and can be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .jobs import Failure, Job, Jobs, Limits
from .plain import amount, figure, link, number, seconds, without_shared_folder, word


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell."""

    text: str = ""
    sort: float | None = None
    """The number behind the text; None sorts by the text."""
    more: str = ""
    """Shown behind the text, less prominent: a standard error."""
    whole: str = ""
    """The text in full, if it is cut."""
    href: str = ""
    to: str = ""
    """The place in the page that it leads to."""
    best: bool = False


@dataclass(slots=True)
class Column:
    """One column."""

    title: str
    cells: list[Cell]
    numeric: bool = False
    kind: str = ""
    """``status``, ``error``, ``metric`` or empty."""
    shown: bool = True
    """Whether it is shown before the reader chooses."""


@dataclass(slots=True)
class Table:
    """All columns, and what is the same in all jobs."""

    columns: list[Column]
    alike: list[tuple[str, str]] = field(default_factory=list)

    @property
    def rows(self) -> list[list[Cell]]:
        """The cells by job."""
        return [list(cells) for cells in zip(*(column.cells for column in self.columns), strict=True)]


def _count(value: float | None) -> str:
    return figure(value)


_FIGURES: Sequence[tuple[str, str, Callable[[float | None], str]]] = (
    ("output_diff", "output diff", figure),
    ("golden_diff", "golden diff", figure),
    ("loaded", "loaded", _count),
    ("missing", "missing", _count),
    ("unexpected", "unexpected", _count),
    ("mismatched", "mismatched", _count),
    ("cast", "cast", _count),
    ("parameters", "parameters", _count),
    ("n", "samples", _count),
    ("file_bytes", "file", amount),
    ("load_seconds", "load", seconds),
    ("forward_seconds", "forward", seconds),
    ("evaluate_seconds", "evaluate", seconds),
)
_TEXTS = (("dtype", "dtype"), ("device", "device"), ("fingerprint", "fingerprint"), ("torch", "torch"))
_GOT = ("dtype", "device")
"""Swept keys whose column also has what the model got."""


def table_of(found: Jobs, failures: Sequence[Failure | None], limits: Limits) -> Table:
    """Returns the table of a sweep's jobs.

    Args:
        found: All jobs.
        failures: Why each job has no result.
        limits: How much of a text is shown.
    """
    jobs = found.every
    fixed = [_job(jobs), Column("status", [Cell(job.status) for job in jobs], kind="status")]
    swept = [_asked(jobs, key, limits) if key in _GOT else _swept(jobs, key, limits) for key in found.keys]
    measured = [_number(jobs, "step", "step", figure), *(_metric(found, name) for name in found.metrics)]
    others = [_number(jobs, name, title, written) for name, title, written in _FIGURES]
    others += [_text(jobs, name, title, limits) for name, title in _TEXTS if not (name in _GOT and name in found.keys)]
    costs = [_number(jobs, "seconds", "seconds", seconds), _number(jobs, "peak_rss_bytes", "peak memory", amount)]
    ending = [_error(failures, jobs, limits)]
    table = Table([*fixed, *swept, *measured, *others[:2], *costs, *others[2:], *ending])
    table.columns = [column for column in table.columns if any(cell.text for cell in column.cells)]
    always = {id(column) for column in (*fixed, *swept, *measured, *costs, *ending)}
    for column in table.columns:
        alike = len(jobs) > 1 and len({cell.whole or cell.text for cell in column.cells if cell.text}) == 1
        if id(column) not in always and (alike or column.title in ("fingerprint", "torch")):
            column.shown = False
        if alike and id(column) not in {id(each) for each in (*fixed, *ending)}:
            table.alike.append((column.title, next(cell.whole or cell.text for cell in column.cells if cell.text)))
    return table


def _job(jobs: Sequence[Job]) -> Column:
    cells = [Cell(str(job.number), job.number, href=link(job.row.get("report"))) for job in jobs]
    return Column("job", cells, numeric=True)


def _swept(jobs: Sequence[Job], key: str, limits: Limits) -> Column:
    found = [job.values.get(key) for job in jobs]
    texts = [word(value, limits.text) for value in found]
    cells = [
        Cell(short, _sortable(value), whole=text if text != short else "")
        for short, text, value in zip(without_shared_folder(texts), texts, found, strict=True)
    ]
    return Column(word(key), cells, numeric=all(value is None or _sortable(value) is not None for value in found))


def _asked(jobs: Sequence[Job], key: str, limits: Limits) -> Column:
    """The column of what each job was to get, and what its model got if that is called otherwise."""
    cells = []
    for job in jobs:
        text = word("null" if job.values.get(key, "") is None else job.values.get(key), limits.text)
        got = word(job.row.get(key), limits.text)
        cells.append(Cell(text or got, more=got if text and got != text else ""))
    return Column(key, cells)


def _sortable(value: Any) -> float | None:
    return number(value) if not isinstance(value, bool) else None


def _metric(found: Jobs, name: str) -> Column:
    cells = []
    for job in found.every:
        value, stderr = job.metric(name)
        more = f"± {figure(stderr, 2)}" if stderr is not None else ""
        cells.append(Cell(figure(value), value, more, best=value is not None and found.best.get(name) == job.number))
    return Column(word(name if name not in found.keys else f"metrics.{name}"), cells, numeric=True, kind="metric")


def _number(jobs: Sequence[Job], name: str, title: str, written: Callable[[float | None], str]) -> Column:
    found = [job.figure(name) for job in jobs]
    return Column(title, [Cell(written(value), value) for value in found], numeric=True)


def _text(jobs: Sequence[Job], name: str, title: str, limits: Limits) -> Column:
    texts = [word(job.row.get(name), limits.text) for job in jobs]
    if name == "fingerprint":
        return Column(title, [Cell(text[:12], whole=text if len(text) > 12 else "") for text in texts])
    return Column(title, [Cell(text) for text in texts])


def _error(failures: Sequence[Failure | None], jobs: Sequence[Job], limits: Limits) -> Column:
    cells = []
    for job, failure in zip(jobs, failures, strict=True):
        first = failure.message.split("\n")[0][: limits.text] if failure else ""
        cells.append(
            Cell(": ".join(filter(None, (failure.type, first))), to=f"failed-{job.number}") if failure else Cell()
        )
    return Column("error", cells, kind="error")
