"""The ``config.json`` in the folder of a checkpoint, as Hugging Face writes it.

Guarantees: the file is read as data of limited size, and only if it lies in the folder itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.file import CheckpointFile
from ..files.path import leads_out
from .index import read_mapping
from .limits import LARGEST_CONFIG

CONFIG = "config.json"


def config_in(folder: Path) -> Mapping[str, Any] | None:
    """Returns the content of a folder's config; None if there is no such folder or file.

    Raises:
        CheckpointError: The config is damaged.
    """
    path = folder / CONFIG
    if not folder.is_dir() or not path.is_file() or leads_out(path, folder) is not None:
        return None
    file = CheckpointFile(path)
    try:
        if file.size > LARGEST_CONFIG:
            raise file.damaged(f"{file.size:,} bytes (expected at most {LARGEST_CONFIG:,})")
        return read_mapping(file, file.pread(0, file.size), "its text")
    finally:
        file.close()


def config_beside(path: Path) -> Mapping[str, Any]:
    """Returns the content of the config in a checkpoint's folder, or next to its file; empty if there is none.

    Raises:
        CheckpointError: The config is damaged.
    """
    folder = path if path.is_dir() else path.parent if path.is_file() else None
    return (config_in(folder) if folder is not None else None) or {}
