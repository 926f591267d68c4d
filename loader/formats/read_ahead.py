"""Bytes that are read before they are asked for.

Guarantees: only advice to the system, given in the background, file by file and in each file's order; whatever goes
wrong with it is left for the reader to find.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence

from loader.errors import CheckpointError
from loader.formats.file import CheckpointFile

_CLOSE_ENOUGH = 256 << 10
"""Two wanted ranges with a smaller gap are read ahead as one."""
_ADVISED = 512 << 10
"""Linux cuts a longer request down to about this; many of them are what keeps a disk busy."""
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
            for start, end in ranges:
                for offset in range(start, end, _ADVISED):
                    os.posix_fadvise(descriptor, offset, min(_ADVISED, end - offset), os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _merged(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for offset, length in sorted(ranges):
        if merged and offset <= merged[-1][1] + _CLOSE_ENOUGH:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset + length))
        else:
            merged.append((offset, offset + length))
    return merged
