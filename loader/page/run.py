"""The content of a run's page.

Guarantees: a total function of any report; what is missing or damaged is left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..report.data import REPORT
from ..report.kept import KEPT
from ..report.modules import OUTCOMES
from ..schema import MEAN
from ..text.wording import counted, shape
from .build import Content
from .coverage import describe, shown
from .figures import Picture, rounded
from .jobs import Failure, Limits, complete, fixes_of, map_of
from .plain import amount, block, figure, mapping, number, rows, seconds, whole, word

_MOST_FILES = 20
Fact = tuple[str, str]
Grid = dict[str, Any]
"""``{title, heads, rows}`` of a plain table; a cell is text, and the first column names the row."""

_MOST_ROWS = 60
_MOST_NAMES = 4
_OUTCOMES = ("missing", "unexpected", "mismatched", "dropped", "cast")
_STEPS = ("open", "build", "plan", "apply", "place", "verify", "forward", "evaluate", "convert", "compare")


def run_content(report: Mapping[str, Any], folder: Path) -> Callable[[Limits], Content]:
    """Returns what makes the content of a run's page.

    Args:
        report: The content of ``report.json``.
        folder: The run's.
    """
    name = "/".join(word(part) for part in folder.resolve().parts[-2:])
    kept = mapping(mapping(report.get("verification")).get("kept"))

    def make(limits: Limits) -> Content:
        model = word(mapping(report.get("model")).get("target")) or word(report.get("mode"))
        values = {
            "name": name,
            "mode": word(report.get("mode")),
            "model": model,
            "status": word(report.get("status")),
            "exit_code": figure(number(report.get("exit_code"))),
            "facts": [*_model(report), *_files(report)],
            "failure": _failure(report, limits),
            "metrics": _metrics(report),
            "objective": figure(number(mapping(report.get("evaluation")).get("objective"))),
            "checks": _checks(report),
            "grids": [
                grid
                for grid in (
                    *(_tensors(report, side) for side in ("inputs", "outputs")),
                    *_keys(report),
                    _derived(report),
                    _comparison(report),
                )
                if grid["rows"]
            ],
            "environment": _environment(report),
            "overrides": [word(override, 1000) for override in _list(report.get("overrides"))][:_MOST_ROWS],
            "config": block(json.dumps(report.get("config", {}), indent=2, default=str), 40 * limits.message),
            "files": [f"./{file}" for file in (REPORT, *([KEPT] if kept else []))],
        }
        return Content("run.html", f"{model}: {word(report.get('status'))}", values, _pictures(report, limits))

    return make


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _model(report: Mapping[str, Any]) -> Iterator[Fact]:
    model = mapping(report.get("model"))
    if model:
        sizes = [counted(whole(model.get("parameters")), "parameter"), amount(whole(model.get("bytes")))]
        yield (
            "model",
            ", ".join([*sizes, "/".join(map(word, _list(model.get("dtypes")))), f"on {word(model.get('device'))}"]),
        )
        if model.get("build") != "hollow":
            yield "built", word(model.get("build"), 400)


def _sources(part: Mapping[str, Any]) -> Iterator[str]:
    """Yields the path of a part, or how several files became one, and each of them."""
    combined = mapping(part.get("combined"))
    files, is_mean = list(rows(combined.get("files"))), combined.get("how") == MEAN
    if not files:
        yield word(part.get("path"), 400)
        return
    yield f"{'mean' if is_mean else 'weighted sum'} of {counted(len(files), 'file')}"
    for file in files[:_MOST_FILES]:
        weight = "" if is_mean else f"{figure(number(file.get('weight')))} × "
        yield f"{weight}{word(file.get('path'), 400)}, {amount(whole(file.get('bytes')))}"
    if len(files) > _MOST_FILES:
        yield f"and {len(files) - _MOST_FILES:,} more"
    last = _list(combined.get("last"))
    if last:
        yield f"of the last file, since they are whole numbers: {', '.join(map(word, last[:8]))}"


def _files(report: Mapping[str, Any]) -> Iterator[Fact]:
    for name, found in mapping(report.get("parts")).items():
        part = mapping(found)
        title = f"checkpoint of {word(name)}" if name else "checkpoint"
        first, *others = _sources(part)
        yield title, first
        yield from (("", text) for text in others)
        under = f" under '{word(part.get('key'))}'" if part.get("key") else ""
        tensors, size = counted(whole(part.get("tensors")), "tensor"), amount(whole(part.get("bytes")))
        yield "", f"{tensors}{under}, {word(part.get('format'))}, {size}"
        hits = [f"{word(rule.get('name'))} hit {figure(number(rule.get('hits')))}" for rule in rows(part.get("rules"))]
        notes = {"rules": ", ".join(hits), "note": part.get("note"), "sha256": part.get("sha256")}
        yield from ((label, word(text, 400)) for label, text in notes.items() if text)
        dangers = ", ".join(map(word, _list(part.get("dangers"))[:8]))
        if dangers:
            yield "danger", f"the file names {dangers}; none of it was called"


def _failure(report: Mapping[str, Any], limits: Limits) -> Failure | None:
    error = mapping(report.get("error"))
    if not error:
        return None
    return Failure(word(error.get("type")), block(error.get("message"), limits.message), fixes_of(error, limits))


def _metrics(report: Mapping[str, Any]) -> Grid:
    evaluation = mapping(report.get("evaluation"))
    found = [(word(name), mapping(metric)) for name, metric in mapping(evaluation.get("metrics")).items()]
    lines = [
        [
            name,
            figure(number(metric.get("value")), 6),
            figure(number(metric.get("stderr")), 3),
            figure(number(metric.get("n"))),
        ]
        for name, metric in found
    ]
    speed = number(evaluation.get("samples_per_second"))
    title = f"{counted(whole(evaluation.get('samples')), 'sample')} in {seconds(number(evaluation.get('seconds')))}"
    return {
        "title": title + (f", {figure(speed, 3)} a second" if speed is not None else ""),
        "heads": ["metric", "value", "standard error", "n"],
        "rows": lines,
    }


def _checks(report: Mapping[str, Any]) -> list[dict[str, str]]:
    words = {True: ("yes", "passed"), False: ("no", "failed")}
    found = []
    for check in rows(mapping(report.get("verification")).get("checks")):
        ok = check.get("ok")
        kind, outcome = words[ok] if isinstance(ok, bool) else ("undone", "not done")
        found.append(
            {
                "name": word(check.get("name")),
                "kind": kind,
                "outcome": outcome,
                "detail": word(check.get("detail"), 400),
            }
        )
    return found


def _tensors(report: Mapping[str, Any], side: str) -> Grid:
    figures = ("min", "max", "mean", "std") if side == "outputs" else ()
    lines = [
        [
            word(row.get("name")),
            _shape(row.get("shape")),
            word(row.get("dtype")),
            *(figure(number(row.get(name))) for name in figures),
        ]
        for row in rows(mapping(report.get("verification")).get(side))
    ]
    return {"title": side.capitalize(), "heads": ["name", "shape", "dtype", *figures], "rows": lines[:_MOST_ROWS]}


def _shape(value: Any) -> str:
    return shape(value) if isinstance(value, list) and all(type(size) is int for size in value) else word(value)


def _keys(report: Mapping[str, Any]) -> Iterator[Grid]:
    found = mapping(report.get("keys"))
    for outcome in _OUTCOMES:
        every = _list(found.get(outcome))
        lines = [_key(row) for row in every[:_MOST_ROWS]]
        more = f", the first {_MOST_ROWS}" if len(every) > _MOST_ROWS else ""
        two = any(len(line) > 1 for line in lines)
        heads = ["key", *(["model", "file"] if two else [])]
        yield {"title": f"{counted(len(every), 'key')} {outcome}{more}", "heads": heads, "rows": lines}


def _derived(report: Mapping[str, Any]) -> Grid:
    every = rows(mapping(report.get("keys")).get("derived"))
    lines = [
        [word(row.get("key")), _some(row.get("sources")), ", ".join(map(word, _list(row.get("rules"))[:_MOST_NAMES]))]
        for row in every[:_MOST_ROWS]
    ]
    more = f", the first {_MOST_ROWS}" if len(every) > _MOST_ROWS else ""
    title = f"{counted(len(every), 'tensor')} made by rules or adapters{more}"
    return {"title": title, "heads": ["key", "made of", "by"], "rows": lines}


def _some(names: Any) -> str:
    every = _list(names)
    more = f" and {len(every) - _MOST_NAMES:,} more" if len(every) > _MOST_NAMES else ""
    return ", ".join(map(word, every[:_MOST_NAMES])) + more


def _comparison(report: Mapping[str, Any]) -> Grid:
    every = rows(mapping(report.get("comparison")).get("modules"))
    figures = ("tensors", "differing", "max_abs", "mean_abs", "cosine", "only_left", "only_right")
    lines = [
        [word(row.get("module")) or "(top level)", *(figure(number(row.get(name))) for name in figures)]
        for row in every[:_MOST_ROWS]
    ]
    more = f", the first {_MOST_ROWS}" if len(every) > _MOST_ROWS else ""
    heads = ["module", "tensors", "differ", "max abs", "mean abs", "cosine", "only left", "only right"]
    return {"title": f"{counted(len(every), 'module')} compared{more}", "heads": heads, "rows": lines}


def _key(row: Any) -> list[str]:
    if isinstance(row, Mapping):
        return [word(row.get("key")), _shape(row.get("model")), _shape(row.get("checkpoint"))]
    return [word(row)]


def _environment(report: Mapping[str, Any]) -> list[Fact]:
    return [
        (word(name), word(value, 400))
        for name, value in list(mapping(report.get("environment")).items())[:_MOST_ROWS]
        if value is not None
    ]


def _pictures(report: Mapping[str, Any], limits: Limits) -> list[Picture]:
    return [*_coverage(report, limits), *_timings(report)]


def _coverage(report: Mapping[str, Any], limits: Limits) -> Iterator[Picture]:
    found = map_of(report)
    if found:
        good = report.get("status") == "ok"
        about = describe(found, word(mapping(report.get("model")).get("target")), good=good)
        sentence = "Every key is loaded." if good and complete(found) else "Not every key is loaded."
        maps = [{"rows": shown(found, limits), "about": about, "jobs": [[0, ""]]}]
        yield Picture("coverage", "Coverage", [sentence], {"outcomes": OUTCOMES, "maps": maps})


def _timings(report: Mapping[str, Any]) -> Iterator[Picture]:
    timings = mapping(report.get("timings"))
    found = [(step, value) for step in _STEPS if (value := number(timings.get(step))) is not None]
    if found:
        total = seconds(number(timings.get("total")))
        longest = max(found, key=lambda step: step[1])
        text = f"{total} in all; the longest step is {longest[0]}, {seconds(longest[1])}."
        peak = number(mapping(report.get("memory")).get("peak_rss_bytes"))
        more = [f"The largest memory was {amount(peak)}."] if peak is not None else []
        data = {"steps": [step for step, _ in found], "seconds": [rounded(value) for _, value in found]}
        yield Picture("steps", "Seconds", [text, *more], data)
