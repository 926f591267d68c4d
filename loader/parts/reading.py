"""Reads a part's tensors, their checksums compared.

Guarantees: what is not looked at in a mapping is read, or unpacked, once: its checksum is compared on the way into its
place. What is mapped is compared before the first tensor is handed out; nothing that was read is to be used before
`refuse_damage` has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import CheckpointError
from ..formats.checksums import ReadOnce
from ..formats.pickle.storages import ARRAY
from ..formats.tree import TensorEntry
from ..text.lines import Fix
from .open import Part


def as_saved(entry: TensorEntry, value: torch.Tensor) -> object:
    """A value for the model's own code: an array of NumPy's where it was one."""
    return value.numpy() if ARRAY in entry.details else value


@dataclass(slots=True)
class Reading:
    """The tensors of one part, on their way into memory."""

    part: Part
    _once: ReadOnce | None = None

    def verify(self, entries: Sequence[TensorEntry], reads: Sequence[TensorEntry], *, mmap: bool) -> None:
        """Compares the checksums of what will be mapped, and prepares to compare the others.

        Args:
            entries: What will be read.
            reads: The same, as often as it will be read.
            mmap: Whether the mapping may be looked at for it.

        Raises:
            CheckpointError: Some bytes are not what was written; all that is damaged is named.
        """
        checkpoint, settings = self.part.checkpoint, self.part.config.checkpoint
        if settings.check == "crc":
            located = map(checkpoint.located, reads)
            self._once = once = ReadOnce(located, checkpoint.inflate, mmap=settings.mmap)
            entries = [entry for entry in entries if not once.covers(checkpoint.located(entry))]
        checkpoint.verify(entries, mmap=mmap)

    def read(self, entry: TensorEntry) -> torch.Tensor:
        """One tensor as it is in its file, on the CPU; CheckpointError where it cannot be read."""
        checkpoint, once, found = self.part.checkpoint, self._once, entry
        if once is not None and once.covers(located := checkpoint.located(entry)):
            found = once(located)
        try:
            return checkpoint.read(found, mmap=self.part.config.checkpoint.mmap)
        except CheckpointError:
            self.refuse_damage([entry])  # damaged bytes contradict a layout, too: what they are is to be told first
            raise

    def refuse_damage(self, entries: Sequence[TensorEntry]) -> None:
        """Refuses what was found damaged while it was read; it is read again to tell which tensors those are.

        Raises:
            CheckpointError: Some bytes were not what was written.
        """
        once, self._once = self._once, None
        if once is not None and once.damaged:
            self.part.checkpoint.verify(entries, mmap=False)
            raise CheckpointError(
                f"{self.part.label} gave other bytes when it was read a second time",
                Fix(note="load it again once nothing writes to it; if nothing does, check the disk"),
            )
