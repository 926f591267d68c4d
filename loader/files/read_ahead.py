"""Bytes that are read before they are asked for.

Guarantees: only advice to the system, given in the background, file by file and in each file's order; a file whose
wanted bytes seem to be in memory already is left alone; whatever goes wrong is left for the reader to find.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import CheckpointError
from .file import CheckpointFile

_CLOSE_ENOUGH = 256 << 10
"""Two wanted ranges with a smaller gap are read ahead as one."""
_ADVISED = 512 << 10
"""Linux cuts a longer request down to about this; many of them are what keeps a disk busy."""
_PROBES = 64
"""At so many places it is looked whether a file is in memory: advice for each of its pieces would, where it changes
nothing, take the interpreter from the thread that loads thousands of times."""
_posix: Any = os
"""Python's module with the names that it has on POSIX systems alone."""
_WITHOUT_WAITING = getattr(os, "RWF_NOWAIT", None)
Range = tuple[int, int]


def read_ahead(wanted: Iterable[tuple[CheckpointFile, Iterable[Range]]]) -> None:
    """Has the system read (offset, length) ranges of files.

    It goes on after the files are closed: a mapped tensor may be looked at only then.
    """
    if hasattr(os, "posix_fadvise"):
        merged = [(file, _merged(ranges)) for file, ranges in wanted]
        threading.Thread(target=_advise, args=(merged,), name="read-ahead", daemon=True).start()


def _advise(wanted: Sequence[tuple[CheckpointFile, Sequence[Range]]]) -> None:
    for file, ranges in wanted:
        try:
            descriptor = file.open_again()
        except CheckpointError:
            continue  # changed or gone: whoever reads it is told
        try:
            pieces = [(at, min(_ADVISED, end - at)) for start, end in ranges for at in range(start, end, _ADVISED)]
            if not _all_here(descriptor, pieces):
                for offset, length in pieces:
                    _posix.posix_fadvise(descriptor, offset, length, _posix.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _all_here(descriptor: int, pieces: Sequence[Range]) -> bool:
    """Whether evenly spread places among the pieces, the last one with them, can be read without waiting for a disk."""
    if _WITHOUT_WAITING is None:
        return False
    step = max(1, -(-len(pieces) // _PROBES))
    byte = bytearray(1)
    try:
        return all(
            _posix.preadv(descriptor, [byte], offset + length - 1, _WITHOUT_WAITING)
            for offset, length in [*pieces[::step], *pieces[-1:]]
        )
    except OSError:  # it would have to wait, or this file system cannot tell
        return False


def _merged(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for offset, length in sorted(ranges):
        if merged and offset <= merged[-1][1] + _CLOSE_ENOUGH:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset + length))
        else:
            merged.append((offset, offset + length))
    return merged
