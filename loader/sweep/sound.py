"""Whether an earlier job's result still has all figures that its row takes.

Guarantees: a total function of any JSON. A report passes only if each field that `facts` reads has the type that the
loader writes, every metric of the job's config has a finite value, no other metric is there, and what the job kept of
its forward pass is still a readable file of its size. So no damaged result is used without the figures that it lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import LoaderError
from ..files.file import CheckpointFile
from ..formats.safetensors import SafeTensors
from ..report.facts import LISTED, LOAD
from ..report.kept import KEPT

MEASURING = ("load", "convert")
"""The modes that measure; `evaluate.plan`, which imports torch, has them as well."""

Check = Callable[[Any], bool]


def is_sound(report: Mapping[str, Any], folder: Path) -> bool:
    """Returns whether a report has every figure of its job's row, undamaged.

    Args:
        report: The content of an earlier job's report.
        folder: The folder that the report is in.
    """
    return (
        all(check(report.get(name)) for name, check in _SECTIONS.items())
        and _is_measured(report)
        and _is_kept(report["verification"].get("kept"), folder)
    )


def _is_integer(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _with(**fields: Check) -> Check:
    """Makes the check of a mapping that has these fields."""
    return lambda value: isinstance(value, Mapping) and all(check(value.get(name)) for name, check in fields.items())


def _of(check: Check) -> Check:
    """Makes the check of a mapping whose values all pass one."""
    return lambda value: isinstance(value, Mapping) and all(map(check, value.values()))


_METRIC = _with(value=_is_number, stderr=_or_null(_is_number), n=_or_null(_is_integer))

_SECTIONS: Mapping[str, Check] = {
    "model": _or_null(_with(parameters=_is_integer, dtypes=_is_texts, device=_is_text)),
    "parts": _of(_with(step=_or_null(_is_number), bytes=_or_null(_is_integer))),
    "keys": _with(loaded=_is_integer, **dict.fromkeys(LISTED, _is_list)),
    "verification": _with(fingerprint=_or_null(_is_text), golden_diff=_or_null(_is_number)),
    "evaluation": _or_null(
        _with(samples=_is_integer, metrics=_of(_METRIC), higher_is_better=_of(lambda value: isinstance(value, bool)))
    ),
    "timings": _with(**dict.fromkeys((*LOAD, "forward", "evaluate"), _or_null(_is_number))),
    "memory": _with(peak_rss_bytes=_or_null(_is_integer)),
    "environment": _with(torch=_or_null(_is_text)),
    "config": lambda value: isinstance(value, Mapping),
}


def _is_measured(report: Mapping[str, Any]) -> bool:
    """Returns whether the metrics are those of the config; one of them may have several values, as ``NAME_KEY``."""
    config, found = report["config"].get("evaluate"), report["evaluation"]
    if config is None or report.get("mode") not in MEASURING:
        return found is None
    asked = config.get("metrics") if isinstance(config, Mapping) else None
    if found is None or not isinstance(asked, Mapping):
        return False
    names = [str(name) for name, node in asked.items() if node is not None]
    owners = [{name for name in names if one == name or one.startswith(f"{name}_")} for one in found["metrics"]]
    return all(owners) and set(names) == set().union(*owners)


def _is_kept(kept: Any, folder: Path) -> bool:
    """Returns whether the file that a job kept, if any, is there; the report may name another place."""
    if kept is None:
        return True
    path = folder / KEPT
    try:
        if not isinstance(kept, Mapping) or path.stat().st_size != kept.get("bytes"):
            return False
        with SafeTensors(CheckpointFile(path), "structure"):
            return True
    except (LoaderError, OSError, ValueError):
        return False
