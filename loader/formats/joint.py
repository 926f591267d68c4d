"""Several checkpoints read as one.

Guarantees: a tensor may be made of tensors of any of them, whatever their formats; each keeps every promise of its own
format. What a job asks of all bytes (checksums, reading ahead, unchanged files, closing) is asked of every one of them;
what it asks of the checkpoint itself is answered by the main one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.file import CheckpointFile
from .boxes import leaves, rebuilt
from .opened import Checkpoint
from .several import each
from .tree import Container, Storage, TensorEntry

if TYPE_CHECKING:
    import torch


class Joint(Checkpoint):
    """A main checkpoint and others, as one.

    Args:
        main: The one that gives path, format, place, digest and note.
        others: The others; the same one may appear more than once.
        root: What it holds; the entries of `main` unless given. Its tensors may be made of those of all checkpoints;
            one of the caller's tensors that has no plain bytes must be `main`'s.
    """

    def __init__(self, main: Checkpoint, others: Sequence[Checkpoint], root: Container | None = None) -> None:
        members = tuple(dict.fromkeys((main, *others)))
        super().__init__(main.path, main.format, root or main.root, sum(member.nbytes for member in members))
        self.place, self.note = main.place, main.note
        self.in_memory, self.combination = main.in_memory, main.combination
        self._main = main
        self._members = members
        self._by_file = {id(file): member for member in members for file in member.files}

    def read(self, entry: TensorEntry, *, mmap: bool = True) -> torch.Tensor:
        """One tensor; one without bytes of its own, such as a sparse one in memory, is `main`'s."""
        if entry.is_without_data:
            return self._main.read(entry, mmap=mmap)
        return super().read(entry, mmap=mmap)

    def located(self, entry: TensorEntry) -> TensorEntry:
        """Returns the entry with the location of the bytes of everything that it is made of."""
        return rebuilt(entry, lambda leaf: leaf if (owner := self._owner(leaf)) is None else owner.located(leaf))

    def inflate(self, storage: Storage) -> Iterator[bytes]:
        """Unpacks a deflated storage piece by piece, in its file."""
        return self._by_file[id(storage.file)].inflate(storage)

    def verify(self, entries: Iterable[TensorEntry], *, mmap: bool = True) -> None:
        """Compares the checksums of the bytes that these tensors need, in all files; every damaged one is named."""
        works = {str(number): work for number, work in enumerate(self._by_member(entries))}
        each(works, lambda work: work[0].verify(work[1], mmap=mmap), "checkpoint")

    def will_need(self, entries: Sequence[TensorEntry]) -> None:
        """Makes the system read ahead in all files, side by side: a tensor may need bytes of each of them."""
        for member, own in self._by_member(entries):
            member.will_need(own)

    def check_unchanged(self) -> None:
        """Raises CheckpointError if any file changed since it was opened."""
        for member in self._members:
            member.check_unchanged()

    def digest(self) -> str:
        """The digest of the main checkpoint."""
        return self._main.sha256()

    def titled(self, name: Callable[[Path], str]) -> str:
        """Names the main checkpoint."""
        return self._main.titled(name)

    @property
    def label(self) -> str:
        """The main checkpoint's name in messages."""
        return self._main.label

    @property
    def places(self) -> Sequence[Path]:
        """The place of each checkpoint."""
        return [place for member in self._members for place in member.places]

    @property
    def files(self) -> Sequence[CheckpointFile]:
        """The files of all checkpoints."""
        return [file for member in self._members for file in member.files]

    def close(self) -> None:
        """Closes all files."""
        for member in self._members:
            member.close()

    def _owner(self, leaf: TensorEntry) -> Checkpoint | None:
        """The checkpoint in whose files a tensor lies; None for one in memory, in a pickle, or without data."""
        storage = leaf.storage
        return None if storage is None or storage.file is None else self._by_file[id(storage.file)]

    def _by_member(self, entries: Iterable[TensorEntry]) -> Iterator[tuple[Checkpoint, list[TensorEntry]]]:
        found: dict[Checkpoint, list[TensorEntry]] = {}
        for entry in entries:
            for leaf in leaves(entry):
                owner = self._owner(leaf)
                if owner is not None:
                    found.setdefault(owner, []).append(leaf)
        return ((member, found[member]) for member in self._members if member in found)
