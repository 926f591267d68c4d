"""How several files that became one are shown.

Guarantees: text for a terminal; a long list of files is cut and counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..schema import MEAN
from ..text.wording import counted, listing, safe_text
from .data import PartReport

_MOST_FILES = 8


def title(part: PartReport) -> str:
    """Returns the path of a part's file, or ``mean of 3 files``."""
    return safe_text(part.path, 300) if part.combined is None else summary(part.combined)


def summary(combined: Mapping[str, Any]) -> str:
    """Returns ``mean of 3 files``."""
    how = "mean" if combined["how"] == MEAN else "weighted sum"
    return f"{how} of {counted(len(combined['files']), 'file')}"


def details(part: PartReport) -> Iterator[str]:
    """Yields the files with their weights, and the keys that are the last file's; nothing for a single file."""
    if part.combined is None:
        return
    files, weighted = part.combined["files"], part.combined["how"] != MEAN
    for file in files[:_MOST_FILES]:
        yield (f"{file['weight']:g} × " if weighted else "") + safe_text(file["path"], 300)
    if len(files) > _MOST_FILES:
        yield f"and {len(files) - _MOST_FILES:,} more"
    if part.combined["last"]:
        yield f"of the last file, since they are whole numbers: {listing(part.combined['last'])}"
