"""Reads the planned tensors and makes them what the model needs.

Guarantees: nothing of the model is touched; only the bytes of planned tensors are read, one tensor at a time; a cast
that loses more than precision, or tied names that hold different values, refuse the load before it starts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.parameter import is_lazy

from ..errors import located
from ..formats.memory import MemoryCheckpoint
from ..formats.pickle.needed import needed_tensors
from ..formats.pickle.revive import revive
from ..formats.tensor import dtype_name
from ..formats.tree import Storage, TensorEntry
from ..keys.plan import Match, Plan, Wanted
from ..module.dtype import Cast, cast, final_dtype, refuse_losses
from ..module.slots import Slot, storage_id
from ..parts.open import Offers, Part
from ..parts.reading import Reading, as_saved
from ..schema import AllowConfig
from ..text.lines import Fix
from .checks import refuse_untied
from .live import is_folded


@dataclass(slots=True)
class Stage:
    """Reads, casts and places the tensors of one plan."""

    parts: Mapping[str, Part]
    offers: Offers
    wanted: Mapping[str, Wanted]
    places: Mapping[str, Slot]
    device: torch.device
    policy: str | None
    """As `place.resolve_dtype` returns it."""
    casts: list[Cast] = field(default_factory=list)
    _readings: dict[str, Reading] = field(init=False)
    """By part."""
    _own: set[int] = field(default_factory=set)
    """Memory of a live model: what is offered out of it has to be read before anything is written."""

    def __post_init__(self) -> None:
        self._readings = {name: Reading(part) for name, part in self.parts.items()}

    def run(self, plan: Plan, allow: AllowConfig, *, live: bool = False) -> dict[str, object]:
        """Reads everything that a plan needs.

        Args:
            plan: What will be loaded.
            allow: `allow.mismatched` admits lossy casts.
            live: Values will be copied into a model's own memory, so they may stay where they are and share it.

        Returns:
            Offered key → value for `apply`.

        Raises:
            CheckpointError: A file is damaged or cannot be read.
            FitError: A cast loses values, or tied names differ.
        """
        compared = self.needed(plan)
        unread = plan.unread()
        needed = [source for source in compared if source not in unread]
        filled = {match.taken.key: match.key for match in plan.matches if match.taken.key}
        passing = {source for source, key in filled.items() if self._is_cast(source, key)}
        unlike = [pair for pair in plan.duplicates if not self._is_one(*pair)]
        twice = [match.taken.key for pair in unlike for match in pair if match.taken.key]
        self._verify(compared, passing, [*needed, *twice])
        self._compare_tied(plan)
        aliased = set() if live else self._aliased(filled)
        self._own = _storages(self.places) if live else set()
        values: dict[str, object] = {}
        for source in needed:
            key = filled.get(source)
            entry = self.offers.entries[source].entry
            if not isinstance(entry, TensorEntry):
                values[source] = self.rebuilt(source)
            elif key is None or self.wanted[key].kind == "extra":
                values[source] = as_saved(entry, self.read(source))
            else:
                values[source] = self._final(key, self.read(source), copy=source in aliased, live=live)
            if source in passing:
                self.release(source)
        self._refuse_damage(compared)
        self._refuse_losses(allow)
        for part in self.parts.values():
            part.checkpoint.check_unchanged()
        return values

    def needed(self, plan: Plan) -> list[str]:
        """The offered keys whose data a plan needs: to load them, or to compare them with what is tied to them."""
        unread = plan.unread()
        seconds = (second.taken.key for _, second in plan.duplicates if second.taken.key)
        return [*(source for source in self.offers.entries if source not in unread), *seconds]

    def read(self, source: str) -> torch.Tensor:
        """One offered tensor as it is in its file, on the CPU."""
        offer = self.offers.entries[source]
        if not isinstance(offer.entry, TensorEntry):
            raise LookupError(source)
        with located(self.parts[offer.part].label, offer.source):
            value = self._readings[offer.part].read(offer.entry)
        # Conjugate and negative views keep that they are in a bit beside their bytes.
        return value.resolve_conj().resolve_neg()

    def fit(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """Brings a value that a load hook computed to its key's dtype and device."""
        dtype = final_dtype(self.wanted[key], dtype_name(value.dtype), self.policy)
        return cast(value, dtype)[0].to(self.device)

    def _final(self, key: str, value: torch.Tensor, *, copy: bool, live: bool) -> torch.Tensor:
        want = self.wanted[key]
        dtype = final_dtype(want, dtype_name(value.dtype), self.policy)
        result, loss = cast(value, dtype)
        if result is not value:
            self.casts.append(Cast(key, dtype_name(value.dtype), dtype_name(dtype), loss))
        if live:
            return result.clone() if _has_memory(result) and storage_id(result) in self._own else result
        result = _with_strides(result, self.places[key].tensor, want)
        return result.clone() if copy and result is value and self.device.type == "cpu" else result.to(self.device)

    def rebuilt(self, source: str) -> object:
        """What is offered and is no tensor, rebuilt where the user admitted what it names."""
        offer = self.offers.entries[source]
        part = self.parts[offer.part]
        settings = part.config.checkpoint
        record = None if isinstance(offer.entry, TensorEntry) else offer.entry.record
        if isinstance(part.checkpoint, MemoryCheckpoint):
            return record
        # Whatever is admitted runs on these values, so they are compared before, even if they are then read again.
        with located(part.label, offer.source):
            part.checkpoint.verify(needed_tensors(record), mmap=settings.mmap)
            return revive(record, settings.allow_globals, lambda entry: part.checkpoint.read(entry, mmap=settings.mmap))

    def _is_cast(self, source: str, key: str) -> bool:
        entry, want = self.offers.entries[source].entry, self.wanted[key]
        if want.kind == "extra" or not isinstance(entry, TensorEntry):
            return False
        return dtype_name(final_dtype(want, entry.dtype, self.policy)) != entry.dtype

    def release(self, source: str) -> None:
        """Gives up the file's pages of a tensor that was cast or copied: memory then holds the result alone."""
        offer = self.offers.entries[source]
        if isinstance(offer.entry, TensorEntry):
            self.parts[offer.part].checkpoint.release(offer.entry)

    def _verify(self, needed: Sequence[str], passing: Collection[str], reads: Sequence[str]) -> None:
        """Reads ahead, and checks the checksums of everything that is about to be used; or has them checked by then.

        Args:
            needed: What will be read.
            passing: What of it is not to stay in memory, and so is not looked at through the mapping.
            reads: The same, as often as it will be read.
        """
        used: dict[tuple[str, bool], list[TensorEntry]] = {}
        for source in needed:
            offer = self.offers.entries[source]
            if isinstance(offer.entry, TensorEntry):
                mmap = self.parts[offer.part].config.checkpoint.mmap and source not in passing
                used.setdefault((offer.part, mmap), []).append(offer.entry)
        for (part, _), entries in used.items():
            self.parts[part].checkpoint.will_need(entries)
        for (part, mmap), entries in used.items():
            self._readings[part].verify(entries, self._entries(part, reads), mmap=mmap)

    def _entries(self, part: str, sources: Iterable[str]) -> list[TensorEntry]:
        offers = [offer for source in sources if (offer := self.offers.entries[source]).part == part]
        return [offer.entry for offer in offers if isinstance(offer.entry, TensorEntry)]

    def _refuse_damage(self, needed: Sequence[str]) -> None:
        """Refuses what was found damaged while it was read."""
        for name, reading in self._readings.items():
            reading.refuse_damage(self._entries(name, needed))

    def _compare_tied(self, plan: Plan) -> None:
        differing = [pair for pair in plan.duplicates if not self._same(*pair)]
        if differing:
            self._refuse_damage([match.taken.key for pair in plan.duplicates for match in pair if match.taken.key])
            refuse_untied(iter(differing))

    def _same(self, first: Match, second: Match) -> bool:
        if self._is_one(first, second):
            return True
        left, right = self.read(first.taken.key), self.read(second.taken.key)
        alike = left.dtype == right.dtype and left.layout == right.layout
        return alike and torch.equal(_bytes(left), _bytes(right))

    def _is_one(self, first: Match, second: Match) -> bool:
        """Whether two names stand for the same bytes of the same file: there is nothing to read to compare them."""
        one, other = self.offers.entries[first.taken.key], self.offers.entries[second.taken.key]
        return one.entry == other.entry and self.parts[one.part].checkpoint is self.parts[other.part].checkpoint

    def _aliased(self, filled: Mapping[str, str]) -> set[str]:
        """Offered keys that look into bytes which an earlier one already takes: untied tensors must not share them."""
        runs: dict[tuple[int, Storage], list[tuple[int, int, str]]] = {}
        for source in filled:
            entry = self.offers.entries[source].entry
            if isinstance(entry, TensorEntry) and len(entry.pieces) == 1:
                entry = entry.pieces[0].entry
            if isinstance(entry, TensorEntry) and entry.storage is not None and entry.numel:
                span = sum((n - 1) * step for n, step in zip(entry.shape, entry.stride, strict=True)) + 1
                run = (entry.offset, entry.offset + span, source)
                runs.setdefault((id(entry.storage.file), entry.storage), []).append(run)
        aliased = set()
        for spans in runs.values():
            end = -1
            for start, stop, source in sorted(spans):
                if start < end:
                    aliased.add(source)
                end = max(end, stop)
        return aliased

    def _refuse_losses(self, allow: AllowConfig) -> None:
        refuse_losses(self.casts, allow, Fix("dtype=checkpoint", "keeps the file's dtypes"))


def _with_strides(value: torch.Tensor, slot: torch.Tensor, want: Wanted) -> torch.Tensor:
    """Lays a tensor out as the model's own is, where the file's is laid out otherwise."""
    if want.shape is None or value.layout != torch.strided or value.is_quantized:
        return value
    value = value.reshape(want.shape) if tuple(value.shape) != want.shape else value
    if value.stride() == slot.stride() or (value.is_contiguous() and slot.is_contiguous()) or is_folded(slot):
        return value
    return torch.empty_strided(slot.shape, slot.stride(), dtype=value.dtype).copy_(value)


def _storages(places: Mapping[str, Slot]) -> set[int]:
    tensors = (slot.tensor for slot in places.values() if slot.kind != "extra")
    return {storage_id(tensor) for tensor in tensors if _has_memory(tensor)}


def _has_memory(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_quantized:
        return tensor.int_repr()
    dense = tensor if tensor.layout == torch.strided else tensor.to_dense()
    return dense.contiguous().reshape(-1).view(torch.uint8)
