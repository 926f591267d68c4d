"""One regular file, opened once.

Guarantees: nothing but a regular file is ever opened for reading, and opening never hangs; reads are bounded by the
size the file had when it was opened; all tensors of a file share one private copy-on-write mapping, so that writing
to a tensor never reaches the file.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import stat
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from loader.errors import CheckpointError
from loader.formats.path import missing_file, shown_path

if TYPE_CHECKING:
    import torch

_CHUNK = 4 << 20
_CLOSE_ENOUGH = 256 << 10
"""Two wanted ranges with a smaller gap are read ahead as one."""
_ADVISED = 512 << 10
"""Linux cuts a longer request down to about this; many of them are what keeps a disk busy."""
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


class CheckpointFile:
    """A regular file opened for reading.

    Args:
        path: Where it is; absolute, symlinks are followed.

    Raises:
        CheckpointError: It is missing, unreadable, or no regular file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Looking first keeps pipes and devices from being opened at all; looking again closes the gap between the two.
        _refuse_irregular(path, _looked_at(path))
        self._descriptor = _opened(path)
        try:
            found = os.fstat(self._descriptor)
            _refuse_irregular(path, found)
        except BaseException:
            os.close(self._descriptor)
            raise
        self.size = found.st_size
        self._identity = _identity(found)
        self._mapping: mmap.mmap | None = None
        self._mapping_lock = threading.Lock()

    def pread(self, offset: int, length: int) -> bytes:
        """Reads exactly these bytes.

        Raises:
            CheckpointError: The file ends before them.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise self.ends_early(offset + length)
        whole = self._read_once(offset, length) if length <= _CHUNK else b""
        if len(whole) == length:
            return whole
        pieces = []
        while length > 0:
            piece = self._read_once(offset, min(length, _CHUNK))
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return b"".join(pieces)

    def read_into(self, tensor: torch.Tensor, offset: int) -> None:
        """Fills a compact CPU tensor with the file's bytes from this offset, without any copy between."""
        length = tensor.numel() * tensor.element_size()
        if offset < 0 or offset + length > self.size:
            raise self.ends_early(offset + length)
        if not length:
            return
        # torch has no public way to hand out its memory as a writable buffer without NumPy.
        target = memoryview((ctypes.c_ubyte * length).from_address(tensor.data_ptr())).cast("B")
        done = 0
        while done < length:
            try:
                count = os.preadv(self._descriptor, [target[done:]], offset + done)
            except OSError as error:
                raise self._unreadable(error) from error
            if not count:
                raise self.changed("it is shorter now")
            done += count

    @property
    def mapping(self) -> mmap.mmap:
        """The whole file as private memory; one per file, made when first asked for."""
        found = self._mapping
        return self._map() if found is None else found

    def _map(self) -> mmap.mmap:
        with self._mapping_lock:
            if self._mapping is None:
                # Mapping no descriptor succeeds: it gives zeros.
                if self._descriptor < 0:
                    raise CheckpointError(f"{shown_path(self.path)} was closed before it was read", "open it again")
                try:
                    self._mapping = mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_COPY)
                except (OSError, ValueError) as error:
                    raise CheckpointError(
                        f"{shown_path(self.path)} cannot be mapped into memory ({error})", "checkpoint.mmap=false"
                    ) from error
            return self._mapping

    def release(self, offset: int, length: int) -> None:
        """Gives up the mapping's whole pages in a range; they come back from the file when they are looked at again.

        What was written to them is lost.
        """
        start, end = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE, (offset + length) // mmap.PAGESIZE * mmap.PAGESIZE
        if self._mapping is not None and start < end and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED, start, end - start)

    def will_need(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Has the system read these (offset, length) ranges ahead, in the background and in the file's order.

        It goes on after `close`: a mapped tensor may be looked at only then.
        """
        if hasattr(os, "posix_fadvise"):
            reading = (os.dup(self._descriptor), _merged(ranges))
            threading.Thread(target=_read_ahead, args=reading, name="read-ahead", daemon=True).start()

    def check_unchanged(self) -> None:
        """Compares size, modification time and inode with what they were when the file was opened.

        Raises:
            CheckpointError: One of them differs.
        """
        now = _identity(os.fstat(self._descriptor))
        if now != self._identity:
            was, is_now = self._identity[2], now[2]
            raise self.changed(f"{was:,} bytes then, {is_now:,} now" if was != is_now else "same size, written since")

    def sha256(self) -> str:
        """Digest of the whole file."""
        digest = hashlib.sha256()
        for offset in range(0, self.size, _CHUNK):
            digest.update(self.pread(offset, min(_CHUNK, self.size - offset)))
        return digest.hexdigest()

    def close(self) -> None:
        """Closes the file; a mapping lives on as long as a tensor looks into it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._mapping = None

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.close()

    def ends_early(self, needed: int) -> CheckpointError:
        """What to raise where bytes are declared that the file does not have."""
        return CheckpointError(
            f"{shown_path(self.path)} is cut off: {self.size:,} bytes are there, {needed:,} or more are declared",
            "copy or download the file again; it may also still be being written",
        )

    def damaged(self, what: str) -> CheckpointError:
        """What to raise where the content contradicts itself."""
        return CheckpointError(f"{shown_path(self.path)} is damaged: {what}", "copy or download the file again")

    def changed(self, how: str) -> CheckpointError:
        """What to raise where the file is not what it was when it was opened."""
        return CheckpointError(
            f"{shown_path(self.path)} changed while it was being read ({how})",
            "load it again once it is fully written; checkpoint.mmap=false keeps later changes away from the model",
        )

    def _read_once(self, offset: int, length: int) -> bytes:
        try:
            piece = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self._unreadable(error) from error
        if not piece and length:
            raise self.changed("it is shorter now")
        return piece

    def _unreadable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{shown_path(self.path)} cannot be read: {error.strerror}", "check the disk, or copy the file again"
        )


def _looked_at(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise _cannot_open(path, error) from error


def _opened(path: Path) -> int:
    try:
        return os.open(path, _FLAGS)
    except OSError as error:
        raise _cannot_open(path, error) from error


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
            f"{shown_path(path)} may not be read by this user", f"chmod u+r {shown_path(path)}   # or ask its owner"
        )
    return CheckpointError(f"{shown_path(path)} cannot be opened: {error.strerror}", "checkpoint.path=FILE")


def _read_ahead(descriptor: int, ranges: Iterable[tuple[int, int]]) -> None:
    try:
        for start, end in ranges:
            for offset in range(start, end, _ADVISED):
                os.posix_fadvise(descriptor, offset, min(_ADVISED, end - offset), os.POSIX_FADV_WILLNEED)
    finally:
        os.close(descriptor)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if merged and offset <= merged[-1][1] + _CLOSE_ENOUGH:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset + length))
        else:
            merged.append((offset, offset + length))
    return merged
