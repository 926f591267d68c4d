"""Reads the planned tensors and casts them to the model's dtypes.

Guarantees: the model is not changed; only the bytes of planned tensors are read, one tensor at a time, every checksum
compared; tied names that hold different values refuse the load here, casts that lose more than precision are counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.nn.parameter import is_lazy

from ..formats.elements import flat
from ..formats.tensor import dtype_name
from ..keys.plan import Match, Wanted
from ..module.dtype import Cast, refuse_losses
from ..module.hooks import State
from ..module.slots import Slot, storage_id
from ..parts.reading import Reader
from ..runtime import collector_paused
from ..schema import AllowConfig
from ..text.lines import Fix
from ..text.progress import progress
from .aliasing import aliased
from .live import is_folded
from .misfit import refuse_untied
from .prepare import Prepared


@dataclass(frozen=True, slots=True)
class Staged:
    """The values of a plan, ready to be put in place."""

    values: State
    """Offered key → value. The commit takes them out one by one, so that memory holds each of them once."""
    casts: tuple[Cast, ...]
    """The tensors whose dtype was changed."""

    def refuse_losses(self, allow: AllowConfig) -> None:
        """Raises FitError where a cast loses values and `allow.mismatched` does not admit it."""
        refuse_losses(self.casts, allow, Fix("dtype=checkpoint", "keeps the dtypes of the file"))


@collector_paused()
def stage(prepared: Prepared, *, live: bool = False) -> Staged:
    """Reads, casts and checks everything that a plan needs.

    Args:
        prepared: A plan that passes.
        live: Values will be copied into a model's own memory, so they may stay where they are and share it.

    Raises:
        CheckpointError: A file is damaged, has changed, or cannot be read.
        FitError: Tied names differ.
    """
    plan, reader = prepared.plan, Reader(prepared.parts, prepared.offers.entries)
    compared, unread = prepared.needed(), plan.unread()
    needed = [source for source in compared if source not in unread]
    filled = {match.taken.key: match.key for match in plan.matches if match.taken.key}
    passing = {source for source, key in filled.items() if _is_passing(prepared, source, key)}
    unlike = [pair for pair in plan.duplicates if not _is_one(prepared, *pair)]
    twice = [match.taken.key for pair in unlike for match in pair if match.taken.key]
    reader.verify(compared, passing, [*needed, *twice])
    _compare_tied(prepared, reader)
    owned = _storages(prepared.places) if live else set()
    shared = set() if live else aliased({s: entry for s in filled if (entry := prepared.tensor(s)) is not None})
    values: State = {}
    casts: list[Cast] = []
    for source in _shown(needed):
        key, entry = filled.get(source), prepared.tensor(source)
        if key is None or entry is None or prepared.wanted[key].kind == "extra":
            values[source] = reader.value(source)
            continue
        dtype = prepared.dtype(key, entry.dtype)
        value, loss = reader.read_as(source, dtype)
        # The values of arithmetic are wider than their entry: that they are rounded once is not a cast.
        if loss or dtype_name(dtype) != entry.dtype:
            casts.append(Cast(key, entry.dtype, dtype_name(dtype), loss))
        if live:
            values[source] = value.clone() if _has_memory(value) and storage_id(value) in owned else value
        else:
            values[source] = _placed(prepared, key, value, copy=source in shared and source not in passing)
        if source in passing:
            reader.release(source)
    reader.refuse_damage(compared)
    for part in prepared.parts.values():
        part.checkpoint.check_unchanged()
    return Staged(values, tuple(casts))


def _shown(needed: list[str]) -> Iterator[str]:
    """Yields the same keys, and shows how far the loop over them is."""
    with progress("reading", total=len(needed), unit="tensors") as shown:
        for source in needed:
            yield source
            shown.advance()


def _placed(prepared: Prepared, key: str, value: torch.Tensor, *, copy: bool) -> torch.Tensor:
    """A value laid out as its model key is and on its device, in memory of its own where it must be copied."""
    laid = _with_strides(value, prepared.places[key].tensor, prepared.wanted[key])
    copies = laid is value and (copy or _is_part(value)) and prepared.device.type == "cpu"
    return laid.clone() if copies else laid.to(prepared.device)


def _is_part(value: torch.Tensor) -> bool:
    """Whether a tensor keeps more in memory than its own elements."""
    return _has_memory(value) and value.untyped_storage().nbytes() > value.nbytes


def _is_passing(prepared: Prepared, source: str, key: str) -> bool:
    """Whether the bytes of a tensor only pass through memory: its values are cast, or computed and so their own."""
    entry = prepared.tensor(source)
    if entry is None or prepared.wanted[key].kind == "extra":
        return False
    return entry.is_computed or dtype_name(prepared.dtype(key, entry.dtype)) != entry.dtype


def _compare_tied(prepared: Prepared, reader: Reader) -> None:
    duplicates = prepared.plan.duplicates
    differing = [pair for pair in duplicates if not _same(prepared, reader, *pair)]
    if differing:
        reader.refuse_damage([match.taken.key for pair in duplicates for match in pair if match.taken.key])
        refuse_untied(prepared, iter(differing))


def _same(prepared: Prepared, reader: Reader, first: Match, second: Match) -> bool:
    if _is_one(prepared, first, second):
        return True
    left, right = reader.read(first.taken.key), reader.read(second.taken.key)
    alike = left.dtype == right.dtype and left.layout == right.layout
    return alike and torch.equal(_bytes(left), _bytes(right))


def _is_one(prepared: Prepared, first: Match, second: Match) -> bool:
    """Whether two keys are the same bytes of the same file, which need no reading to be compared."""
    one, other = (match.taken.key for match in (first, second))
    same = prepared.part_of(one).checkpoint is prepared.part_of(other).checkpoint
    return same and prepared.offers.entries[one].entry == prepared.offers.entries[other].entry


def _with_strides(value: torch.Tensor, slot: torch.Tensor, want: Wanted) -> torch.Tensor:
    """A tensor with the strides of the model's own."""
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
    return flat(dense).view(torch.uint8)
