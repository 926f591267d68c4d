"""Keeps reports on disk.

Guarantees: a file is there as a whole or not at all; it is JSON that any reader takes (no NaN, no infinity).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loader.report.data import Report

REPORT = "report.json"
"""Its name in a run's folder."""


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``report.json`` into a run's folder."""
    return write_json(folder / REPORT, report.to_dict())


def write_json(path: Path, content: Any) -> Path:
    """Writes JSON at once: readers see the old file or the new one; what JSON has no number for becomes null."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False, ensure_ascii=True, default=str)
    return write_text(path, text + "\n")


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content


def write_text(path: Path, text: str) -> Path:
    """Writes text at once."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8", newline="")
    draft.replace(path)
    return path
