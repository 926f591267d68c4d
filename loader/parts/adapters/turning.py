"""The rules that transpose an adapter's differences, where that is all that is wrong with them.

Guarantees: pure functions of names and shapes. A square difference fits either way: where there are such, both readings
are offered, and they are named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from ...formats.tree import TensorEntry
from ...keys.rules import Rewritten
from ...text.lines import Fix, line
from ...text.wording import listing
from .deltas import Delta

_MOST_RULES = 8
"""Names for which a rule each is offered; more need a glob."""


def turning(path: str, changes: Mapping[str, Delta], wrong: Mapping[str, Rewritten | None]) -> Iterator[Fix]:
    """Yields the lines.

    Args:
        path: The config path of the adapter's rules.
        changes: All that it changes.
        wrong: The names of those that do not fit, with what is there.
    """
    if not wrong or not path or not all(_fits_turned(changes[name], there) for name, there in wrong.items()):
        return
    square = [name for name in changes if name not in wrong and _is_square(changes[name])]
    checked = "shapes do not show the order of square ones: compare with a golden record"
    if not square:
        yield _line(path, changes, wrong, checked)
        return
    yield _line(path, changes, wrong, f"leaves the square ones as they are: {listing(square)}")
    yield _line(path, changes, [*wrong, *square], f"turns the square ones too: {listing(square)}")


def _fits_turned(delta: Delta, there: Rewritten | None) -> bool:
    entry, size = None if there is None else there.entry, delta.entry.shape
    return isinstance(entry, TensorEntry) and len(size) == 2 and size == entry.shape[::-1]


def _is_square(delta: Delta) -> bool:
    size = delta.entry.shape
    return delta.kind != "replaced" and len(size) == 2 and size[0] == size[1]


def _line(path: str, changes: Mapping[str, Delta], names: Collection[str], note: str) -> Fix:
    globs = ["*"] if len(names) == len(changes) else list(names) if len(names) <= _MOST_RULES else ["GLOB"]
    rules = {f"turned{at or ''}": {"rearrange": glob, "pattern": "i o -> o i"} for at, glob in enumerate(globs)}
    return line(path, rules, "+", note=note)
