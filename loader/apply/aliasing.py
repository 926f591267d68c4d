"""Which entries would share memory once they are read.

Guarantees: a pure function of the entries; looks through views, pieces and storages that are made first. Two entries
that share no memory may be named, where only the ends of their elements overlap; two that do always are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..formats.boxes import extent
from ..formats.tree import ITEMSIZE, TensorEntry

Place = tuple[object, ...]
"""What holds bytes: a file, a deflated storage or memory."""


def aliased(entries: Mapping[str, TensorEntry]) -> set[str]:
    """Returns the keys whose bytes an earlier one already takes, and those whose own elements share memory."""
    runs: dict[Place, list[tuple[int, int, str]]] = {}
    found = set()
    for key, entry in entries.items():
        for place, start, stop in _runs(entry):
            runs.setdefault(place, []).append((start, stop, key))
        if any(size > 1 and step == 0 for size, step in zip(entry.shape, entry.stride, strict=False)):
            found.add(key)
    for spans in runs.values():
        end = -1
        for start, stop, key in sorted(spans):
            if start < end:
                found.add(key)
            end = max(end, stop)
    return found


def _runs(entry: TensorEntry) -> Iterator[tuple[Place, int, int]]:
    """Yields the run of bytes that the tensor of an entry may be a view of; none if it has memory of its own."""
    while len(entry.pieces) == 1:  # several are copied into memory of their own
        entry = entry.pieces[0].entry
    storage = entry.storage
    if storage is None or entry.components or entry.pieces or entry.formula is not None or not entry.numel:
        return
    if storage.made is not None:
        yield from _runs(storage.made)
        return
    if storage.data is not None:
        return
    width = ITEMSIZE[entry.dtype]
    start, stop = entry.offset * width, (entry.offset + extent(entry.shape, entry.stride)) * width
    if storage.memory is not None:
        yield ("memory", storage.memory.data_ptr()), start, stop
    elif storage.packed is not None:
        yield (id(storage.file), storage.offset), start, stop
    else:
        yield (id(storage.file),), storage.offset + start, storage.offset + stop
