"""Rows of an inspection as a tree in which siblings that are alike are one.

Guarantees: a pure function of rows; siblings are folded where, and only where, everything below them is the same in
shape, dtype and all else that is shown of it; every row is counted in exactly one place.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from ...suggest.names import group, is_number
from .modules import levels
from .rows import EntryRow, TensorRow
from .survey import own_bytes

Row = TensorRow | EntryRow

_LARGEST_HEADER = 1024


@dataclass(slots=True)
class Folded:
    """A name, or several that are alike, and what is below."""

    label: str
    """``encoder``, ``{0..11}``."""
    key: str
    """The key of the first of them."""
    below: dict[str, Folded] = field(default_factory=dict)
    row: Row | None = None
    """What stands here itself, the first of several that are alike."""
    tensors: int = 0
    """How many stand here and below."""
    entries: int = 0
    bytes: int = 0

    def walk(self) -> Iterator[tuple[int, Folded]]:
        """Everything below with its level, from 1."""
        pending = [(1, child) for child in reversed(self.below.values())]
        while pending:
            level, node = pending.pop()
            yield level, node
            pending.extend((level + 1, child) for child in reversed(node.below.values()))


def fold(tensors: Sequence[TensorRow], entries: Sequence[EntryRow]) -> Folded:
    """Makes the tree."""
    rows: dict[str, Row] = {}
    for row in _merged(tensors, entries):
        key = row["key"]
        rows[key if key not in rows else f"{key} ({len(rows)})"] = row
    root = Folded("", "")
    deepest = levels(list(rows))
    for found in group({key: _looks(row) for key, row in rows.items()}, star=False, deepest=deepest):
        members = [rows[key] for key in found.keys]
        _place(root, found.path, found.keys[0].split(".", deepest), members)
    return root


def is_view(row: TensorRow) -> bool:
    """Whether a tensor looks into a storage that holds more than itself; the header of an array is no more."""
    storage = row["storage"]
    return storage is not None and storage["bytes"] > row["bytes"] + _LARGEST_HEADER


def _merged(tensors: Sequence[TensorRow], entries: Sequence[EntryRow]) -> Iterator[Row]:
    # What is plain comes first: it says what the file is, and it is short.
    yield from (entry for entry in entries if "." not in entry["key"])
    yield from tensors
    yield from (entry for entry in entries if "." in entry["key"])


def _place(root: Folded, path: Sequence[str], first: Sequence[str], members: Sequence[Row]) -> None:
    tensors = sum("shape" in row for row in members)
    nbytes = sum(own_bytes(row) for row in members if "shape" in row)
    node = root
    for depth, label in enumerate(path, 1):
        if label not in node.below:
            node.below[label] = Folded(label, ".".join(first[:depth]))
        node = node.below[label]
        node.tensors += tensors
        node.entries += len(members) - tensors
        node.bytes += nbytes
    node.row = members[0]


def _looks(row: Row) -> Hashable:
    """Everything that is shown of a row, so that rows which fold look alike."""
    name = row["key"].rpartition(".")[2]
    if "shape" not in row:
        # Entries fold along with what they stand in, and not with their neighbours.
        return (row["type"], repr(row["value"]), "" if is_number(name) else name)
    storage = row["storage"]
    seen = storage["bytes"] if storage is not None and is_view(row) else None
    sharing = (row.get("same_as"), row.get("shares"), seen)
    made_of = (len(row.get("pieces", ())), row.get("details", {}).get("quantised"))
    stride = () if storage is None else tuple(storage["stride"])
    return (row["dtype"], tuple(row["shape"]), stride, row["device"], row["layout"], sharing, made_of)
