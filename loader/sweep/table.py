"""The table at the end of a sweep.

Guarantees: every job is one row, and a column is there only if its values differ between the jobs; metrics, seconds and
errors always are. The best value of each metric is marked. On a terminal a row is as wide as that at most: columns that
matter least are left out first, then texts are cut. Elsewhere nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..schema.columns import STEP
from ..text.wording import safe_text, size
from .columns import GOT, best_of, got, metrics_of, own_name
from .label import Labels, is_path, message_of, metric_text
from .record import BAD, GOOD, JobRecord

STYLES = {
    **dict.fromkeys(GOOD, "green"),
    **dict.fromkeys(BAD, "bold red"),
    "failed": "red",
    "skipped": "yellow",
    "not run": "yellow",
}
BEST = "*"
"""The mark behind the best value of a metric."""

_GAP = "  "
_ERROR = "error"
_NARROWEST = 12
_FINGERPRINT = 8
_OTHERS = (
    *("output_diff", "dtype", "device", "n", "fingerprint", "golden_diff", "missing", "unexpected", "mismatched"),
    *("cast", "loaded", "parameters", "file_bytes", "torch"),
)
"""The columns that are there if their values differ, those that matter most first."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column."""

    head: str
    cells: list[str]
    rank: int = 0
    """Columns with a rank may be left out, the largest first."""
    short: str = ""
    """The head where there is little room."""
    left: bool = False
    """Whether texts begin at the left, unlike numbers."""

    cuttable: bool = False
    """Whether its texts may be cut; a number that is cut would be another one."""

    @property
    def width(self) -> int:
        """The width of the widest cell."""
        return max(map(cell_len, (self.head, *self.cells)))

    @property
    def least(self) -> int:
        """The width to which it may be cut."""
        return max(cell_len(self.head), min(self.width, _NARROWEST)) if self.cuttable else self.width


def columns_of(jobs: Sequence[JobRecord]) -> list[Column]:
    """Returns the columns of a table over jobs."""
    numbers = Column("job", [str(job.job) for job in jobs])
    found = [numbers, *_status(jobs), *_swept(jobs), *_if_they_differ(jobs, STEP, 1, "{:g}".format), *_metrics(jobs)]
    for rank, name in enumerate(_OTHERS, 3):
        if not (name in GOT and any(name in job.values for job in jobs)):
            found += _if_they_differ(jobs, name, rank, _WRITTEN.get(name, _number))
    found.append(Column("seconds", ["" if job.seconds is None else f"{job.seconds:.2f}" for job in jobs], rank=2))
    errors = [message_of(job) for job in jobs]
    return [*found, Column(_ERROR, errors, left=True, cuttable=True)] if any(errors) else found


def _status(jobs: Sequence[JobRecord]) -> list[Column]:
    found = [job.status for job in jobs]
    return [Column("status", found, left=True)] if len(set(found)) > 1 else []


def _swept(jobs: Sequence[JobRecord]) -> Iterable[Column]:
    keys = list(dict.fromkeys(key for job in jobs for key in job.values))
    labels = Labels(keys, [job.overrides for job in jobs])
    ends = [key.rpartition(".")[2] for key in keys]
    for key, end in zip(keys, ends, strict=True):
        of = [{**job.values, key: got(job, key)} if key in GOT else job.values for job in jobs]
        cells = [labels.values({key: values[key]})[key] if key in values else "" for values in of]
        numbers = all(isinstance(values.get(key), int | float) for values in of)
        short = safe_text(end if ends.count(end) == 1 else key)
        yield Column(safe_text(key), cells, short=short, left=not numbers, cuttable=not numbers)


def _metrics(jobs: Sequence[JobRecord]) -> Iterable[Column]:
    best, taken = best_of(jobs), {key for job in jobs for key in job.values}
    for name in metrics_of(jobs):
        marks = [BEST if best.get(name) == job.job else " " if name in best else "" for job in jobs]
        texts = [metric_text(job.metrics.get(name, {})) for job in jobs]
        head = safe_text(own_name(name, "metrics", taken))
        yield Column(head, [f"{text}{mark}" for text, mark in zip(texts, marks, strict=True)], left=True)


def _if_they_differ(jobs: Sequence[JobRecord], name: str, rank: int, write: Callable[[Any], str]) -> Iterable[Column]:
    values = [getattr(job, name) for job in jobs]
    if len({value for value in values if value is not None}) > 1:
        texts = any(isinstance(value, str) for value in values)
        yield Column(name, ["" if value is None else write(value) for value in values], rank, left=texts)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else safe_text(value)


_WRITTEN: dict[str, Callable[[Any], str]] = {
    "fingerprint": lambda value: str(value)[:_FINGERPRINT],
    "file_bytes": size,
}


def table_of(jobs: Sequence[JobRecord], width: int | None = None) -> Text:
    """Draws the table, with styles.

    Args:
        jobs: The jobs of a sweep, in order.
        width: That of the terminal; None elsewhere.
    """
    columns = columns_of(jobs)
    if width is not None:
        columns = _fitted(columns, width)
    widths = [column.width for column in columns]
    last = len(columns) - 1
    lines = []
    for row in range(-1, len(jobs)):
        line = Text()
        for place, (column, wide) in enumerate(zip(columns, widths, strict=True)):
            text = column.head if row < 0 else column.cells[row]
            padding = " " * (wide - cell_len(text))
            cell = f"{text}{'' if place == last else padding}" if column.left else f"{padding}{text}"
            line.append(cell + (_GAP if place < last else ""), "bold" if row < 0 else _style(column, text))
        line.rstrip()
        lines.append(line)
    return Text("\n").join(lines)


def _style(column: Column, text: str) -> str:
    if column.head == "status":
        return STYLES.get(text, "")
    return "bold green" if text.endswith(BEST) and not column.rank and column.left else ""


def best_lines(jobs: Sequence[JobRecord]) -> list[str]:
    """Says which job is the best one by each metric."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.values))
    labels, by_number = Labels(keys, [job.overrides for job in jobs]), {job.job: job for job in jobs}
    lines = []
    for name, number in best_of(jobs).items():
        job = by_number[number]
        what = " ".join(filter(None, (f"job {number}", labels.of(job.overrides, job.step))))
        lines.append(f"best {safe_text(name)}: {metric_text(job.metrics[name])}  {what}")
    return lines


def _fitted(columns: list[Column], width: int) -> list[Column]:
    """Shortens heads, then leaves out columns, then cuts texts, until the rest fits."""
    if _excess(columns, width) <= 0:
        return columns
    columns = [replace(column, head=column.short or column.head) for column in columns]
    for column in sorted((column for column in columns if column.rank), key=lambda column: -column.rank):
        if _excess([_cut(one, one.least) for one in columns], width) <= 0:
            break
        columns = [one for one in columns if one is not column]
    # The errors first, which are printed in full below the table.
    for column in sorted(columns, key=lambda column: (column.head != _ERROR, -column.width)):
        excess = _excess(columns, width)
        if excess > 0:
            columns = [_cut(one, max(one.width - excess, one.least)) if one is column else one for one in columns]
    return columns


def _excess(columns: Sequence[Column], width: int) -> int:
    return sum(column.width for column in columns) + len(_GAP) * (len(columns) - 1) - width


def _cut(column: Column, width: int) -> Column:
    return replace(column, cells=[_cut_text(cell, width, is_path(column.head)) for cell in column.cells])


def _cut_text(text: str, width: int, from_left: bool) -> str:
    """Cuts a text to a width; of a path, the end is left."""
    if cell_len(text) <= width:
        return text
    if from_left:
        return "…" + set_cell_size(text[::-1], width - 1)[::-1].lstrip()
    return set_cell_size(text, width - 1).rstrip() + "…"
