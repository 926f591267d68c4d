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

_FIXED = 0x10
"""MAP_FIXED, which Python does not name; the same on Linux, macOS and the BSDs."""
_UNCOUNTED = 0x4000 if sys.platform == "linux" else 0
"""MAP_NORESERVE: what only holds the place counts against no limit."""
_HUGE_PAGE = 2 << 20
"""The size that Linux has on most machines; a file of huge pages is mapped by them only at such an address."""
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
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    if system_mmap(address, size, protection, mmap.MAP_PRIVATE | _FIXED, descriptor, 0) == _FAILED:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return place


def _place(size: int) -> mmap.mmap:
    """Memory to map over, at the start of a huge page where Linux gives one.

    Linux puts a nameless mapping there only if whole huge pages were asked for (since 6.7), so the rest is cut off
    again.
    """
    whole = -(-size // _HUGE_PAGE) * _HUGE_PAGE if sys.platform == "linux" and size >= _HUGE_PAGE else size
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _UNCOUNTED
    place = mmap.mmap(-1, whole, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    if whole > size:
        place.resize(size)
    return place


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
