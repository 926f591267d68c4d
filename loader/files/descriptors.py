"""Descriptors and private mappings of regular files.

Guarantees: nothing but a regular file is ever opened for reading, and opening never hangs. A bounded number of unused
files stays open; another is opened again when it is needed, and must then still be the same file. Writing to a mapping
never reaches the file; a mapping keeps no descriptor, so that a thousand shards can be mapped at once; on Linux it uses
huge pages where the file has them, which makes the first look at a large one ten times and later passes twice as cheap.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import mmap
import os
import stat
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import CheckpointError
from ..runtime import open_file_limit
from ..text.lines import Fix, typed
from .path import called, missing_file, shown_path

SAFE_FLAGS = 0
"""Flags for every file, as far as the system has them: closed in child processes, bytes as they are, no waiting."""
for _name in ("O_CLOEXEC", "O_NOINHERIT", "O_BINARY", "O_NONBLOCK", "O_NOCTTY"):
    SAFE_FLAGS |= getattr(os, _name, 0)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}
_PIECE = 4 << 20
_FEWEST, _MOST = 8, 256
"""The fewest and most files that are kept open; in between, a quarter of the process's limit."""
_USUAL_LIMIT = 512
"""Files that a process may open where the system has no limit, or does not say."""
_lock = threading.RLock()  # the garbage collector may close a file while this thread holds it
_idle: OrderedDict[int, Descriptor] = OrderedDict()
"""Open and unused, least recently used first."""


class Descriptor:
    """The descriptor of a regular file, for `with`.

    Args:
        path: Where it is; absolute, symlinks are followed.

    Raises:
        CheckpointError: It is missing, unreadable, or not a regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._users = 0
        self._closed = False
        self._number, status = _open_regular(path)
        self.size = status.st_size
        self.identity = _identity(status)
        self._touched = status.st_ctime_ns
        with _lock:
            self._put_back()

    def __enter__(self) -> int:
        with _lock:
            if self._closed:
                raise CheckpointError(
                    f"{shown_path(self.path)} was closed before it was read", Fix(note="open it again")
                )
            if self._number < 0:
                self._number = self.open_again()
            self._users += 1
            _idle.pop(id(self), None)
            return self._number

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with _lock:
            self._users -= 1
            if not self._users:
                self._put_back()

    def open_again(self) -> int:
        """Another descriptor of the same file, which the caller closes.

        Raises:
            CheckpointError: It is missing, or another file.
        """
        number, status = _open_regular(self.path)
        try:
            self._compare(status)
            # While it was closed, another file could get its inode and any of its times but this one.
            if status.st_ctime_ns != self._touched:
                raise changed(self.path, "it was replaced, or its permissions or links changed")
        except CheckpointError:
            os.close(number)
            raise
        return number

    def check_unchanged(self) -> None:
        """Raises CheckpointError if size, modification time or inode changed."""
        with self as number:
            self._compare(os.fstat(number))

    def close(self) -> None:
        """Closes it for good."""
        with _lock:
            _idle.pop(id(self), None)
            self._closed = True
            self.shut()

    def _put_back(self) -> None:
        if self._closed:
            return
        _idle[id(self)] = self
        if len(_idle) > _FEWEST:
            most = _most()
            while len(_idle) > most:
                _idle.popitem(last=False)[1].shut()

    def shut(self) -> None:
        """Closes it for now."""
        number, self._number = self._number, -1  # first: closing it twice would close somebody else's
        if number >= 0:
            os.close(number)

    def _compare(self, status: os.stat_result) -> None:
        now = _identity(status)
        if now != self.identity:
            was, is_now = self.identity[2], now[2]
            raise changed(
                self.path, f"{was:,} bytes then, {is_now:,} now" if was != is_now else "same size, written since"
            )


def changed(path: Path, how: str) -> CheckpointError:
    """The error for a file that changed since it was opened."""
    return CheckpointError(
        f"{shown_path(path)} changed while it was being read ({how})",
        Fix(note="load it again once it is fully written"),
        Fix("checkpoint.mmap=false", "keeps later changes away from the model"),
    )


def read_at(number: int, length: int, offset: int) -> bytes:
    """Reads from a descriptor at an offset and leaves its position as it was; for any number of threads."""
    pread: Callable[[int, int, int], bytes] | None = getattr(os, "pread", None)
    if pread is not None:
        return pread(number, length, offset)
    with _lock:  # Windows
        position = os.lseek(number, 0, os.SEEK_CUR)
        os.lseek(number, offset, os.SEEK_SET)
        try:
            return os.read(number, length)
        finally:
            os.lseek(number, position, os.SEEK_SET)


def read_into_at(number: int, target: memoryview, offset: int) -> int:
    """Fills memory from a descriptor at an offset; returns how many bytes were read."""
    preadv: Callable[[int, list[memoryview], int], int] | None = getattr(os, "preadv", None)
    if preadv is not None:
        return preadv(number, [target], offset)
    piece = read_at(number, min(len(target), _PIECE), offset)
    target[: len(piece)] = piece
    return len(piece)


def _most() -> int:
    return max(_FEWEST, min(_MOST, (open_file_limit() or _USUAL_LIMIT) // 4))


def _open_regular(path: Path) -> tuple[int, os.stat_result]:
    # The first check keeps pipes and devices from being opened; the second one closes the gap between the two calls.
    try:
        _refuse_irregular(path, path.stat())
        number = os.open(path, os.O_RDONLY | SAFE_FLAGS)
    except OSError as error:
        raise _cannot_open(path, error) from error
    try:
        status = os.fstat(number)
        _refuse_irregular(path, status)
    except BaseException:
        os.close(number)
        raise
    return number, status


def _refuse_irregular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "not a regular file")
        raise CheckpointError(
            f"{shown_path(path)} is {kind}; a checkpoint file was expected", Fix("checkpoint.path=FILE")
        )


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _cannot_open(path: Path, error: OSError) -> CheckpointError:
    if error.errno == errno.ENOENT and path.is_symlink():
        return CheckpointError(
            f"{shown_path(path)} is a symbolic link to {shown_path(path.readlink())}, which does not exist",
            Fix("checkpoint.path=FILE"),
        )
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return missing_file(path)
    if error.errno == errno.ELOOP:
        return CheckpointError(
            f"{shown_path(path)} is a symbolic link that leads in a circle", Fix("checkpoint.path=FILE")
        )
    if error.errno in {errno.EACCES, errno.EPERM}:
        return CheckpointError(
            f"{shown_path(path)} is not readable by this user",
            typed("chmod", "u+r", called(path), note="or ask its owner"),
        )
    return CheckpointError(f"{shown_path(path)} cannot be opened: {error.strerror}", Fix("checkpoint.path=FILE"))


_FIXED = 0x10
"""MAP_FIXED, which Python does not name; the same on Linux, macOS and the BSDs."""
_UNCOUNTED = 0x4000 if sys.platform == "linux" else 0
"""MAP_NORESERVE: a reservation counts against no limit."""
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

    Data written to them is lost. A system without such advice (Windows) keeps them.
    """
    start, end = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE, (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED, start, end - start)


@functools.cache
def _system_mmap() -> ctypes._NamedFuncPointer | None:
    """The system's `mmap`; None if it has none."""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return None
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    integer = ctypes.c_int
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, integer, integer, integer, ctypes.c_long)
    return function
