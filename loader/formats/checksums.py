"""Comparing what a file holds with the checksums it keeps.

Guarantees: every byte of the given storages is read once, in pieces, by two threads, and nothing else is; memory stays
flat whatever a storage's size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from zlib_ng import zlib_ng

from .tree import Storage

_PIECE = 2 << 20
_WORKERS = 2
"""Two cores check as fast as memory delivers; more would only take them from others."""
Read = Callable[[int, int], bytes | memoryview]
"""Reads from an offset so many bytes."""
Inflate = Callable[[Storage], Iterable[bytes]]
_Piece = tuple[Storage, int, int]


def differing(storages: Sequence[Storage], read: Read, inflate: Inflate) -> list[Storage]:
    """Finds the storages whose bytes do not have the checksum that the file keeps for them.

    Args:
        storages: Each with a checksum.
        read: Reads bytes of the file.
        inflate: Unpacks a deflated storage piece by piece.
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
        with ThreadPoolExecutor(_WORKERS) as pool:
            results = list(pool.map(checksums, batches))
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
    """Pieces of large storages one by one, small storages together: handing a piece to a thread takes time too."""
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
