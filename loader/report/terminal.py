"""Prints reports and refusals.

Guarantees: colors only if the stream itself is a terminal; everything from a file is shown as text, never as markup; a
refusal is one block on stderr, without a traceback. What only some modes have, those modes add (`loader.modes.lines`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from ..errors import LoaderError
from ..text.wording import counted, listing, phrases, printable, safe_text, shape, size
from ..trust import HOSTILE
from . import combined
from .data import PartReport, Report

_HEADINGS = ("action", "model key", "model", "file key", "file")

Line = tuple[str, str, str]
"""Label, text and style."""
_Labeled = tuple[tuple[str, str], str, str]
"""Label and its style, text and its style."""


def print_error(error: LoaderError) -> None:
    """Prints a refusal on stderr: its message and the lines to type."""
    _show(sys.stderr, _refusal(error))


def error_text(error: LoaderError) -> str:
    """Returns what is printed of a refusal, as plain text."""
    return _plain(_refusal(error), "utf-8")


def _refusal(error: LoaderError) -> list[_Labeled]:
    tries = ((("  try  ", "bold green"), str(fix), "") for fix in error.fixes)
    return [(("error  ", "bold red"), error.message, ""), *tries]


def print_note(text: str) -> None:
    """Prints a note on stderr about a possible mistake in a job that runs all the same."""
    _show(sys.stderr, [(("note   ", "bold yellow"), text, "")])


def print_dangers(report: Report) -> None:
    """Prints the dangerous names in the files of a refused job on stderr."""
    shown = [line for part in report.parts.values() for line in _dangers(part)]
    if shown:
        _show(sys.stderr, [((f"{label} ", style), text, "") for label, text, style in shown])


def print_report(shown: Iterable[Line]) -> None:
    """Prints the lines of a report on stdout."""
    # One line each: a name with a line break in it must not write a line of the report.
    _show(sys.stdout, [((f"{label:<11}", "bold"), text.replace("\n", "\\n"), style) for label, text, style in shown])


def print_json(report: Path) -> None:
    """Prints ``report.json`` on stdout, as it is."""
    sys.stdout.write(report.read_text(encoding="utf-8"))
    sys.stdout.flush()


def lines(report: Report) -> list[Line]:
    """Returns the report of a load or a plan as labeled lines."""
    return [*sources(report), *keys(report), *_plan(report), *checks(report), *evaluation(report), *ending(report)]


def sources(report: Report) -> Iterator[Line]:
    """Describes the model and the files."""
    yield from _model(report)
    yield from _parts(report)


def _model(report: Report) -> Iterator[Line]:
    model = report.model
    if model is None:
        return
    amount = f"{counted(model.parameters, 'parameter')}, {size(model.bytes)}, {'/'.join(model.dtypes) or 'no dtype'}"
    yield "model", f"{safe_text(model.target)}: {amount} on {model.device}", ""
    if model.build != "hollow":
        yield "", f"built {model.build}", "dim"
    yield from _trust(model.trust)


def _parts(report: Report) -> Iterator[Line]:
    for name, part in report.parts.items():
        yield from file(part, name)


def file(part: PartReport, name: str = "", label: str = "checkpoint") -> Iterator[Line]:
    """Describes the file of one part."""
    where = f" → {safe_text(name)}" if name else ""
    under = f" under '{safe_text(part.key)}'" if part.key else ""
    found = f"{counted(part.tensors, 'tensor')}{under}, {part.format}, {size(part.bytes)}"
    yield label, f"{combined.title(part)}: {found}{where}", ""
    yield from (("", line, "") for line in combined.details(part))
    yield from _part_details(part)
    yield from _dangers(part)


def _dangers(part: PartReport) -> Iterator[Line]:
    if part.dangers:
        yield "DANGER", f"the file names {listing(part.dangers)}, {HOSTILE}", "bold red"


def _part_details(part: PartReport) -> Iterator[Line]:
    if part.note:
        yield "", safe_text(part.note, 300), ""
    if part.applied:
        yield "", f"auto found: {' '.join(part.applied)}", "green"
    if part.rules:
        yield "", "rules: " + ", ".join(f"{safe_text(r['name'])} hit {r['hits']}" for r in part.rules), ""
    for adapter in part.adapters:
        note = f"; {adapter['note']}" if adapter["note"] else ""
        said = f"{adapter['kind']}, scale {adapter['scale']:g}, {counted(adapter['hits'], 'change')}"
        yield "", f"adapter {safe_text(adapter['name'])}: {safe_text(said + note, 300)}", ""
    if part.other:
        yield "", f"not tensors: {listing(f'{key} ({kind})' for key, kind in part.other.items())}", "dim"
    if part.beside:
        entries = [f"{key} {value}" for key, value in part.beside.items()]
        yield "", f"next to the weights: {listing(entries, 12)}", "dim"
    if part.sha256:
        yield "", f"sha256 {part.sha256}", "dim"
    yield from _trust(part.trust)


def _trust(trust: Mapping[str, Any]) -> Iterator[Line]:
    if trust:
        used = ", ".join(f"{name}={listing(v) if isinstance(v, list) else v}" for name, v in trust.items())
        yield "", f"permissions: {used}", "yellow"


def keys(report: Report) -> Iterator[Line]:
    """Describes the keys that were loaded, and those that were not."""
    found = report.keys
    doing = "would load" if report.mode == "plan" else "loaded"
    yield "keys", f"{doing} {found.loaded:,} of {found.loaded + len(found.missing) + len(found.mismatched):,}", ""
    for what, names in (("missing", found.missing), ("unexpected", found.unexpected), ("dropped", found.dropped)):
        if names:
            yield "", f"{what} {len(names):,}: {listing(names)}", "yellow" if what != "dropped" else "dim"
    if found.mismatched:
        pairs = ((m["key"], shape(m["model"]), shape(m["checkpoint"])) for m in found.mismatched)
        clashes = [f"{safe_text(key)} (model {own}, file {other})" for key, own, other in pairs]
        yield "", f"mismatched {len(clashes):,}: {phrases(clashes)}", "yellow"
    for line in derived(found.derived):
        yield "", line, ""
    if found.cast:
        yield "", *_casts(found.cast)
    if found.tied:
        yield "", f"tied: {phrases(' = '.join(map(safe_text, group)) for group in found.tied)}", "dim"


def _casts(cast: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Lists casts: first those that lost values, then integers that became a float model's weights."""
    lost = [f"{_cast(c)}, {c['loss']}" for c in cast if c["loss"]]
    integers = [_cast(c) for c in cast if not c["loss"] and was_integer(c)]
    others = [_cast(c) for c in cast if not c["loss"] and not was_integer(c)]
    return f"cast {len(cast):,}: {phrases([*lost, *integers, *others], 3)}", "yellow" if lost or integers else "dim"


def _cast(row: Mapping[str, Any]) -> str:
    return f"{safe_text(row['key'])} {row['checkpoint']} → {row['model']}"


def was_integer(row: Mapping[str, Any]) -> bool:
    """Returns whether a cast turned integers or booleans into floats."""
    floats = ("float", "bfloat", "complex")
    return row["model"].startswith(floats) and not row["checkpoint"].startswith(floats)


def _plan(report: Report) -> Iterator[Line]:
    for index, line in enumerate(table(report.plan) if report.plan else ()):
        yield "plan" if index == 0 else "", line, "bold" if index == 0 else ""


def derived(made: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Describes the tensors that rules and adapters made, one line for each of these."""
    by: dict[str, list[Mapping[str, Any]]] = {}
    for row in made:
        for name in row["rules"]:
            by.setdefault(name, []).append(row)
    for name, rows in by.items():
        sources = {source for row in rows for source in row["sources"]}
        example = f"{safe_text(rows[0]['key'])} ← {listing(rows[0]['sources'])}"
        more = ", …" if len(rows) > 1 else ""
        yield f"{safe_text(name)}: {counted(len(rows), 'tensor')} made of {len(sources):,}: {example}{more}"


def table(plan: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Draws rows as text, one line per key, aligned where a tensor is as in its file."""
    cells = [_HEADINGS, *(_cells(row) for row in plan if not row["rules"])]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEADINGS))]
    for row in (None, *plan):
        if row is not None and row["rules"]:
            yield _derived(row)
        else:
            line = _HEADINGS if row is None else _cells(row)
            yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _derived(row: Mapping[str, Any]) -> str:
    """Writes ``load  l.0.q.weight [8, 8]  ← l.0.qkv.weight [24, 8] · fused``."""
    model, file = (f" {shape(side['shape'])}" if side else "" for side in (row["model"], row["checkpoint"]))
    more = f" and {len(row['sources']) - 1:,} more" if len(row["sources"]) > 1 else ""
    source = f"{safe_text(row['source'], 200)}{file}{more}"
    key = safe_text(row["key"] or "-", 200)
    return f"{row['action']}  {key}{model}  ← {source} · {', '.join(map(safe_text, row['rules']))}"


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["action"],
        safe_text(row["key"] or "-", 200),
        _form(row["model"]),
        safe_text(row["source"] or "-", 200),
        _form(row["checkpoint"]),
    )


def _form(side: Mapping[str, Any] | None) -> str:
    return "-" if side is None else f"{shape(side['shape'])} {side['dtype']}".strip()


def checks(report: Report) -> Iterator[Line]:
    """Describes the verification."""
    for index, check in enumerate(report.verification.checks):
        mark, style = MARKS[check.ok]
        yield "verified" if index == 0 else "", f"{mark} {check.name}: {safe_text(check.detail, 300)}", style
    for output in report.verification.outputs:
        if output["mean"] is not None:
            numbers = f"min {output['min']:.4g}, max {output['max']:.4g}, mean {output['mean']:.4g}"
            yield "output", f"{safe_text(output['name'])} {shape(output['shape'])} {output['dtype']}: {numbers}", ""
    if report.verification.fingerprint:
        yield "weights", f"fingerprint {report.verification.fingerprint}", ""


def evaluation(report: Report) -> Iterator[Line]:
    """Describes the measurement."""
    found = report.evaluation
    if found is None:
        return
    batches = counted(found.batches, "batch", "batches")
    of = "" if found.batch_size is None else f" of {found.batch_size:,}"
    speed = "" if found.samples_per_second is None else f", {found.samples_per_second:,.0f} samples/s"
    yield "evaluated", f"{counted(found.samples, 'sample')} in {batches}{of}, {found.seconds:.2f} s{speed}", ""
    for name, metric in found.metrics.items():
        error = "" if metric["stderr"] is None else f" ± {metric['stderr']:.2g}"
        yield "", f"{safe_text(name)} {metric['value']:.4g}{error}", "bold"


MARKS = {True: ("ok  ", "green"), False: ("FAIL", "bold red"), None: ("-   ", "yellow")}
"""How the outcome of a check is shown."""


def ending(report: Report) -> Iterator[Line]:
    """Describes how long the steps took."""
    steps = ", ".join(
        f"{name} {seconds:.2f}" for name, seconds in report.timings.items() if name not in ("total", "forward")
    )
    yield "took", f"{report.timings.get('total', 0.0):.2f} s ({steps})", "dim"


def _harmless(text: str, encoding: str) -> str:
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def _plain(shown: Sequence[_Labeled], encoding: str) -> str:
    return "".join(f"{label}{_harmless(text, encoding)}\n" for (label, _), text, _ in shown)


def _show(stream: TextIO, shown: Sequence[_Labeled]) -> None:
    """Writes labeled lines at once; a plan may have one per key of a model."""
    encoding = stream.encoding or "utf-8"
    if not stream.isatty():
        # No colors in a log file, whatever the environment says (FORCE_COLOR).
        stream.write(_plain(shown, encoding))
        stream.flush()
        return
    from rich.console import Console  # noqa: PLC0415  # only a terminal needs it
    from rich.text import Text  # noqa: PLC0415

    # Wrapping would break the lines to paste, and names from a file must not act as markup.
    console = Console(file=stream, markup=False, highlight=False, emoji=False, soft_wrap=True, force_terminal=True)
    console.print(
        Text("\n").join(Text(*label) + Text(_harmless(text, encoding), style) for label, text, style in shown)
    )
