"""The figures of one job, out of its report.

Guarantees: a total function of any JSON, since a report may be damaged or another version's: a field that is absent, or
is not of its type, is null. The result is flat and small, however many keys the model has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

LOAD = ("open", "build", "plan", "apply", "place")
"""The steps of a load."""

_PLACED = ("verify", "evaluate", "convert")
"""The steps of which each follows the cast to the dtype that was asked for."""

LISTED = ("missing", "unexpected", "mismatched", "cast")
"""The lists of keys that are counted."""
DIFFERENCES = ("max_abs", "mean_abs", "cosine")
"""The figures of a comparison of two files."""
_LONGEST = 200
_EMPTY: Mapping[str, Any] = {}


def facts_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `JobRecord` that a report decides."""
    model, keys, verified = (_mapping(report.get(name)) for name in ("model", "keys", "verification"))
    evaluation, timings = _mapping(report.get("evaluation")), _mapping(report.get("timings"))
    parts = [_mapping(part) for part in _mapping(report.get("parts")).values()]
    return {
        "step": next((step for part in parts if (step := _number(part.get("step"))) is not None), None),
        "metrics": {str(name): _metric(found) for name, found in _mapping(evaluation.get("metrics")).items()}
        or _compared(report),
        "higher_is_better": directions_of(report),
        "n": _integer(evaluation.get("samples")),
        "fingerprint": _text(verified.get("fingerprint")),
        "golden_diff": _number(verified.get("golden_diff")),
        "parameters": _integer(model.get("parameters")),
        **_counts(keys, planned="plan" in timings),
        "dtype": _dtype(model) if not report.get("error") or any(step in timings for step in _PLACED) else None,
        "device": _text(model.get("device")),
        "file_bytes": _bytes(parts),
        "load_seconds": _sum(timings, LOAD),
        "forward_seconds": _sum(timings, ["forward"]),
        "evaluate_seconds": _sum(timings, ["evaluate"]),
        "peak_rss_bytes": _integer(_mapping(report.get("memory")).get("peak_rss_bytes")),
        "torch": _text(_mapping(report.get("environment")).get("torch")),
    }


def _counts(keys: Mapping[str, Any], *, planned: bool) -> dict[str, int | None]:
    """Counts the keys by outcome; a job that was refused before it looked at them has none."""
    listed = {name: len(keys[name]) if isinstance(keys.get(name), list) else None for name in LISTED}
    counts = {"loaded": _integer(keys.get("loaded")), **listed}
    return counts if planned or any(counts.values()) else dict.fromkeys(counts)


def _dtype(model: Mapping[str, Any]) -> str | None:
    return "/".join(map(str, _list(model.get("dtypes"))))[:_LONGEST] or None


def _metric(found: Any) -> dict[str, Any]:
    metric = _mapping(found)
    return {
        "value": _number(metric.get("value")),
        "stderr": _number(metric.get("stderr")),
        "n": _integer(metric.get("n")),
    }


def _compared(report: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the figures of a comparison of two files, in the place of metrics."""
    total = _mapping(_mapping(report.get("comparison")).get("total"))
    return {name: _metric({"value": total[name]}) for name in DIFFERENCES if name in total}


def directions_of(report: Mapping[str, Any]) -> dict[str, bool]:
    """Returns whether more is better, for each metric that says so itself or has only a lower or upper limit."""
    evaluation, config = _mapping(report.get("evaluation")), _mapping(report.get("config"))
    known, limits = (
        _mapping(evaluation.get("higher_is_better")),
        _mapping(_mapping(config.get("evaluate")).get("expect")),
    )
    found = {}
    for name in map(str, _mapping(evaluation.get("metrics"))):
        limit = _mapping(limits.get(name))
        expected = "min" in limit if ("min" in limit) != ("max" in limit) else None
        better = known.get(name)
        better = better if isinstance(better, bool) else expected
        if better is not None:
            found[name] = better
    return found


def _bytes(parts: Iterable[Mapping[str, Any]]) -> int | None:
    """Adds up the sizes of files, each counted once."""
    sizes = {str(part.get("path")): _integer(part.get("bytes")) for part in parts}
    known = [nbytes for nbytes in sizes.values() if nbytes is not None]
    return sum(known) if known else None


def _sum(timings: Mapping[str, Any], steps: Iterable[str]) -> float | None:
    known = [seconds for step in steps if (seconds := _number(timings.get(step))) is not None]
    return round(sum(known), 6) if known else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else _EMPTY


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value[:_LONGEST] if isinstance(value, str) and value else None


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None


def _number(value: Any) -> float | None:
    return value if type(value) in (int, float) and math.isfinite(value) else None
