"""Reads what checksums cover once, into memory of its own.

Guarantees: each storage that has a checksum is read from the file once, whole, and compared while it is read; the
tensors of one storage share its memory; that memory is given up with the last tensor that looks into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

import torch
from zlib_ng import zlib_ng

from loader.formats.base import Storage, TensorEntry

_PIECE = 2 << 20
"""Bytes that are still in the processor's cache when their checksum is computed."""

_Place = tuple[int, int, int]


class ReadOnce:
    """Puts the memory of their storages into tensors' entries.

    Args:
        entries: What is going to be asked for, as often as it is; after that its memory is not held any more.
    """

    def __init__(self, entries: Iterable[TensorEntry]) -> None:
        self._uses = Counter(_place(s) for entry in entries if _is_checked(entry) for s in entry.storages())
        self._memory: dict[_Place, torch.UntypedStorage] = {}
        self.damaged = False
        """Whether the bytes of any storage were not what was written."""

    def covers(self, entry: TensorEntry) -> bool:
        """Whether an entry's checksums are compared here."""
        return _is_checked(entry) and all(_place(storage) in self._uses for storage in entry.storages())

    def __call__(self, entry: TensorEntry) -> TensorEntry:
        """The same entry, with its storages in memory where they are compared here.

        Raises:
            CheckpointError: The file cannot be read, or ends early.
        """
        return self._in_memory(entry) if self.covers(entry) else entry

    def _in_memory(self, entry: TensorEntry) -> TensorEntry:
        return replace(
            entry,
            storage=None if entry.storage is None else self._held(entry.storage),
            components={role: self._in_memory(component) for role, component in entry.components.items()},
            pieces=tuple(replace(piece, entry=self._in_memory(piece.entry)) for piece in entry.pieces),
        )

    def _held(self, storage: Storage) -> Storage:
        place = _place(storage)
        memory = self._memory.get(place)
        if memory is None:
            memory = self._memory[place] = self._read(storage)
        self._uses[place] -= 1
        if self._uses[place] <= 0:
            del self._memory[place]
        return replace(storage, memory=memory)

    def _read(self, storage: Storage) -> torch.UntypedStorage:
        memory = torch.empty(storage.nbytes, dtype=torch.uint8)
        checksum = 0
        for start in range(0, storage.nbytes, _PIECE):
            piece = memory[start : start + _PIECE]
            read = storage.file.read_into(piece, storage.offset + start)  # type: ignore[union-attr]
            checksum = zlib_ng.crc32(read, checksum)
        self.damaged |= checksum != storage.crc32
        return memory.untyped_storage()


def _is_checked(entry: TensorEntry) -> bool:
    """Whether all bytes of an entry stand in files as they are, with checksums."""
    storages = list(entry.storages())
    return bool(storages) and all(s.crc32 is not None and s.file is not None and s.packed is None for s in storages)


def _place(storage: Storage) -> _Place:
    return id(storage.file), storage.offset, storage.nbytes
