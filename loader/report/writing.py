"""Reports and summaries on disk.

Guarantees: writes are atomic; the JSON is valid for any reader (no NaN, no infinity), without the credentials of URLs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.write import write_whole
from ..runtime import collector_paused
from ..text.redaction import redacted
from .data import REPORT, Report


def _plain(content: Any) -> Any:
    return dict(content) if isinstance(content, Mapping) else str(content)


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=True, default=_plain)


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``report.json`` into a run's folder."""
    return write_json(folder / REPORT, report.to_dict())


@collector_paused()
def write_json(path: Path, content: Any) -> Path:
    """Writes JSON atomically; numbers that JSON does not have become null.

    A mapping takes a line for each key, a list one for each item: a report may have as many as a file has tensors.
    """
    write_whole(path, f"{json_text(content)}\n".encode("ascii"))
    return path


def json_text(content: Any) -> str:
    """Returns the text that `write_json` writes, without its last line break."""
    text = _written(content, "")
    # Inside strings only: a secret next to a quote would take the quote's backslash with it.
    return text if redacted(text) == text else _written(_redacted(content), "")


def _redacted(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {redacted(str(key)): _redacted(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_redacted(value) for value in content]
    return redacted(content) if isinstance(content, str) else content


def _written(content: Any, margin: str) -> str:
    inner = f"{margin}  "
    if isinstance(content, Mapping) and content:
        pairs = (f"{inner}{_ENCODER.encode(str(key))}: {_written(value, inner)}" for key, value in content.items())
        return "{\n" + ",\n".join(pairs) + f"\n{margin}}}"
    if isinstance(content, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in content):
        return "[\n" + ",\n".join(f"{inner}{_item(item, inner)}" for item in content) + f"\n{margin}]"
    return _on_one_line(content)


def _item(content: Any, margin: str) -> str:
    """Writes a row on one line; an item that contains lists of rows takes more."""
    rows = isinstance(content, Mapping) and any(
        isinstance(value, list) and value and isinstance(value[0], Mapping) for value in content.values()
    )
    return _written(content, margin) if rows else _on_one_line(content)


def _on_one_line(content: Any) -> str:
    try:
        return _ENCODER.encode(content)
    except (ValueError, TypeError):
        return _ENCODER.encode(_finite(content))


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def write_text(path: Path, text: str) -> Path:
    """Writes text atomically as UTF-8; file names that are not valid UTF-8 are escaped."""
    write_whole(path, redacted(text).encode("utf-8", "backslashreplace"))
    return path
