"""What a path is: a file, the index of several, or a folder of one kind or another.

Guarantees: content decides for files, and the names that a tool always writes for folders. A new kind of folder is one
file with a class that is a `formats.base.Found`, its name in `names`, and its function in `_folders`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ..files.file import CheckpointFile
from . import folder, sniff
from .index import is_index
from .opened import Found, OpenedFile
from .several import Shards, opened

FindsFolder = Callable[[Path, Sequence[str], ExitStack], Found | None]
"""Takes a folder and the names in it; None where it is not of the kind."""


@dataclass(frozen=True, slots=True)
class OneFile:
    """A checkpoint that is one file, recognised."""

    file: CheckpointFile
    recognised: sniff.Recognised

    @property
    def format(self) -> str:
        """What was recognised in its content."""
        return self.recognised.format

    def open(self, check: str) -> OpenedFile:
        """Reads its index; takes `checkpoint.check`."""
        return self.recognised.open(check)

    def sha256(self) -> str:
        """The file's digest."""
        return self.file.sha256()


def find(path: Path, stack: ExitStack, format: str = "auto") -> Found:
    """Finds out what a path is.

    Args:
        path: Absolute; something is there.
        stack: Closes the files that were opened for it when it unwinds.
        format: `checkpoint.format`, for `sniff.recognise`.

    Raises:
        CheckpointError: It cannot be opened, or is nothing that is read.
    """
    if path.is_dir():
        return _in_folder(path, stack, format)
    if path.name == folder.DCP_METADATA or path.suffix == folder.DCP_ENDING:
        return _in_folder(path.parent, stack, format)  # no checkpoint by itself, and always a part of one
    return find_in(opened(path, stack), stack, format)


def _folders() -> Sequence[FindsFolder]:
    from .distributed import dcp, deepspeed  # noqa: PLC0415  # most checkpoints are files

    return dcp.find_dcp, deepspeed.find_zero


def _in_folder(path: Path, stack: ExitStack, format: str) -> Found:
    names = folder.listed(path)
    for kind in _folders():
        found = kind(path, names, stack)
        if found is not None:
            return found
    return find_in(opened(folder.choose(path), stack), stack, format)


def find_in(file: CheckpointFile, stack: ExitStack, format: str = "auto") -> Found:
    """Finds out what an opened file is, as `find` does."""
    return Shards(file, stack) if is_index(file) else OneFile(file, sniff.recognise(file, format))
