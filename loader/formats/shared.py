"""Making once what several views are cut out of.

Guarantees: what is made for more than one of the given entries is made when the first of them is read, and kept until
the last one is; every tensor that is cut out of it has memory of its own. Threads may share one object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from threading import RLock
from typing import TYPE_CHECKING

from .tree import Piece, TensorEntry

if TYPE_CHECKING:
    import torch

Read = Callable[[TensorEntry], "torch.Tensor"]


class MadeOnce:
    """Makes what several views share once.

    Args:
        entries: What will be read, as often as it will be.
    """

    def __init__(self, entries: Iterable[TensorEntry]) -> None:
        self._uses: Counter[int] = Counter()
        self._first: dict[int, TensorEntry] = {}
        self._values: dict[int, torch.Tensor] = {}
        self._lock = RLock()
        for entry in entries:
            self._count(entry)

    def __call__(self, entry: TensorEntry, read: Read) -> TensorEntry:
        """The same entry, whose shared storages are made by `read` once; itself if it has none."""
        shares = any(self._uses[id(made)] > 1 or id(made) in self._values for made in _made_in(entry))
        return self._with(entry, read) if shares else entry

    def counted(self, entries: Iterable[TensorEntry]) -> Iterator[TensorEntry]:
        """Yields the entries without those that are cut out of what an earlier one makes already."""
        seen: set[int] = set()
        for entry in entries:
            made = [id(one) for one in _made_in(entry) if self._uses[id(one)] > 1]
            if not made or not seen.issuperset(made):
                yield entry
            seen.update(made)

    def _count(self, entry: TensorEntry) -> None:
        for made in _made_in(entry):
            self._uses[id(made)] += 1
            if id(made) not in self._first:
                self._first[id(made)] = made
                self._count(made)

    def _with(self, entry: TensorEntry, read: Read) -> TensorEntry:
        storage = entry.storage
        if storage is not None and storage.made is not None:
            made = storage.made
            if self._uses[id(made)] > 1 or id(made) in self._values:
                return replace(entry, storage=replace(storage, whole=partial(self._value, made, read)))
            return replace(entry, storage=replace(storage, made=self(made, read)))
        return replace(
            entry,
            pieces=tuple(Piece(self(piece.entry, read), piece.start) for piece in entry.pieces),
            inputs=tuple(self(one, read) for one in entry.inputs),
        )

    def _value(self, made: TensorEntry, read: Read) -> torch.Tensor:
        with self._lock:
            value = self._values.get(id(made))
            if value is None:
                value = self._values[id(made)] = read(made)
            self._uses[id(made)] -= 1
            if self._uses[id(made)] <= 0:
                del self._values[id(made)]
            return value


def _made_in(entry: TensorEntry) -> Iterator[TensorEntry]:
    """Yields what is made first for an entry, without what that in turn is made of."""
    if entry.storage is not None and entry.storage.made is not None:
        yield entry.storage.made
    for piece in entry.pieces:
        yield from _made_in(piece.entry)
    for one in entry.inputs:
        yield from _made_in(one)
