"""Rewrites zip archives with some members replaced."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

Change = Callable[[bytes], bytes | None]


def rewritten(path: Path, changes: dict[str, Change], *, packing: int | None = None) -> Path:
    """Writes an archive anew, in place.

    Args:
        path: The archive.
        changes: By the end of a member's name: what becomes of its content; None leaves it out.
        packing: How to pack all members; as they were, where it is None.
    """
    with zipfile.ZipFile(path) as archive:
        members = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, content in members:
            changed = [change for end, change in changes.items() if entry.filename.endswith(end)]
            new = changed[0](content) if changed else content
            if new is not None:
                archive.writestr(entry.filename, new, entry.compress_type if packing is None else packing)
    return path
