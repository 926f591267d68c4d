"""Regular files that are open, never so many that the system refuses another.

Guarantees: nothing but a regular file is ever opened for reading, and opening never hangs. Of all the files that are
not being read this moment, a bounded number stays open; another is opened again when it is needed, and must then still
be the file that it was.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from ..errors import CheckpointError
from ..runtime import open_file_limit
from ..text.lines import typed
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
"""Files that are kept open at least, and at most; in between, a quarter of what the process may open."""
_USUAL_LIMIT = 512
"""Files that a process may open where the system has no limit, or does not say."""
_lock = threading.RLock()  # a file may be closed by the collector while this thread holds it
_idle: OrderedDict[int, Descriptor] = OrderedDict()
"""Open and unused, the longest unused first."""


class Descriptor:
    """The descriptor of a regular file, for `with`.

    Args:
        path: Where it is; absolute, symlinks are followed.

    Raises:
        CheckpointError: It is missing, unreadable, or no regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._users = 0
        self._closed = False
        self._number, status = _open_regular(path)
        self.size = status.st_size
        self._identity = _identity(status)
        self._touched = status.st_ctime_ns
        with _lock:
            self._put_back()

    def __enter__(self) -> int:
        with _lock:
            if self._closed:
                raise CheckpointError(f"{shown_path(self.path)} was closed before it was read", "open it again")
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
        """Another descriptor of the same file, which is the caller's to close.

        Raises:
            CheckpointError: It is gone, or something else.
        """
        number, status = _open_regular(self.path)
        try:
            self._compare(status)
            # While it was closed its inode could be given to another file, and every time be set but this one.
            if status.st_ctime_ns != self._touched:
                raise changed(self.path, "another file has its place, or its permissions or links changed")
        except CheckpointError:
            os.close(number)
            raise
        return number

    def check_unchanged(self) -> None:
        """Raises CheckpointError where size, modification time or inode are not what they were."""
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
        if now != self._identity:
            was, is_now = self._identity[2], now[2]
            raise changed(
                self.path, f"{was:,} bytes then, {is_now:,} now" if was != is_now else "same size, written since"
            )


def changed(path: Path, how: str) -> CheckpointError:
    """What to raise where a file is not what it was when it was opened."""
    return CheckpointError(
        f"{shown_path(path)} changed while it was being read ({how})",
        "load it again once it is fully written; checkpoint.mmap=false keeps later changes away from the model",
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
    # Looking first keeps pipes and devices from being opened at all; looking again closes the gap between the two.
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
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no regular file")
        raise CheckpointError(f"{shown_path(path)} is {kind}; a checkpoint file was expected", "checkpoint.path=FILE")


def _identity(found: os.stat_result) -> tuple[int, int, int, int]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _cannot_open(path: Path, error: OSError) -> CheckpointError:
    if error.errno == errno.ENOENT and path.is_symlink():
        return CheckpointError(
            f"{shown_path(path)} is a symbolic link to {shown_path(path.readlink())}, and nothing is there",
            "checkpoint.path=FILE",
        )
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return missing_file(path)
    if error.errno == errno.ELOOP:
        return CheckpointError(f"{shown_path(path)} is a symbolic link that leads in a circle", "checkpoint.path=FILE")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return CheckpointError(
            f"{shown_path(path)} may not be read by this user",
            typed("chmod", "u+r", called(path), note="or ask its owner"),
        )
    return CheckpointError(f"{shown_path(path)} cannot be opened: {error.strerror}", "checkpoint.path=FILE")
