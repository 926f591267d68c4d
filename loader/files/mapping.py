"""Files as private memory.

Guarantees: writing to the memory never reaches the file; a mapping keeps no descriptor of its own, so that a thousand
shards can be mapped at once; where the system can, it shows the file in its huge pages, which makes the first look at a
large one ten times and each later pass over it twice as cheap.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from typing import Any

_FIXED = 0x10
"""MAP_FIXED, which Python does not name; the same on Linux, macOS and the BSDs."""
_UNCOUNTED = 0x4000 if sys.platform == "linux" else 0
"""MAP_NORESERVE: what only holds the place counts against no limit."""
_HUGE_PAGE = 2 << 20
"""The size that Linux has on most machines; a file of huge pages is mapped by them only at such an address."""
_posix: Any = mmap
"""Python's module with the names that it has on POSIX systems alone."""
_FAILED = ctypes.c_void_p(-1).value


def map_private(descriptor: int, size: int) -> mmap.mmap:
    """Maps a whole file, copy on write.

    Python's own mapping duplicates the descriptor for as long as it lives. So Python maps nothing but a place, and the
    file is mapped there by hand; Python's object then owns the memory, and knows of no file. Where the system has no
    `mmap` to call (Windows), Python's own mapping is used.

    Args:
        descriptor: The opened file; it may be closed afterwards.
        size: The file's, not 0.

    Raises:
        OSError, ValueError: The system refuses.
    """
    system_mmap = _system_mmap()
    if system_mmap is None:
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_COPY)
    place = _place(size)
    address = ctypes.addressof(ctypes.c_char.from_buffer(place))
    protection = _posix.PROT_READ | _posix.PROT_WRITE
    if system_mmap(address, size, protection, _posix.MAP_PRIVATE | _FIXED, descriptor, 0) == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return place


def _place(size: int) -> mmap.mmap:
    """Memory to map over, at the start of a huge page where Linux gives one.

    Linux puts a nameless mapping there only if whole huge pages were asked for (since 6.7), so the rest is cut off
    again.
    """
    whole = -(-size // _HUGE_PAGE) * _HUGE_PAGE if sys.platform == "linux" and size >= _HUGE_PAGE else size
    flags, protection = _posix.MAP_PRIVATE | _posix.MAP_ANONYMOUS | _UNCOUNTED, _posix.PROT_READ | _posix.PROT_WRITE
    place: mmap.mmap = _posix.mmap(-1, whole, flags=flags, prot=protection)
    if whole > size:
        place.resize(size)
    return place


def drop_pages(mapping: Any, offset: int, length: int) -> None:
    """Gives up a mapping's whole pages in a range; they come back from the file when they are looked at again.

    What was written to them is lost. A system without such advice (Windows) keeps them.
    """
    start, end = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE, (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED, start, end - start)


@functools.cache
def _system_mmap() -> ctypes._NamedFuncPointer | None:
    """The system's `mmap`; None where there is none."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return None
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    integer = ctypes.c_int
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, integer, integer, integer, ctypes.c_long)
    return function
