"""What keeps a checkpoint of several files inside its own folder.

Guarantees: a symbolic link that leads out of the folder is not followed, whoever put it there. One case is ordinary:
the cache of the Hugging Face Hub keeps `models--…/snapshots/REVISION/NAME` as links into `models--…/blobs`, so inside
such a cache a link may lead anywhere below the same `models--…`.
"""

from __future__ import annotations

import os
from pathlib import Path

_CACHED = "models--"
_SNAPSHOTS = "snapshots"


def leads_out(path: Path, folder: Path) -> Path | None:
    """Where a path below a folder really leads, if that is outside; None where it stays.

    Args:
        path: A file below the folder; it need not exist.
        folder: The checkpoint's folder.
    """
    root = Path(os.path.realpath(folder))
    real = Path(os.path.realpath(path))
    return None if real.is_relative_to(_cache_of(root) or root) else real


def cached_repository(folder: Path) -> str:
    """The name on the Hub of the model whose cache this folder belongs to; empty where it belongs to none."""
    cache = _cache_of(Path(os.path.realpath(folder)))
    return "" if cache is None else cache.name.removeprefix(_CACHED).replace("--", "/")


def _cache_of(folder: Path) -> Path | None:
    for snapshot in (folder, *folder.parents):
        cache = snapshot.parent.parent
        if snapshot.parent.name == _SNAPSHOTS and cache.name.startswith(_CACHED):
            return cache
    return None
