"""Checksums: comparing what a file holds with those it keeps, and reading what they cover only once.

Guarantees: every byte of the given storages is read once, in pieces, and nothing else is; memory stays flat whatever a
storage's size. `ReadOnce` reads each storage into memory while it compares it; the tensors of one storage share that
memory, and it is released with the last of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from zlib_ng import zlib_ng

from ..text.progress import progress
from .boxes import rebuilt
from .tree import Storage, TensorEntry

if TYPE_CHECKING:
    import torch

_PIECE = 2 << 20
"""Bytes that are still in the processor's cache when their checksum is computed."""
_WORKERS = 2
"""Two cores check as fast as memory delivers."""
Read = Callable[[int, int], bytes | memoryview]
"""Reads a number of bytes from an offset."""
Inflate = Callable[[Storage], Iterable[bytes]]
_Piece = tuple[Storage, int, int]
_Place = tuple[int, int, int]


def differing(storages: Sequence[Storage], read: Read, inflate: Inflate, what: str) -> list[Storage]:
    """Finds the storages whose bytes do not have the checksum that the file keeps for them.

    Args:
        storages: Each with a checksum.
        read: Reads bytes of the file.
        inflate: Unpacks a deflated storage piece by piece.
        what: The name of this work, for its progress.
    """

    def checksums(pieces: list[_Piece]) -> list[int]:
        return [
            zlib_ng.crc32(read(offset, length)) if storage.packed is None else _of_all(inflate(storage))
            for storage, offset, length in pieces
        ]

    batches = list(_batches(storages))
    if len(batches) == 1:
        results = [checksums(batches[0])]
    else:
        total = sum(length for batch in batches for _, _, length in batch)
        results = []
        with progress(what, total=total, unit="B") as shown, ThreadPoolExecutor(_WORKERS) as pool:
            for batch, values in zip(batches, pool.map(checksums, batches), strict=True):
                results.append(values)
                shown.advance(sum(length for _, _, length in batch))
    found: dict[int, int] = {}
    for batch, values in zip(batches, results, strict=True):
        for (storage, _, length), value in zip(batch, values, strict=True):
            before = found.get(id(storage))
            found[id(storage)] = value if before is None else zlib_ng.crc32_combine(before, value, length)
    return [storage for storage in storages if found[id(storage)] != storage.crc32]


def _of_all(pieces: Iterable[bytes]) -> int:
    checksum = 0
    for piece in pieces:
        checksum = zlib_ng.crc32(piece, checksum)
    return checksum


def _batches(storages: Iterable[Storage]) -> Iterator[list[_Piece]]:
    """Pieces of large storages one by one, small storages together: handing work to a thread takes time too."""
    batch: list[_Piece] = []
    waiting = 0
    for piece in _pieces(storages):
        batch.append(piece)
        waiting += piece[2]
        if waiting >= _PIECE:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _pieces(storages: Iterable[Storage]) -> Iterator[_Piece]:
    for storage in storages:
        if storage.nbytes <= _PIECE or storage.packed is not None:
            yield storage, storage.offset, storage.nbytes
            continue
        end = storage.offset + storage.nbytes
        for offset in range(storage.offset, end, _PIECE):
            yield storage, offset, min(_PIECE, end - offset)


class ReadOnce:
    """Reads storages into memory once, and returns entries that use that memory.

    Args:
        entries: What will be read, as often as it will be; the memory is released after the last time.
        inflate: Unpacks a deflated storage piece by piece.
        mmap: Whether stored data stays in the file, so that only deflated data is read here; that of arithmetic is
            compared right before it is used.
    """

    def __init__(self, entries: Iterable[TensorEntry], inflate: Inflate, *, mmap: bool) -> None:
        self._inflate = inflate
        self._mmap = mmap
        self._uses = Counter(_place(s) for entry in entries if self._is_checked(entry) for s in entry.storages())
        self._memory: dict[_Place, torch.UntypedStorage] = {}
        self._compared: set[_Place] = set()
        self.damaged = False
        """Whether the checksum of any storage differed."""

    def covers(self, entry: TensorEntry) -> bool:
        """Whether this object compares the checksums of an entry."""
        known = self._uses
        return bool(known) and self._is_checked(entry) and all(_place(storage) in known for storage in entry.storages())

    def __call__(self, entry: TensorEntry) -> TensorEntry:
        """The same entry, with storages that are read into memory one by one if they are compared here.

        Raises:
            CheckpointError: The file cannot be read, or ends early.
        """
        return self._in_memory(entry) if self.covers(entry) else entry

    def _in_memory(self, entry: TensorEntry) -> TensorEntry:
        return rebuilt(entry, lambda leaf: leaf if leaf.storage is None else self._with(leaf, leaf.storage))

    def _with(self, leaf: TensorEntry, storage: Storage) -> TensorEntry:
        return replace(leaf, storage=replace(storage, fetch=partial(self._held, storage)))

    def _held(self, storage: Storage) -> torch.UntypedStorage | None:
        place = _place(storage)
        if self._mmap and storage.packed is None:
            self._compare_mapped(storage, place)
            return None
        memory = self._memory.get(place)
        if memory is None:
            memory = self._memory[place] = self._read(storage)
        self._uses[place] -= 1
        if self._uses[place] <= 0:
            del self._memory[place]
        return memory

    def _compare_mapped(self, storage: Storage, place: _Place) -> None:
        """Compares mapped bytes right before they are used: their pages are then read once, not twice."""
        if place in self._compared:
            return
        self._compared.add(place)
        view, checksum = memoryview(storage.file.mapping), 0  # type: ignore[union-attr]
        for start in range(storage.offset, storage.offset + storage.nbytes, _PIECE):
            end = min(start + _PIECE, storage.offset + storage.nbytes)
            checksum = zlib_ng.crc32(view[start:end], checksum)
        self.damaged |= checksum != storage.crc32

    def _read(self, storage: Storage) -> torch.UntypedStorage:
        import torch  # noqa: PLC0415  # comparing checksums alone needs none

        memory = torch.empty(storage.nbytes, dtype=torch.uint8)
        checksum = 0
        for piece in self._stored(storage, memory) if storage.packed is None else self._unpacked(storage, memory):
            checksum = zlib_ng.crc32(piece, checksum)
        self.damaged |= checksum != storage.crc32
        return memory.untyped_storage()

    def _stored(self, storage: Storage, memory: torch.Tensor) -> Iterator[memoryview]:
        for start in range(0, storage.nbytes, _PIECE):
            yield storage.file.read_into(memory[start : start + _PIECE], storage.offset + start)  # type: ignore[union-attr]

    def _unpacked(self, storage: Storage, memory: torch.Tensor) -> Iterator[bytes]:
        import torch  # noqa: PLC0415  # comparing checksums alone needs none

        start = 0
        for piece in filter(None, self._inflate(storage)):
            memory[start : start + len(piece)] = torch.frombuffer(bytearray(piece), dtype=torch.uint8)
            start += len(piece)
            yield piece

    def _is_checked(self, entry: TensorEntry) -> bool:
        """Whether all bytes of an entry have checksums, and none of them stays mapped."""
        storages = list(entry.storages())
        stays = self._mmap and not entry.is_computed
        return bool(storages) and all(
            s.crc32 is not None and s.file is not None and not (stays and s.packed is None) for s in storages
        )


def _place(storage: Storage) -> _Place:
    return id(storage.file), storage.offset, storage.nbytes
