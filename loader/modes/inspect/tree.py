"""The contents of a file as a tree of modules, in which siblings that are alike are one, and the tree as text.

Guarantees: pure functions of rows. Siblings are folded where, and only where, everything below them is the same in
shape, dtype and all else that is shown; every row is counted in exactly one place. Deeper names than a bounded amount
of work allows stay one name. The text has a bounded number of lines of bounded length, harmless for a terminal; where
something is left out, the last line says how much.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ...formats.tree import Container, contiguous
from ...keys.segments import is_number
from ...suggest.names import group
from ...text.wording import counted, safe_text, shape, size
from .contents import own_bytes, own_elements
from .rows import EntryRow, ModuleRow, TensorRow

SCREEN = 60
"""Lines of a tree whose depth the user did not choose."""
MOST_LINES = 1000
_LONGEST_LABEL = 72
_WIDEST = 40
_PLAIN_TYPES = {"int", "float", "bool", "str", "NoneType"}


@dataclass(frozen=True, slots=True)
class Known:
    """What the tree shows next to some keys."""

    containers: Mapping[str, ModuleRow]
    """Dicts, lists, pickled modules and objects, by key."""
    closed: Mapping[str, str]
    """Keys whose contents are one line: key → the reason."""


def draw(root: Folded, known: Known, depth: int | None) -> list[str]:
    """Draws a tree: to the given depth, else as deep as fits on a screen."""
    if depth is not None:
        return _capped(list(_lines(root, known, depth)), MOST_LINES)
    deepest = max((level for level, _ in root.walk()), default=1)
    best: list[str] = []
    for level in range(1, deepest + 1):
        lines = list(islice(_lines(root, known, level), SCREEN + 1))
        if len(lines) > SCREEN:
            more = f"deeper: inspect.depth={level}" if best else "all of it: inspect.depth=1"
            whole = best or list(_lines(root, known, level))
            return [*_capped(whole, SCREEN), f"… {more}, or some of it: 'inspect.filter=[NAME.*]'"]
        best = lines
    return best


def _capped(lines: list[str], most: int) -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"… and {len(lines) - most:,} more lines; everything is in report.json"]


def _lines(node: Folded, known: Known, depth: int, indent: str = "") -> Iterator[str]:
    children = [_chained(child, known, depth) for child in node.below.values()]
    width = max((len(label) for label, child, _ in children if not child.below), default=0)
    for label, child, left in children:
        shown = f"{indent}{label}"
        if child.row is not None:
            yield f"{shown}{' ' * max(0, min(width, _WIDEST) - len(label))}{_row(child.row)}"
        if not child.below:
            continue
        closed = known.closed.get(child.key)
        if child.row is None:
            yield f"{shown}{_about(child, known)}{f': {closed}' if closed else ''}"
        if left and not closed:
            yield from _lines(child, known, left, indent + "  ")


def _chained(node: Folded, known: Known, depth: int) -> tuple[str, Folded, int]:
    """Joins a name with those below that have no siblings; returns the levels left below the last."""
    labels = [node.label]
    depth -= 1
    while depth and node.row is None and len(node.below) == 1 and node.key not in known.containers:
        node = next(iter(node.below.values()))
        labels.append(node.label)
        depth -= 1
    return safe_text(".".join(labels), _LONGEST_LABEL) or "(all of it)", node, depth


def _about(node: Folded, known: Known) -> str:
    container = known.containers.get(node.key)
    facts = []
    if container is not None:
        facts.append(_kind(container))
    if node.tensors:
        facts.append(f"{counted(node.tensors, 'tensor')}, {size(node.bytes)}")
    if node.entries and not node.tensors:
        facts.append(counted(node.entries, "value"))
    return f"  ({', '.join(facts)})"


def _kind(container: ModuleRow) -> str:
    if container["kind"] in {"dict", "list"}:
        return container["kind"]
    return f"{'pickled ' if container['kind'] == 'module' else ''}{safe_text(container['type'])}"


def _row(row: TensorRow | EntryRow) -> str:
    if "shape" not in row:
        return f" = {_value(row)}"
    facts = [f"  {shape(row['shape'])} {row['dtype']}"]
    facts += [safe_text(row["details"]["quantised"], 20)] if "quantised" in row.get("details", {}) else []
    facts += [row["layout"]] if row["layout"] != "strided" else []
    facts += [safe_text(row["device"], 20)] if row["device"] != "cpu" else []
    return " ".join([*facts, *_place(row)])


def _place(row: TensorRow) -> Iterator[str]:
    storage = row["storage"]
    if "same_as" in row:
        yield f"= {safe_text(row['same_as'])}"
    elif "shares" in row:
        yield f"in the storage of {safe_text(row['shares'])}"
    if storage is None:
        pieces = row.get("pieces", ())
        if len(pieces) > 1:
            yield f"(in {len(pieces):,} pieces)"
        elif "made_of" in row:
            yield f"(computed from {row['made_of']:,} tensors)"
        elif not pieces and "components" not in row:
            yield "(no data in the file)"
        return
    dimensions = zip(row["shape"], storage["stride"], contiguous(tuple(row["shape"])), strict=True)
    if 0 not in row["shape"] and any(length != 1 and stride != usual for length, stride, usual in dimensions):
        yield f"stride {shape(storage['stride'])}"
    if is_view(row):
        yield f"(a view of {size(storage['bytes'])})"


def _value(row: EntryRow) -> str:
    value, kind = row["value"], row["type"]
    text = safe_text(repr(value) if isinstance(value, str) and kind == "str" else value)
    return text if kind in _PLAIN_TYPES else f"{text} ({safe_text(kind)})".lstrip()


Row = TensorRow | EntryRow

_LARGEST_HEADER = 1024


@dataclass(slots=True)
class Folded:
    """A name, or several that are alike, and everything below."""

    label: str
    """``encoder``, ``{0..11}``."""
    key: str
    """The key of the first of them."""
    below: dict[str, Folded] = field(default_factory=dict)
    row: Row | None = None
    """The row at this name, the first of several that are alike."""
    tensors: int = 0
    """Number of tensors here and below."""
    entries: int = 0
    bytes: int = 0

    def walk(self) -> Iterator[tuple[int, Folded]]:
        """Yields everything below with its level, from 1."""
        pending = [(1, child) for child in reversed(self.below.values())]
        while pending:
            level, node = pending.pop()
            yield level, node
            pending.extend((level + 1, child) for child in reversed(node.below.values()))


def fold(tensors: Sequence[TensorRow], entries: Sequence[EntryRow]) -> Folded:
    """Builds the tree."""
    rows: dict[str, Row] = {}
    for row in _merged(tensors, entries):
        key = row["key"]
        rows[key if key not in rows else f"{key} ({len(rows)})"] = row
    root = Folded("", "")
    deepest = levels(list(rows))
    for found in group({key: _looks(row) for key, row in rows.items()}, star=False, deepest=deepest):
        members = [rows[key] for key in found.keys]
        _insert(root, found.path, found.keys[0].split(".", deepest), members)
    return root


def is_view(row: TensorRow) -> bool:
    """Whether a tensor's storage holds more than the tensor; the header of an array does not count."""
    storage = row["storage"]
    return storage is not None and storage["bytes"] > row["bytes"] + _LARGEST_HEADER


def _merged(tensors: Sequence[TensorRow], entries: Sequence[EntryRow]) -> Iterator[Row]:
    # Plain entries come first: they say what the file is, and are short.
    yield from (entry for entry in entries if "." not in entry["key"])
    yield from tensors
    yield from (entry for entry in entries if "." in entry["key"])


def _insert(root: Folded, path: Sequence[str], first: Sequence[str], members: Sequence[Row]) -> None:
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
    """Returns everything that is shown of a row: rows that fold look alike."""
    name = row["key"].rpartition(".")[2]
    if "shape" not in row:
        # Entries fold together with their containers, not with their neighbors.
        return (row["type"], repr(row["value"]), "" if is_number(name) else name)
    storage = row["storage"]
    seen = storage["bytes"] if storage is not None and is_view(row) else None
    sharing = (row.get("same_as"), row.get("shares"), seen)
    made_of = (len(row.get("pieces", ())), row.get("details", {}).get("quantised"))
    stride = () if storage is None else tuple(storage["stride"])
    return (row["dtype"], tuple(row["shape"]), stride, row["device"], row["layout"], sharing, made_of)


DEEPEST = 24
"""Levels of names; deeper ones stay one name."""

_MUCH_WORK = 3_000_000
_FEW_LEVELS = 4


def levels(keys: Sequence[str]) -> int:
    """Returns how many levels of these keys to show: all, or fewer if that would be millions of names."""
    deepest, work = 1, 0
    for key in keys:
        here = min(key.count(".") + 1, DEEPEST)
        deepest, work = max(deepest, here), work + here
    return deepest if work <= _MUCH_WORK else min(deepest, _FEW_LEVELS)


def prefixes(key: str, deepest: int) -> list[str]:
    """Returns all proper prefixes of a dotted key, the shortest first, without the empty one."""
    segments = key.split(".", deepest)[:-1]
    return [".".join(segments[: count + 1]) for count in range(min(len(segments), deepest))]


def module_rows(
    tensors: Sequence[TensorRow],
    entries: Sequence[EntryRow],
    containers: Mapping[str, Container],
    again: Mapping[str, str],
) -> list[ModuleRow]:
    """Sums up everything below each container and each prefix, in the order of their first keys.

    Args:
        tensors: The tensors.
        entries: The other entries.
        containers: By key, for their kinds and types.
        again: Further keys of containers → their first key.
    """
    keys = [row["key"] for row in (*tensors, *entries)]
    deepest = levels(keys)
    rows: dict[str, ModuleRow] = {}

    def above(key: str) -> list[ModuleRow]:
        return [
            rows.get(name) or rows.setdefault(name, _module_row(name, containers)) for name in prefixes(key, deepest)
        ]

    for tensor in tensors:
        elements, nbytes = own_elements(tensor), own_bytes(tensor)
        for row in above(tensor["key"]):
            row["tensors"] += 1
            row["elements"] += elements
            row["bytes"] += nbytes
    for entry in entries:
        for row in above(entry["key"]):
            row["entries"] += 1
    for key, first in again.items():
        if key.count(".") < deepest:
            rows[key] = {**_module_row(key, containers), "same_as": first}
    return list(rows.values())


def _module_row(key: str, containers: Mapping[str, Container]) -> ModuleRow:
    container = containers.get(key)
    kind, type_name = ("prefix", "") if container is None else (container.kind, container.type)
    return {"key": key, "kind": kind, "type": type_name, "tensors": 0, "elements": 0, "bytes": 0, "entries": 0}
