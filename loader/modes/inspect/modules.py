"""Containers, and what dotted names say of modules, with the sums of what is below them.

Guarantees: a pure function of rows; no file can make it build more levels of names than a bounded amount of work
allows, what is deeper stays one name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...formats.tree import Container
from .rows import EntryRow, ModuleRow, TensorRow
from .survey import own_bytes, own_elements

DEEPEST = 24
"""Levels of names; what is deeper stays one name."""

_MUCH_WORK = 3_000_000
_FEW_LEVELS = 4


def levels(keys: Sequence[str]) -> int:
    """How many levels of these keys to tell apart: all that are in use, fewer where that would be millions of names."""
    deepest, work = 1, 0
    for key in keys:
        here = min(key.count(".") + 1, DEEPEST)
        deepest, work = max(deepest, here), work + here
    return deepest if work <= _MUCH_WORK else min(deepest, _FEW_LEVELS)


def prefixes(key: str, deepest: int) -> list[str]:
    """All proper beginnings of a dotted key, the shortest first, but for the empty one."""
    segments = key.split(".", deepest)[:-1]
    return [".".join(segments[: count + 1]) for count in range(min(len(segments), deepest))]


def module_rows(
    tensors: Sequence[TensorRow],
    entries: Sequence[EntryRow],
    containers: Mapping[str, Container],
    again: Mapping[str, str],
    depth: int | None,
) -> list[ModuleRow]:
    """Sums up what is below every container and every beginning of a name, in the order of their first keys.

    Args:
        tensors: Those to sum up.
        entries: The others.
        containers: By key, for their kinds and types.
        again: Keys of containers that stand elsewhere already.
        depth: How many levels; None for all.
    """
    keys = [row["key"] for row in (*tensors, *entries)]
    deepest = levels(keys)
    if depth is not None:
        deepest = min(deepest, depth)
    rows: dict[str, ModuleRow] = {}

    def above(key: str) -> list[ModuleRow]:
        return [rows.get(name) or rows.setdefault(name, _row(name, containers)) for name in prefixes(key, deepest)]

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
            rows[key] = {**_row(key, containers), "same_as": first}
    return list(rows.values())


def _row(key: str, containers: Mapping[str, Container]) -> ModuleRow:
    container = containers.get(key)
    kind, type_name = ("prefix", "") if container is None else (container.kind, container.type)
    return {"key": key, "kind": kind, "type": type_name, "tensors": 0, "elements": 0, "bytes": 0, "entries": 0}
