"""Which tensors of a checkpoint look into the same bytes.

Guarantees: tells by where the bytes stand, never by reading them; storages are numbered in the order in which they are
met, so that the same file always gets the same numbers.
"""

from __future__ import annotations

from ...formats.tree import Storage, TensorEntry
from .rows import StorageRow


class Sharing:
    """Numbers the storages of one checkpoint and remembers who looks into them."""

    def __init__(self) -> None:
        self.stored_bytes = 0
        """Of all storages met so far."""
        self._ids: dict[object, int] = {}
        self._first: dict[int, tuple[str, TensorEntry]] = {}
        self._exact: dict[object, str] = {}

    def row(self, entry: TensorEntry) -> StorageRow | None:
        """Describes where a tensor's own bytes are."""
        storage = entry.storage
        if storage is None:
            return None
        number = self._id(storage)
        return {"id": number, "bytes": storage.nbytes, "offset": entry.offset, "stride": list(entry.stride)}

    def earlier(self, key: str, entry: TensorEntry, row: StorageRow | None) -> tuple[str | None, str | None]:
        """Which earlier tensor has the very same elements, and which was the first in the same storage."""
        if row is None:
            return (None if entry.is_without_data else self._same_as(key, entry)), None
        first, owner = self._first.setdefault(row["id"], (key, entry))
        if owner is entry and first == key:
            return None, None
        self._same_as(first, owner)
        return self._same_as(key, entry), first

    def _same_as(self, key: str, entry: TensorEntry) -> str | None:
        first = self._exact.setdefault(self._view(entry), key)
        return None if first == key else first

    def _id(self, storage: Storage) -> int:
        place = _place(storage)
        number = self._ids.get(place)
        if number is None:
            number = self._ids[place] = len(self._ids)
            self.stored_bytes += storage.nbytes
        return number

    def _view(self, entry: TensorEntry) -> object:
        own = None if entry.storage is None else self._id(entry.storage)
        parts = tuple((role, self._view(part)) for role, part in entry.components.items())
        pieces = tuple((piece.start, self._view(piece.entry)) for piece in entry.pieces)
        return (own, entry.offset, entry.shape, entry.stride, entry.dtype, parts, pieces)


def _place(storage: Storage) -> object:
    if storage.data is not None:
        return id(storage.data)
    return (id(storage.file), storage.key, storage.offset, storage.nbytes)
