"""Reads the tensors of parts and compares their checksums.

Guarantees: data that is not mapped is read, or unpacked, once: its checksum is compared on the way into its place. The
checksums of mapped data are compared before the first tensor is returned; nothing that was read may be used before
`refuse_damage` has passed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import CheckpointError, located
from ..formats.boxes import leaves
from ..formats.checksums import ReadOnce
from ..formats.pickle.globals import needed_tensors
from ..formats.pickle.revive import revive
from ..formats.shared import MadeOnce
from ..formats.tensor import box, torch_dtype
from ..formats.tree import TensorEntry
from ..keys.plan import Offered
from ..module.dtype import Cast, Loss, all_finite, cast, refuse_losses
from ..schema import AllowConfig
from ..text.lines import NO_FIX, Fix
from . import Part


@dataclass(slots=True)
class Reading:
    """Reads the tensors of one part."""

    part: Part
    _once: ReadOnce | None = None
    _made: MadeOnce = field(default_factory=lambda: MadeOnce(()))
    _checked: set[tuple[int, int, int]] = field(default_factory=set)
    """The places of the bytes that `check` has compared."""

    def verify(self, entries: Sequence[TensorEntry], reads: Sequence[TensorEntry], *, mmap: bool) -> None:
        """Compares the checksums of the entries that will be mapped, and prepares to compare the others.

        Args:
            entries: The entries that will be read.
            reads: The same, as often as each will be read.
            mmap: Whether their bytes may be mapped for it.

        Raises:
            CheckpointError: Some bytes are not what was written; the message names every damaged tensor.
        """
        self.expect(reads)
        self.part.checkpoint.verify([entry for entry in entries if not self._covers(entry)], mmap=mmap)

    def expect(self, reads: Sequence[TensorEntry]) -> None:
        """Prepares to compare the checksums of data that is not mapped on the way into its place.

        What several of the entries are cut out of is made once.

        Args:
            reads: The entries that will be read, as often as each will be.
        """
        checkpoint, settings = self.part.checkpoint, self.part.config.checkpoint
        self._made = made = MadeOnce(reads)
        if settings.check == "crc":
            located = map(checkpoint.located, made.counted(reads))
            self._once = ReadOnce(located, checkpoint.inflate, mmap=settings.mmap)

    def check(self, entry: TensorEntry) -> None:
        """Compares the checksums of one entry right before it is read, each storage once; `expect` was called.

        Raises:
            CheckpointError: Some bytes are not what was written.
        """
        if self._covers(entry):
            return
        checkpoint, settings = self.part.checkpoint, self.part.config.checkpoint
        places = {(id(s.file), s.offset, s.nbytes) for s in checkpoint.located(entry).storages() if s.file is not None}
        if places - self._checked:
            checkpoint.verify([entry], mmap=settings.mmap)
            self._checked |= places

    def _covers(self, entry: TensorEntry) -> bool:
        return self._once is not None and self._once.covers(self.part.checkpoint.located(entry))

    def read(self, entry: TensorEntry) -> torch.Tensor:
        """One tensor as it is in its file, on the CPU; CheckpointError where it cannot be read."""
        found = entry = self._made(entry, self.read)
        checkpoint, once = self.part.checkpoint, self._once
        if once is not None and once.covers(located := checkpoint.located(entry)):
            found = once(located)
        try:
            return checkpoint.read(found, mmap=self.part.config.checkpoint.mmap)
        except CheckpointError:
            self.refuse_damage([entry])  # damaged bytes contradict a layout, too: the damage is the cause to report
            raise

    def refuse_damage(self, entries: Sequence[TensorEntry]) -> None:
        """Refuses data that was found damaged while it was read; it is read again to name the tensors.

        Raises:
            CheckpointError: Some bytes were not what was written.
        """
        once, self._once = self._once, None
        if once is not None and once.damaged:
            self.part.checkpoint.verify(entries, mmap=False)
            raise CheckpointError(
                f"{self.part.label} returned different bytes on a second read",
                Fix(note="load it again once nothing writes to it; if nothing does, check the disk"),
            )


class Reader:
    """Reads the values that parts offer to a model, by offered key.

    Args:
        parts: By name.
        entries: What they offer, by full model key.
    """

    def __init__(self, parts: Mapping[str, Part], entries: Mapping[str, Offered]) -> None:
        self._parts = parts
        self._entries = entries
        self._readings = {name: Reading(part) for name, part in parts.items()}

    def verify(self, needed: Sequence[str], unmapped: Collection[str], reads: Sequence[str]) -> None:
        """Reads ahead, and compares the checksums of everything that will be used, at the latest when it is read.

        Args:
            needed: The keys that will be read.
            unmapped: Those that will not stay in memory as they are, and so are not mapped to be compared.
            reads: The same keys, as often as each will be read.
        """
        used: dict[tuple[str, bool], list[TensorEntry]] = {}
        mapped: set[tuple[int, int]] = set()
        for key in sorted(needed, key=unmapped.__contains__):
            offer = self._entries[key]
            if isinstance(offer.entry, TensorEntry):
                mmap = self._parts[offer.part].config.checkpoint.mmap and key not in unmapped
                places = {(id(storage.file), storage.offset) for storage in offer.entry.storages()}
                if not mmap and places and places <= mapped:
                    continue  # another part of the same storage is mapped, and compared there
                mapped |= places if mmap else set()
                used.setdefault((offer.part, mmap), []).append(offer.entry)
        for (part, _), entries in used.items():
            self._parts[part].checkpoint.will_need(entries)
        for (part, mmap), entries in used.items():
            self._readings[part].verify(entries, self._of(part, reads), mmap=mmap)

    def expect(self, keys: Sequence[str]) -> None:
        """Prepares to read keys one after the other, each after its `check`; takes a key as often as it is read."""
        for name, reading in self._readings.items():
            reading.expect(self._of(name, keys))

    def will_need(self, keys: Sequence[str]) -> None:
        """Makes the system read ahead the bytes of these tensors."""
        for name, part in self._parts.items():
            part.checkpoint.will_need(self._of(name, keys))

    def check(self, key: str) -> None:
        """Compares the checksums of one tensor, at the latest when it is read.

        Raises:
            CheckpointError: Some bytes are not what was written.
        """
        offer = self._entries[key]
        if isinstance(offer.entry, TensorEntry):
            self._readings[offer.part].check(offer.entry)

    def refuse_damage(self, keys: Sequence[str]) -> None:
        """Refuses data that was found damaged while it was read; raises CheckpointError, which names the tensors."""
        for name, reading in self._readings.items():
            reading.refuse_damage(self._of(name, keys))

    def read(self, key: str) -> torch.Tensor:
        """Reads one offered tensor as it is in its file, to the CPU."""
        entry = self._entries[key].entry
        if not isinstance(entry, TensorEntry):
            raise LookupError(key)
        return self._read(key, entry)

    def _read(self, key: str, entry: TensorEntry) -> torch.Tensor:
        offer = self._entries[key]
        with located(self._parts[offer.part].label, offer.source):
            value = self._readings[offer.part].read(entry)
        # Conjugate and negative views keep that they are in a bit next to their bytes.
        return value.resolve_conj().resolve_neg()

    def read_as(self, key: str, dtype: torch.dtype) -> tuple[torch.Tensor, Loss]:
        """Reads one offered tensor in a dtype, and counts what the cast loses.

        Of a tensor that is put together, one piece at a time is in memory besides the result.
        """
        entry, value = self._entries[key].entry, None
        if isinstance(entry, TensorEntry) and len(entry.pieces) > 1:
            value, loss = torch.empty(entry.shape, dtype=dtype), Loss()
            for piece in entry.pieces:
                one, lost = self._cast(key, piece.entry, dtype)
                box(value, piece).copy_(one)
                loss += lost
                self._parts[self._entries[key].part].checkpoint.release(piece.entry)
            return value, loss
        return self._cast(key, entry, dtype) if isinstance(entry, TensorEntry) else cast(self.read(key), dtype)

    def _cast(self, key: str, entry: TensorEntry, dtype: torch.dtype) -> tuple[torch.Tensor, Loss]:
        read = self._read(key, entry)
        value, loss = cast(read, dtype)
        if entry.is_computed and read.is_floating_point() and not all_finite(read) and self._is_of_finite(key, entry):
            loss += Loss(overflowed=int((~read.isfinite()).sum()))
        return value, loss

    def _is_of_finite(self, key: str, entry: TensorEntry) -> bool:
        """Whether a tensor is made of floats that all are finite; codes of a format are not known to be."""
        checkpoint = self._parts[self._entries[key].part].checkpoint  # what it reads was compared with its checksums
        return all(leaf.formula is not None or _is_finite(checkpoint.read(leaf, mmap=False)) for leaf in leaves(entry))

    def value(self, key: str) -> object:
        """One offered value for the model's own code; a NumPy array where it was saved as one.

        Raises:
            FitError: It was computed, and the dtype of its sources cannot hold it.
        """
        entry = self._entries[key].entry
        if not isinstance(entry, TensorEntry):
            return self._rebuilt(self._entries[key])
        if entry.is_computed:
            value, loss = self.read_as(key, torch_dtype(entry))
            refuse_losses([Cast(key, "float32", entry.dtype, loss)], AllowConfig(), NO_FIX)
            return value
        pickled = entry.details.pickled
        return self.read(key).numpy() if pickled is not None and pickled.array else self.read(key)

    def checked(self, key: str) -> object:
        """The same, its checksums compared at once."""
        offer = self._entries[key]
        if isinstance(offer.entry, TensorEntry):
            self._parts[offer.part].checkpoint.verify([offer.entry], mmap=False)
        return self.value(key)

    def release(self, key: str) -> None:
        """Drops the cached pages of a tensor that was cast or copied: memory then holds the result alone."""
        offer = self._entries[key]
        if isinstance(offer.entry, TensorEntry):
            self._parts[offer.part].checkpoint.release(offer.entry)

    def _rebuilt(self, offer: Offered) -> object:
        """An offered entry that is not a tensor, rebuilt from the names that the user admitted."""
        part = self._parts[offer.part]
        settings = part.config.checkpoint
        record = None if isinstance(offer.entry, TensorEntry) else offer.entry.record
        if part.checkpoint.in_memory:
            return record
        # Admitted code runs on these values, so they are compared before, even if they are then read again.
        with located(part.label, offer.source):
            part.checkpoint.verify(needed_tensors(record), mmap=settings.mmap)
            return revive(record, settings.allow_globals, lambda entry: part.checkpoint.read(entry, mmap=settings.mmap))

    def _of(self, part: str, keys: Iterable[str]) -> list[TensorEntry]:
        offers = [offer for key in keys if (offer := self._entries[key]).part == part]
        return [offer.entry for offer in offers if isinstance(offer.entry, TensorEntry)]


def _is_finite(value: torch.Tensor) -> bool:
    if not value.is_floating_point() or value.layout != torch.strided:
        return False
    return all_finite(value.to(torch.float32) if value.element_size() == 1 else value)
