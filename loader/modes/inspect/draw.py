"""The tree of a file as text.

Guarantees: a bounded number of lines, each of bounded length, harmless for a terminal whatever the names are; where
something is left out, the last line says how much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from ...text.wording import counted, safe_text, shape, size
from .fold import Folded, is_view
from .rows import EntryRow, ModuleRow, TensorRow

SCREEN = 60
"""Lines that a tree takes when nobody said how deep it should go."""
MOST_LINES = 1000
_LONGEST_LABEL = 72
_WIDEST = 40
_PLAIN_TYPES = {"int", "float", "bool", "str", "NoneType"}


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the places in a tree."""

    containers: Mapping[str, ModuleRow]
    """Dicts, lists, pickled modules and objects, by key."""
    closed: Mapping[str, str]
    """Places that are told in one line: key → what they are."""


def draw(root: Folded, known: Known, depth: int | None) -> list[str]:
    """Draws a tree: as deep as was asked for, else as deep as fits on a screen."""
    if depth is not None:
        return _capped(list(_lines(root, known, depth)), MOST_LINES, "")
    deepest = max((level for level, _ in root.walk()), default=1)
    best: list[str] = []
    for level in range(1, deepest + 1):
        lines = list(islice(_lines(root, known, level), SCREEN + 1))
        if len(lines) > SCREEN:
            more = f"deeper: inspect.depth={level}" if best else "all of it: inspect.depth=1"
            whole = best or list(_lines(root, known, level))
            return [*_capped(whole, SCREEN, ""), f"… {more}, or some of it: 'inspect.filter=[NAME.*]'"]
        best = lines
    return best


def _capped(lines: list[str], most: int, rest: str) -> list[str]:
    if len(lines) <= most:
        return lines
    return [*lines[:most], f"… and {len(lines) - most:,} more lines; everything is in report.json{rest}"]


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
    """A name with those below it that stand alone there; the levels that are left below the last."""
    labels = [node.label]
    depth -= 1
    while depth and node.row is None and len(node.below) == 1 and node.key not in known.containers:
        node = next(iter(node.below.values()))
        labels.append(node.label)
        depth -= 1
    return safe_text(".".join(labels), _LONGEST_LABEL) or "(all of it)", node, depth


def _about(node: Folded, known: Known) -> str:
    container = known.containers.get(node.key)
    told = []
    if container is not None:
        told.append(_kind(container))
    if node.tensors:
        told.append(f"{counted(node.tensors, 'tensor')}, {size(node.bytes)}")
    if node.entries and not node.tensors:
        told.append(counted(node.entries, "value"))
    return f"  ({', '.join(told)})"


def _kind(container: ModuleRow) -> str:
    if container["kind"] in {"dict", "list"}:
        return container["kind"]
    return f"{'pickled ' if container['kind'] == 'module' else ''}{safe_text(container['type'])}"


def _row(row: TensorRow | EntryRow) -> str:
    if "shape" not in row:
        return f" = {_value(row)}"
    told = [f"  {shape(row['shape'])} {row['dtype']}"]
    told += [safe_text(row["details"]["quantised"], 20)] if "quantised" in row.get("details", {}) else []
    told += [row["layout"]] if row["layout"] != "strided" else []
    told += [safe_text(row["device"], 20)] if row["device"] != "cpu" else []
    return " ".join([*told, *_place(row)])


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
        elif not pieces and "components" not in row:
            yield "(no data in the file)"
        return
    if not _is_compact(row["shape"], storage["stride"]):
        yield f"stride {shape(storage['stride'])}"
    if is_view(row):
        yield f"(a view of {size(storage['bytes'])})"


def _is_compact(sizes: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements stand in the usual order, without gaps."""
    expected = 1
    for dimension, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if dimension != 1 and stride != expected:
            return math.prod(sizes) == 0
        expected *= dimension
    return True


def _value(row: EntryRow) -> str:
    value, kind = row["value"], row["type"]
    text = safe_text(repr(value) if isinstance(value, str) and kind == "str" else value)
    return text if kind in _PLAIN_TYPES else f"{text} ({safe_text(kind)})".lstrip()
