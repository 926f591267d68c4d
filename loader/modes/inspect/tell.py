"""An inspection as the lines of a report: what the file is, what is in it, and what to type next.

Guarantees: pure text, a bounded number of lines; everything out of the file is made harmless.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...keys.written import written
from ...report.terminal import Line
from ...text.wording import counted, listing, phrases, safe_text, size
from ...trust.dangerous import HOSTILE
from .fold import is_view
from .rows import CandidateRow, FileRow

_LABELS = {"weights": "weights", "model": "model", "average": "average", "tensors": "tensors", "optimizer": "optimizer"}
_MOST_CANDIDATES = 12
_MOST_NOTES = 6


def lines(files: Sequence[FileRow]) -> Iterator[Line]:
    """The inspection of every part's file, one after the other."""
    for file in files:
        yield from _header(file)
        yield from _candidates(file)
        for index, line in enumerate(file["tree"]):
            yield "inside" if index == 0 else "", line, ""
        yield from _globals(file)
        for index, line in enumerate(file["next"]):
            yield "next" if index == 0 else "", line, "green"


def _header(file: FileRow) -> Iterator[Line]:
    totals = file["totals"]
    under = f" under '{safe_text(file['key'])}'" if file["key"] else ""
    part = f" → {safe_text(file['part'])}" if file["part"] else ""
    yield "file", f"{safe_text(file['path'], 300)}: {file['format']}, {size(file['bytes'])}{part}", ""
    dtypes = ", ".join(f"{told['tensors']:,} {name}" for name, told in totals["dtypes"].items())
    amount = f"{counted(totals['tensors'], 'tensor')}{under}, {counted(totals['elements'], 'element')}"
    yield "", f"{amount}, {size(totals['bytes'])}{f': {dtypes}' if dtypes else ''}", ""
    if any(map(is_view, file["tensors"])) and totals["stored_bytes"] > totals["bytes"]:
        spare = size(totals["stored_bytes"] - totals["bytes"])
        yield "", f"{spare} of the file are in no tensor: they are views of larger storages", "dim"
    devices = [f"{safe_text(name, 20)} ({number:,})" for name, number in totals["devices"].items() if name != "cpu"]
    if devices:
        yield "", f"saved from {phrases(devices)}", "dim"
    if file["files"]:
        shards = [f"{safe_text(shard['name'])} ({shard['tensors']:,})" for shard in file["files"]]
        yield "", f"in {counted(len(shards), 'file')}: {phrases(shards)}", "dim"
    for name, note in list(file["notes"].items())[:_MOST_NOTES]:
        yield "", f"{safe_text(name)}: {safe_text(note)}", "dim"


def _candidates(file: FileRow) -> Iterator[Line]:
    for row in file["candidates"][:_MOST_CANDIDATES]:
        place = safe_text(row["key"]) if row["key"] else "(top level)"
        amount = f"{counted(row['tensors'], 'tensor')}, {counted(row['parameters'], _unit(row))}, {size(row['bytes'])}"
        yield _LABELS[row["role"]], f"{place}: {amount}; {safe_text(row['why'], 200)}", ""
        for prefix in row["prefixes"]:
            every = "every name has" if prefix["tensors"] == row["tensors"] else f"{prefix['tensors']:,} names have"
            yield "", f"{every} '{safe_text(prefix['prefix'])}': {_advice(prefix['rule'], row)}", "dim"
    more = len(file["candidates"]) - _MOST_CANDIDATES
    if more > 0:
        yield "", f"… and {more:,} more places with tensors, in report.json", "dim"


def _unit(row: CandidateRow) -> str:
    return "parameter" if row["role"] in {"weights", "model", "average"} else "element"


def _advice(rule: str, row: CandidateRow) -> str:
    if not rule:
        return "a prefix that cannot be typed"
    rule = written(rule)
    return f"{rule} takes it off" if row["rules"] else f"{rule} takes it off, if the model has no such name"


def _globals(file: FileRow) -> Iterator[Line]:
    hostile = [row["name"] for row in file["globals"] if row["hostile"]]
    others = [row["name"] for row in file["globals"] if not row["hostile"]]
    if hostile:
        yield "DANGER", f"the file names {listing(hostile)}, {HOSTILE}", "bold red"
    if others:
        yield "names", f"{listing(others, 8)}: to rebuild its objects; its weights load without", "dim"
