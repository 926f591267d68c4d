"""`mode=compare`: how far the tensors of two files are apart, without a model.

Guarantees: each side is read like the checkpoint of a load; every tensor of either side is in the report, compared, or
listed as only on one side. It fails for a difference only if `compare.atol` sets a limit; a tensor that only one side
has, or that cannot be compared, is beyond any limit. Nothing is written but the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import takewhile
from typing import Any

from ...errors import VerificationError
from ...parts import Part
from ...report import fill, terminal
from ...report.data import Report
from ...runtime import collector_paused
from ...schema import JobConfig
from ...text.lines import NO_FIX, Fix, line
from ...text.wording import counted, listing, phrases, safe_text, shape
from .pairs import Row, compared
from .sides import RIGHT, Side, hint, of_right, opened, scales_aside, sides
from .table import by_module, summary
from .table import lines as table_lines


def run(job: JobConfig, report: Report) -> None:
    """Compares the files of a job.

    Args:
        job: The two sides; its model is ignored.
        report: Gets `comparison`; its `parts` get the other file as ``compare``.

    Raises:
        ConfigError: The other file is not named.
        CheckpointError: A file cannot be read, or is refused.
        FitError: A nested key or a rule does not fit its file.
        VerificationError: The files differ by more than `compare.atol`.
    """
    clock = fill.Clock(report)
    with ExitStack() as files, clock("total"):
        with clock("open"):
            of_left, of_right = opened(job, files)
            _describe(report, of_left, of_right)
        with clock("plan"), collector_paused():
            left, right = sides(of_left, of_right)
        _describe(report, left.parts, right.parts)
        _offered(report, left, right)
        _note(report, left, right)
        with clock("compare"), collector_paused():
            report.comparison = _comparison(left, right)
        for side in (left, right):
            side.check_unchanged()
        if job.compare.atol is not None:
            _refuse_beyond(report.comparison, job.compare.atol, left, right)


def _describe(report: Report, left: Sequence[Part], right: Sequence[Part]) -> None:
    """Describes the files; the other one is the part ``compare`` of the report."""
    fill.parts(report, left)
    other = Report()
    fill.parts(other, right)
    report.parts[RIGHT] = other.parts[""]


def _offered(report: Report, left: Side, right: Side) -> None:
    for side, names in ((left, None), (right, RIGHT)):
        for part in side.parts:
            fill.offered(report.parts[names or part.name], part, side.offers)


def _note(report: Report, left: Side, right: Side) -> None:
    """Notes what makes the comparison say less than it could."""
    notes = {**scales_aside(left, right), RIGHT: of_right(scales_aside(right, left).get("", ""))}
    for name, text in (*notes.items(), (RIGHT, hint(left, right))):
        report.parts[name].note = "; ".join(filter(None, (report.parts[name].note, text)))


def _comparison(left: Side, right: Side) -> dict[str, Any]:
    mine, theirs = left.tensors, right.tensors
    only_left = [key for key in mine if key not in theirs]
    only_right = [key for key in theirs if key not in mine]
    rows = list(compared(left, right))
    return {
        "only_left": only_left,
        "only_right": only_right,
        "tensors": rows,
        "modules": by_module(rows, only_left, only_right),
        "total": summary(rows),
    }


def _refuse_beyond(comparison: dict[str, Any], atol: float, left: Side, right: Side) -> None:
    """Raises VerificationError if the sides differ by more than an absolute tolerance."""
    rows: Sequence[Row] = comparison["tensors"]
    beyond = sorted((row for row in rows if row["max_abs"] is not None and row["max_abs"] > atol), key=_largest)
    without = [row for row in rows if row["max_abs"] is None]
    faults = [f"{counted(len(beyond), 'tensor')} by more: {phrases(map(_by, beyond))}"] if beyond else []
    faults += [f"{counted(len(without), 'tensor')} without a number: {phrases(map(_why, without))}"] if without else []
    for side, keys in ((left, comparison["only_left"]), (right, comparison["only_right"])):
        faults += [f"{counted(len(keys), 'tensor')} only in {side.label}: {listing(keys)}"] if keys else []
    if not faults and not rows:
        faults = ["they have no tensor"]
    if faults:
        message = f"{left.label} and {right.label} are not equal within compare.atol={atol:g}: {'; '.join(faults)}"
        raise VerificationError(message, *_fixes(comparison, beyond, without))


def _largest(row: Row) -> float:
    return -float(row["max_abs"])


def _by(row: Row) -> str:
    return f"{safe_text(row['key'])} by {row['max_abs']:.3g}"


def _why(row: Row) -> str:
    shapes = " and ".join(map(shape, row["shapes"]))
    return f"{safe_text(row['key'])} {shapes}: {row['note']}"


def _fixes(comparison: dict[str, Any], beyond: Sequence[Row], without: Sequence[Row]) -> list[Fix]:
    """Returns the lines that accept the differences: a larger limit, and rules that leave out what has no partner."""
    accepts = line("compare.atol", _above(beyond[0]["max_abs"]), note="accepts the differences") if beyond else NO_FIX
    apart = [
        line(rules, {"apart": {"drop": glob}}, "+", note="leaves them out")
        for rules, keys in (("rules", comparison["only_left"]), ("compare.rules", comparison["only_right"]))
        if (glob := _glob(keys, comparison))
    ]
    unpaired = Fix(note="a rule of kind drop or keep leaves tensors out, in rules and in compare.rules")
    alone = comparison["only_left"] or comparison["only_right"]
    return [accepts, *apart, unpaired if without or (alone and not apart) else NO_FIX]


def _above(value: float) -> float:
    """Rounds up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    above = float(f"{math.ceil(value / unit) * unit:.2g}")
    return above if above >= value else above + unit


def _glob(keys: Sequence[str], comparison: dict[str, Any]) -> str:
    """Returns a glob that matches keys of one side and nothing that is compared; empty if there is no simple one."""
    if not keys or any(sign in key for key in keys for sign in "*?["):
        return ""
    if len(keys) == 1:
        return keys[0]
    columns = zip(*(key.split(".")[:-1] for key in keys), strict=False)
    place = ".".join(column[0] for column in takewhile(lambda column: len({*column}) == 1, columns))
    others = any(row["key"].startswith(f"{place}.") for row in comparison["tensors"])
    return f"{place}.*" if place and not others else ""


def lines(report: Report) -> list[terminal.Line]:
    """Returns the report of a comparison as labeled lines."""
    names = [part.path for name, part in report.parts.items() if name != RIGHT][:1]
    other = report.parts.get(RIGHT)
    if report.comparison is None or other is None:
        return [*terminal.sources(report), *terminal.ending(report)]
    shown = table_lines(report.comparison, names[0] if names else "checkpoint", other.path)
    left = [line for name, part in report.parts.items() if name != RIGHT for line in terminal.file(part, name)]
    return [*left, *terminal.file(other, label=RIGHT), *shown, *terminal.ending(report)]
