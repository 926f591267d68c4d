"""Keeps reports on disk.

Guarantees: a file is there as a whole or not at all; it is JSON that any reader takes (no NaN, no infinity).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from loader.report.data import Report

REPORT = "report.json"
"""Its name in a run's folder."""


def write_report(report: Report, folder: Path) -> Path:
    """Writes ``report.json`` into a run's folder."""
    return write_json(folder / REPORT, report.to_dict())


def write_json(path: Path, content: Any) -> Path:
    """Writes JSON at once: readers see the old file or the new one."""
    return write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=True, default=str) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Writes text at once."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8", newline="")
    draft.replace(path)
    return path
