"""Sizes that a model's config says in plain numbers.

Guarantees: an argument is named only where exactly one number of the config can stand for the size that differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loader.plan import Mismatch


def resized(config: Mapping[str, Any], mismatched: Sequence[Mismatch]) -> dict[str, int]:
    """The arguments to change, by dotted name, so that a model has the sizes of a file; empty where that is not plain.

    Args:
        config: The model's node.
        mismatched: Keys of two shapes.
    """
    changes: dict[int, set[int]] = {}
    for mismatch in mismatched:
        if len(mismatch.model) != len(mismatch.checkpoint):
            return {}
        for mine, theirs in zip(mismatch.model, mismatch.checkpoint, strict=True):
            changes.setdefault(mine, set()).add(theirs)
    numbers = list(_numbers(config, ""))
    found = {}
    for size, sizes in changes.items():
        names = [name for name, value in numbers if value == size]
        if sizes == {size}:
            continue
        if len(sizes) != 1 or len(names) != 1:
            return {}
        found[names[0]] = min(sizes)
    return found


def changed(config: Mapping[str, Any], arguments: Mapping[str, int]) -> dict[str, Any]:
    """The config with other values for some arguments."""
    result = dict(config)
    for name, value in arguments.items():
        head, _, rest = name.partition(".")
        result[head] = changed(result[head], {rest: value}) if rest else value
    return result


def _numbers(node: Mapping[str, Any], where: str) -> Iterator[tuple[str, int]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{where}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and str(name).isidentifier():
            yield f"{where}{name}", value
