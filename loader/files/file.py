"""One regular file, opened once, and reading ahead in it.

Guarantees: reads are bounded by the size that the file had when it was opened; all tensors of a file share one private
copy-on-write mapping, so writing to a tensor never reaches the file. Reading ahead only advises the system, in the
background; a file whose wanted bytes seem to be cached is left alone, and errors are left for the reader to find.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import mmap
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar

from ..errors import CheckpointError
from ..text.lines import Fix
from ..text.progress import progress
from .descriptors import Descriptor, changed, drop_pages, map_private, read_at, read_into_at
from .path import shown_path

if TYPE_CHECKING:
    import torch

    from ..formats.pickle.records import Global

_CHUNK = 4 << 20
_CLOSE_ENOUGH = 256 << 10
"""Two wanted ranges with a smaller gap are read ahead as one."""
_ADVISED = 512 << 10
"""Linux cuts longer requests to about this size; many of them keep a disk busy."""
_PROBES = 64
"""Places at which a file is probed: thousands of needless requests would hold up the thread that loads."""
_posix: Any = os
"""Python's module with the names that it has on POSIX systems alone."""
_WITHOUT_WAITING = getattr(os, "RWF_NOWAIT", None)
Range = tuple[int, int]
_opened: dict[str, os.stat_result] | None = None


def note_opened() -> dict[str, os.stat_result]:
    """Returns a mapping in which every file that is opened from now on is noted, by path, as it was then.

    It is for a process with one job: it lasts as long as the process.
    """
    global _opened  # noqa: PLW0603  # one process, one job
    _opened = {}
    return _opened


class CheckpointFile:
    """A regular file opened for reading.

    Args:
        path: Where it is; absolute, symlinks are followed.

    Raises:
        CheckpointError: It is missing, unreadable, or not a regular file.
    """

    remote: ClassVar[bool] = False
    """Whether other files of its folder may not be on this machine yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = Descriptor(path)
        self.size = self._descriptor.size
        self._mapping: mmap.mmap | None = None
        self._mapping_lock = threading.Lock()
        if _opened is not None:
            with self._descriptor as number:
                _opened.setdefault(str(path), os.fstat(number))

    @functools.cached_property
    def named(self) -> dict[str, Global]:
        """Every global named by its pickles, by full name, as their readers note it."""
        return {}

    def note(self, named: Iterable[Global]) -> None:
        """Adds to `named`."""
        self.named.update((each.full_name, each) for each in named)

    def sibling(self, name: str) -> CheckpointFile:
        """Opens another file of the same folder."""
        return CheckpointFile(self.path.parent / name)

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

    def read_into(self, tensor: torch.Tensor, offset: int) -> memoryview:
        """Fills a compact CPU tensor with the file's bytes from this offset, without a copy in between.

        Returns:
            The tensor's memory, valid as long as the tensor is.
        """
        length = tensor.numel() * tensor.element_size()
        # torch has no public way to hand out its memory as a writable buffer without NumPy.
        memory = (ctypes.c_ubyte * length).from_address(tensor.data_ptr()) if length else b""
        target = memoryview(memory).cast("B")
        self.fill(target, offset)
        return target

    def fill(self, target: memoryview, offset: int) -> None:
        """Fills memory with the file's bytes from this offset.

        Args:
            target: Writable bytes.
            offset: Where to begin in the file.

        Raises:
            CheckpointError: The file ends before them, is shorter now, or cannot be read.
        """
        length, done = len(target), 0
        if offset < 0 or offset + length > self.size:
            raise self.ends_early(offset + length)
        while done < length:
            with self._descriptor as number:
                try:
                    count = read_into_at(number, target[done:], offset + done)
                except OSError as error:
                    raise self._unreadable(error) from error
            if not count:
                raise self.changed("it is shorter now")
            done += count

    @property
    def mapping(self) -> mmap.mmap:
        """The whole file as private memory, mapped once on first use."""
        found = self._mapping
        return self._map() if found is None else found

    def _map(self) -> mmap.mmap:
        with self._mapping_lock:
            if self._mapping is None:
                try:
                    with self._descriptor as number:
                        self._mapping = map_private(number, self.size)
                except CheckpointError:
                    raise
                except (OSError, ValueError) as error:
                    raise CheckpointError(
                        f"{shown_path(self.path)} cannot be mapped into memory ({error})", Fix("checkpoint.mmap=false")
                    ) from error
            return self._mapping

    def release(self, offset: int, length: int) -> None:
        """Gives up the mapping's whole pages in a range, as `drop_pages` does."""
        if self._mapping is not None:
            drop_pages(self._mapping, offset, length)

    def is_same_as(self, other: CheckpointFile) -> bool:
        """Whether another opened file is the same one, under whatever name, and unchanged."""
        return self._descriptor.identity == other._descriptor.identity  # one of its own class

    def check_unchanged(self) -> None:
        """Compares size, modification time and inode with those at opening.

        Raises:
            CheckpointError: One of them differs.
        """
        self._descriptor.check_unchanged()

    def sha256(self) -> str:
        """Digest of the whole file."""
        digest = hashlib.sha256()
        with progress(f"sha256 of {self.path.name}", total=self.size, unit="B") as shown:
            for offset in range(0, self.size, _CHUNK):
                digest.update(block := self.pread(offset, min(_CHUNK, self.size - offset)))
                shown.advance(len(block))
        return digest.hexdigest()

    def close(self) -> None:
        """Closes the file; a mapping lives as long as a tensor that uses it."""
        self._descriptor.close()
        self._mapping = None

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()

    def stream(self) -> BinaryIO:
        """The file from its start, for code that reads files itself, through the same descriptor."""
        with self._descriptor as number:
            stream = open(os.dup(number), "rb")  # noqa: PTH123, SIM115  # a descriptor, which the caller closes
        stream.seek(0)
        return stream

    def open_again(self) -> int:
        """A descriptor for reading after `close`, which the caller closes."""
        return self._descriptor.open_again()

    def ends_early(self, needed: int) -> CheckpointError:
        """The error for a file that is shorter than declared."""
        return CheckpointError(
            f"{shown_path(self.path)} is cut off: {self.size:,} bytes are there, {needed:,} or more are declared",
            Fix(note="copy or download the file again, or wait: it may not be completely written yet"),
        )

    def damaged(self, what: str) -> CheckpointError:
        """The error for invalid content."""
        return CheckpointError(
            f"{shown_path(self.path)} is damaged: {what}", Fix(note="copy or download the file again")
        )

    def changed(self, how: str) -> CheckpointError:
        """The error for a file that changed since it was opened."""
        return changed(self.path, how)

    def _read_once(self, offset: int, length: int) -> bytes:
        with self._descriptor as number:
            try:
                piece = read_at(number, length, offset)
            except OSError as error:
                raise self._unreadable(error) from error
        if not piece and length:
            raise self.changed("it is shorter now")
        return piece

    def _unreadable(self, error: OSError) -> CheckpointError:
        return CheckpointError(
            f"{shown_path(self.path)} cannot be read: {error.strerror}",
            Fix(note="check the disk, or copy the file again"),
        )


def read_ahead(wanted: Iterable[tuple[CheckpointFile, Iterable[Range]]]) -> None:
    """Makes the system read (offset, length) ranges of files, also after the files are closed."""
    if hasattr(os, "posix_fadvise"):
        merged = [(file, _merged(ranges)) for file, ranges in wanted]
        threading.Thread(target=_advise, args=(merged,), name="read-ahead", daemon=True).start()


def _advise(wanted: Sequence[tuple[CheckpointFile, Sequence[Range]]]) -> None:
    for file, ranges in wanted:
        try:
            descriptor = file.open_again()
        except CheckpointError:
            continue  # changed or gone: the reader reports it
        try:
            pieces = [(at, min(_ADVISED, end - at)) for start, end in ranges for at in range(start, end, _ADVISED)]
            if not _all_here(descriptor, pieces):
                for offset, length in pieces:
                    _posix.posix_fadvise(descriptor, offset, length, _posix.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)


def _all_here(descriptor: int, pieces: Sequence[Range]) -> bool:
    """Whether evenly spread pieces, including the last, can be read without waiting for a disk."""
    if _WITHOUT_WAITING is None:
        return False
    step = max(1, -(-len(pieces) // _PROBES))
    byte = bytearray(1)
    try:
        return all(
            _posix.preadv(descriptor, [byte], offset + length - 1, _WITHOUT_WAITING)
            for offset, length in [*pieces[::step], *pieces[-1:]]
        )
    except OSError:  # it would wait, or this file system does not say
        return False


def _merged(ranges: Iterable[Range]) -> list[Range]:
    merged: list[Range] = []
    for offset, length in sorted(ranges):
        if merged and offset <= merged[-1][1] + _CLOSE_ENOUGH:
            merged[-1] = (merged[-1][0], max(merged[-1][1], offset + length))
        else:
            merged.append((offset, offset + length))
    return merged
