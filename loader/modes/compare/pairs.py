"""Compares the tensors that both sides have, one after the other.

Guarantees: memory holds one tensor of each side; its checksums are compared right before it is read, once. Bytes at the
same place of the same file are equal, and are not read to be compared. A checksum that two files give for a tensor
proves nothing about equality: it is short, and a file can say what it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import located
from ...formats.identity import compact
from ...formats.tree import ITEMSIZE, TensorEntry
from ...keys.plan import fits
from ...parts.reading import Reader
from ...text.progress import Shown, progress
from .sides import Side
from .values import EQUAL, Numbers, apart, numbers

_AHEAD = 32 << 20
"""Bytes of a side that are read ahead together."""
Entries = tuple[TensorEntry, TensorEntry]
Row = dict[str, Any]
"""``{key, shapes, dtypes, max_abs, mean_abs, cosine, differing, note}``."""


def compared(left: Side, right: Side) -> Iterator[Row]:
    """Yields one row for each tensor that both sides have, in the order of the left one.

    Raises:
        CheckpointError: A tensor cannot be read, or is damaged.
    """
    other = right.tensors
    pairs = {key: (entry, other[key]) for key, entry in left.tensors.items() if key in other}
    readers, keys = (left.reader(), right.reader()), list(pairs)
    same = {key for key, entries in pairs.items() if _are_one(entries, left.located(key), right.located(key))}
    for reader in readers:
        reader.expect([key for key in keys if key not in same])
    with progress("comparing", total=sum(one.nbytes for one, _ in pairs.values()), unit="B") as shown:
        for run in _runs(pairs):
            for reader in readers:
                reader.will_need([key for key in run if key not in same])
            for key in run:
                if key in same:
                    readers[0].check(key)
                    shown.advance(pairs[key][0].nbytes)
                found = EQUAL if key in same else _numbers(key, pairs[key], (left, right), readers, shown)
                yield _row(key, pairs[key], found)
    for reader in readers:
        reader.refuse_damage(keys)


def _runs(pairs: Mapping[str, Entries]) -> Iterator[list[str]]:
    """Yields the keys in runs that are read ahead together: asking for a small tensor takes longer than reading it."""
    run: list[str] = []
    waiting = 0
    for key, (entry, _) in pairs.items():
        run.append(key)
        waiting += entry.nbytes
        if waiting >= _AHEAD:
            yield run
            run, waiting = [], 0
    if run:
        yield run


def _row(key: str, entries: Entries, found: Numbers) -> Row:
    return {
        "key": key,
        "shapes": [list(entry.shape) for entry in entries],
        "dtypes": [entry.dtype for entry in entries],
        "max_abs": found.max_abs,
        "mean_abs": found.mean_abs,
        "cosine": found.cosine,
        "differing": found.differing,
        "note": found.note,
    }


def _numbers(
    key: str,
    entries: Entries,
    both: tuple[Side, Side],
    readers: tuple[Reader, Reader],
    shown: Shown,
) -> Numbers:
    one, other = entries
    empty = [side.label for side, entry in zip(both, entries, strict=True) if _has_no_data(entry)]
    if not (fits(one.shape, other.shape) or fits(other.shape, one.shape)):
        return apart("shapes differ")
    if empty:
        return apart(f"saved on the meta device, without values: {' and '.join(empty)}")
    for reader in readers:
        reader.check(key)
    mine, theirs = (reader.read(key) for reader in readers)
    if mine.shape != theirs.shape and not mine.is_nested:
        theirs = theirs.reshape(mine.shape)  # one element, as a vector or as a scalar
    with located(both[0].label, key):
        found = numbers(mine, theirs, lambda elements: shown.advance(elements * ITEMSIZE[one.dtype]))
    for reader in readers:
        reader.release(key)
    return found


def _has_no_data(entry: TensorEntry) -> bool:
    parts = [*entry.components.values(), *entry.inputs, *(piece.entry for piece in entry.pieces)]
    return any(part.is_without_data for part in (entry, *parts))


def _are_one(entries: Entries, located: TensorEntry, other_located: TensorEntry) -> bool:
    """Whether both entries are the same bytes of the same file."""
    one, other = entries
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    mine, theirs = compact(located), compact(other_located)
    return mine is not None and theirs is not None and mine[1] == theirs[1] and mine[0].is_same_as(theirs[0])
