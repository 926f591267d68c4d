"""``summary.csv``: the jobs of a sweep as a table for spreadsheets.

Guarantees: one line per job, whatever its texts contain. Columns have different names: a swept key that is called
like a fixed column, or a metric called like one of both, has its place in ``summary.json`` as its name. No cell is a
formula to a spreadsheet. A metric whose direction is unknown, or on which jobs disagree, has no best job; of equal
ones, the first is the best.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..schema.columns import BEFORE, ENDING, FIXED, MEASURED, STDERR, STEP
from ..text.lines import value_text
from ..text.redaction import redacted
from ..text.wording import printable
from .record import GOOD, JobRecord

GOT = ("dtype", "device")
"""Swept keys without a column of their own: theirs has what the model got."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_LINES = re.compile("\\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\\s*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_of(jobs: Sequence[JobRecord]) -> str:
    """Returns the content of ``summary.csv``."""
    swept, metrics = swept_keys(jobs), metrics_of(jobs)
    heads, taken = [*BEFORE], set(FIXED)
    heads += [own_name(key, "values", taken) for key in swept]
    heads.append(STEP)
    heads += [own_name(f"{name}{ending}", "metrics", taken) for name in metrics for ending in ("", STDERR)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_cell(head) for head in (*heads, *MEASURED, *ENDING)])
    writer.writerows([_cell(value) for value in _row(job, swept, metrics)] for job in jobs)
    return text.getvalue()


def swept_keys(jobs: Iterable[JobRecord]) -> list[str]:
    """Returns the swept keys that have a column of their own, in the order in which they were typed."""
    return [key for key in dict.fromkeys(key for job in jobs for key in job.values) if key not in GOT]


def metrics_of(jobs: Iterable[JobRecord]) -> list[str]:
    """Returns the names of all metrics, in the order of the config."""
    return list(dict.fromkeys(name for job in jobs for name in job.metrics))


def best_of(jobs: Iterable[JobRecord]) -> dict[str, int]:
    """Returns the number of the best job by each metric, of those with a result."""
    judged = [job for job in jobs if job.status in GOOD]
    names = dict.fromkeys(name for job in judged for name in job.metrics)
    return {name: best for name in names if (best := _best(name, judged)) is not None}


def _best(name: str, jobs: Iterable[JobRecord]) -> int | None:
    found = [job for job in jobs if job.metrics.get(name, {}).get("value") is not None]
    directions = {job.higher_is_better.get(name) for job in found}
    if directions not in ({True}, {False}):
        return None
    choose = max if True in directions else min
    return choose(found, key=lambda job: float(job.metrics[name]["value"])).job


def _row(job: JobRecord, swept: Sequence[str], metrics: Sequence[str]) -> list[Any]:
    measured = (job.metrics.get(name, {}) for name in metrics)
    error = job.error or {}
    hints = [error.get("hint"), job.command_note]
    return [
        *(getattr(job, name) for name in BEFORE),
        *(job.values.get(key) for key in swept),
        job.step,
        *(metric.get(figure) for metric in measured for figure in ("value", "stderr")),
        *(got(job, name) if name in GOT else getattr(job, name) for name in MEASURED),
        error.get("type"),
        error.get("message"),
        " ".join(filter(None, hints)),
        job.command,
        job.report,
    ]


def got(job: JobRecord, name: str) -> Any:
    """Returns what the model got; a job without a model still has what it was to get."""
    return getattr(job, name) or job.values.get(name)


def own_name(name: str, place: str, taken: set[str]) -> str:
    """Returns a name that no other column has, and adds it to those.

    Args:
        name: The name of a swept key or metric.
        place: Its place in ``summary.json``, which its name begins with if another column is called like it.
        taken: The names of the other columns.
    """
    while name in taken:
        name = f"{place}.{name}"
    taken.add(name)
    return name


def _cell(value: Any) -> str:
    if value is None or isinstance(value, int | float):
        return "" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = redacted(value if isinstance(value, str) else value_text(value) or str(value))
    # One line for each job, even if a message has several; no control characters for a terminal that shows the file.
    shown = "\t".join(map(printable, _LINES.sub(" ", text).split("\t")))
    runs = any(form.startswith(_FORMULA) and not _NUMBER.fullmatch(form) for form in (text, shown.lstrip()))
    return f"'{shown}" if runs else shown
