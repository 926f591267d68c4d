"""The files that a job reads, which nothing that it writes may replace.

Guarantees: a file is known under every name and by every link that leads to it; nothing is read or changed here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..formats.tree import Checkpoint, TensorEntry
from .path import is_url


class Sources:
    """The files that a job reads.

    Args:
        checkpoints: The opened ones.
        inputs: The config of the inputs that the model is run on.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], inputs: Any = None) -> None:
        self._read = {inode(path) for path in (*_files(checkpoints), *_paths(inputs))}

    def among(self, paths: Iterable[Path]) -> list[Path]:
        """Those of some paths where such a file stands."""
        return [path for path in paths if inode(path) in self._read]


def inode(path: Path) -> tuple[int, int] | Path:
    """What is the same for all names of a file; the path itself where none is there."""
    try:
        found = path.stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino


def _files(checkpoints: Iterable[Checkpoint]) -> Iterator[Path]:
    """Every file that a checkpoint is read from, with all that lie in its folder where that is read as a whole."""
    for checkpoint in checkpoints:
        yield checkpoint.path
        yield checkpoint.place
        yield from checkpoint.place.iterdir() if checkpoint.place.is_dir() else ()
        for _, container in checkpoint.root.walk():
            entries = (entry for entry in container.children.values() if isinstance(entry, TensorEntry))
            yield from (s.file.path for entry in entries for s in entry.storages() if s.file is not None)


def _paths(inputs: Any) -> Iterator[Path]:
    """The files that the specs of inputs name, however deep they stand in lists and mappings."""
    if isinstance(inputs, Mapping):
        path = inputs.get("path")
        if isinstance(path, str) and not is_url(path):
            yield Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises on an unknown user
        yield from (found for value in inputs.values() for found in _paths(value))
    elif isinstance(inputs, Sequence) and not isinstance(inputs, str):
        yield from (found for value in inputs for found in _paths(value))
