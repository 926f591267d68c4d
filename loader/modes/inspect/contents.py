"""The contents of a checkpoint as rows of plain data.

Guarantees: a pure function of the tree, which holds no tensor data; walks without recursion and once per object, in
the file's order; every tensor and every other entry is in exactly one row. Shared bytes are recognized by their place
in the file; storages are numbered in the order in which they appear.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ...formats.limits import LARGEST_NUMBER
from ...formats.pickle.records import PickledDict, Reduced
from ...formats.pickle.tree import leaf as describe
from ...formats.tree import Container, Leaf, Piece, Storage, TensorEntry
from .rows import ComponentRow, DtypeRow, EntryRow, PieceRow, ShardRow, StorageRow, TensorRow, TotalsRow

_LONGEST_VALUE = 1000
_LONGEST_KEY = 2000
_LONGEST_NAME = 200


@dataclass(slots=True)
class Contents:
    """The contents of a checkpoint, or of a part of it."""

    tensors: list[TensorRow] = field(default_factory=list)
    entries: list[EntryRow] = field(default_factory=list)
    containers: dict[str, Container] = field(default_factory=dict)
    """By dotted key, the outermost first; each once."""
    again: dict[str, str] = field(default_factory=dict)
    """Further keys of a container → its first key."""
    holder: dict[str, str] = field(default_factory=dict)
    """A tensor's key → the key of its container."""
    files: dict[int, ShardRow] = field(default_factory=dict)
    """The files that hold the tensors."""
    stored_bytes: int = 0

    def totals(self) -> TotalsRow:
        """Sums everything up."""
        dtypes: dict[str, DtypeRow] = {}
        devices: dict[str, int] = {}
        for row in self.tensors:
            sums = dtypes.setdefault(row["dtype"], {"tensors": 0, "elements": 0, "bytes": 0})
            devices[row["device"]] = devices.get(row["device"], 0) + 1
            sums["tensors"] += 1
            sums["elements"] += own_elements(row)
            sums["bytes"] += own_bytes(row)
        return {
            "tensors": len(self.tensors),
            "elements": sum(sums["elements"] for sums in dtypes.values()),
            "bytes": sum(sums["bytes"] for sums in dtypes.values()),
            "stored_bytes": self.stored_bytes,
            "entries": len(self.entries),
            "dtypes": dtypes,
            "devices": devices,
        }


def own_elements(row: TensorRow) -> int:
    """Counts a tensor's elements; 0 if an earlier tensor has the same ones."""
    return 0 if "same_as" in row else math.prod(row["shape"])


def own_bytes(row: TensorRow) -> int:
    """Counts a tensor's bytes; 0 if an earlier tensor has the same ones."""
    return 0 if "same_as" in row else row["bytes"]


def list_contents(root: Container) -> Contents:
    """Lists everything in a container."""
    found, sharing = Contents(), Sharing()
    seen: dict[int, str] = {id(root): ""}
    pending: list[tuple[str, Iterator[tuple[str, Container | TensorEntry | Leaf]]]] = []

    def enter(key: str, container: Container) -> None:
        if len(key) > _LONGEST_KEY:  # hostile nesting would make every key below a page long
            key = f"{key[:_LONGEST_KEY]}… ({len(found.containers)})"
        found.containers[key] = container
        pending.append((key, iter(container.children.items())))

    enter("", root)
    while pending:
        prefix, children = pending[-1]
        name, child = next(children, (None, None))
        if child is None or name is None:
            pending.pop()
            continue
        key = f"{prefix}.{name}" if prefix else name
        if isinstance(child, TensorEntry):
            found.holder[key] = prefix
            found.tensors.append(_tensor(key, child, sharing, found.files))
        elif isinstance(child, Leaf):
            found.entries.append(_entry(key, child))
            if id(child.record) not in seen:  # an object that several entries share is listed once
                seen[id(child.record)] = key
                found.entries.extend(_entry(f"{key}.{name}", below) for name, below in _attributes(child))
        elif id(child) in seen:
            found.again[key] = seen[id(child)]
        elif not child.children:
            found.entries.append({"key": key, "type": child.type, "value": "empty"})
        else:
            seen[id(child)] = key
            enter(key, child)
    found.stored_bytes = sharing.stored_bytes
    return found


def _entry(key: str, leaf: Leaf) -> EntryRow:
    return {"key": key, "type": leaf.type, "value": value_of(leaf)}


def _attributes(leaf: Leaf) -> Iterator[tuple[str, Leaf]]:
    """Yields the attributes of a pickled object without tensors, such as an `argparse.Namespace`; one level of them."""
    state = leaf.record.state if isinstance(leaf.record, Reduced) else None
    for name, value in state.pairs() if isinstance(state, PickledDict) else ():
        if type(name) is str:
            yield name[:_LONGEST_NAME], describe(value)


def value_of(leaf: Leaf) -> object:
    """Returns a short plain value as it is; for others, the leaf's own text."""
    value = leaf.record
    if value is None and leaf.type == "NoneType":
        return None
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < LARGEST_NUMBER):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return _cut(value)
    return leaf.text


def _tensor(key: str, entry: TensorEntry, sharing: Sharing, files: dict[int, ShardRow]) -> TensorRow:
    storage = sharing.row(entry)
    row: TensorRow = {
        "key": key,
        "shape": list(entry.shape),
        "dtype": entry.dtype,
        "bytes": entry.nbytes,
        "device": entry.location,
        "layout": entry.layout,
        "storage": storage,
    }
    same, first = sharing.earlier(key, entry, storage)
    if same is not None:
        row["same_as"] = same
    elif first is not None:
        row["shares"] = first
    if entry.components:
        row["components"] = {role: _component(part, sharing) for role, part in entry.components.items()}
    if entry.pieces:
        row["pieces"] = [_piece(piece, sharing) for piece in entry.pieces]
    if entry.inputs:
        row["made_of"] = len(entry.inputs)
    if plain := entry.details.plain():
        row["details"] = plain
    _note_files(row, entry, files)
    return row


def _component(entry: TensorEntry, sharing: Sharing) -> ComponentRow:
    return {"shape": list(entry.shape), "dtype": entry.dtype, "storage": sharing.row(entry)}


def _piece(piece: Piece, sharing: Sharing) -> PieceRow:
    storage = next(piece.entry.storages(), None)
    name = storage.file.path.name if storage is not None and storage.file is not None else ""
    return {
        "shape": list(piece.entry.shape),
        "start": list(piece.start),
        "file": name,
        "storage": sharing.row(piece.entry),
    }


def _note_files(row: TensorRow, entry: TensorEntry, files: dict[int, ShardRow]) -> None:
    met: set[int] = set()
    for storage in entry.storages():
        if storage.file is None:
            continue
        place = id(storage.file)
        shard = files.get(place)
        if shard is None:
            shard = files[place] = {"name": storage.file.path.name, "tensors": 0, "bytes": 0}
        shard["tensors"] += place not in met
        shard["bytes"] += storage.nbytes if "same_as" not in row and "shares" not in row else 0
        met.add(place)
        row["file"] = shard["name"]
    if len(met) > 1:
        del row["file"]


def notes_of(root: Container) -> dict[str, str]:
    """Returns the notes in a header next to its tensors: texts by name, long ones cut."""
    notes = root.record if isinstance(root.record, Mapping) else {}
    return {str(name)[:_LONGEST_VALUE]: _cut(str(note)) for name, note in notes.items()}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


class Sharing:
    """Numbers the storages of one checkpoint and remembers the tensors in them."""

    def __init__(self) -> None:
        self.stored_bytes = 0
        """Of all storages so far."""
        self._ids: dict[object, int] = {}
        self._first: dict[int, tuple[str, TensorEntry]] = {}
        self._exact: dict[object, str] = {}

    def row(self, entry: TensorEntry) -> StorageRow | None:
        """Describes the place of a tensor's own bytes."""
        storage = entry.storage
        if storage is None:
            return None
        number = self._id(storage)
        return {"id": number, "bytes": storage.nbytes, "offset": entry.offset, "stride": list(entry.stride)}

    def earlier(self, key: str, entry: TensorEntry, row: StorageRow | None) -> tuple[str | None, str | None]:
        """Returns the earlier tensor with the very same elements, and the first one in the same storage."""
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
