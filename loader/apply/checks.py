"""What is known to go wrong before any tensor's data is read.

Guarantees: reads no data of a file and changes nothing; a plan and a load are refused here alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch.nn.parameter import is_lazy

from ..errors import CheckpointError, FitError, VerificationError
from ..formats.memory import MemoryCheckpoint
from ..formats.pickle.revive import refuse_unadmitted
from ..formats.tensor import dtype_name, torch_dtype
from ..formats.tree import TensorEntry
from ..keys.plan import Match, Plan
from ..module.dtype import can_cast, final_dtype
from ..module.slots import Slot
from ..text.lines import Fix, line
from ..text.wording import counted, listing, phrases, safe_text

if TYPE_CHECKING:
    from .stage import Stage


def refuse_known(stage: Stage, plan: Plan) -> None:
    """Refuses a load whose files fit by name and shape, and that cannot be carried out all the same.

    Raises:
        CheckpointError: A tensor was saved without data, in a dtype that this torch lacks, or extra state needs names
            that are not admitted.
        FitError: A tensor has another form than the model's, or tied names hold different ones.
        VerificationError: A part of the model that has no shape yet stays without one.
    """
    if stage.device.type == "meta":
        return  # where nothing is read, either
    needed = [(source, stage.offers.entries[source].entry) for source in stage.needed(plan)]
    tensors = [(source, entry) for source, entry in needed if isinstance(entry, TensorEntry)]
    _refuse_empty(stage, tensors)
    for example in {entry.dtype: entry for _, entry in tensors}.values():
        torch_dtype(example)
    _refuse_forms(stage, plan)
    if len(tensors) < len(needed):
        _refuse_extra(stage, [source for source, entry in needed if not isinstance(entry, TensorEntry)])
    refuse_untied(pair for pair in plan.duplicates if _are_unlike(stage, *pair))
    refuse_without_data([key for key in (*plan.missing, *_clashing(plan)) if _stays_lazy(stage.places[key])])


def refuse_untied(pairs: Iterator[tuple[Match, Match]]) -> None:
    """Raises FitError where tied names are known to hold different values."""
    differing = list(pairs)
    if differing:
        told = [f"{safe_text(first.key)} and {safe_text(second.key)}" for first, second in differing]
        raise FitError(
            f"the model ties names that hold different values in the file: {phrases(told)}",
            line("rules", {"untie": {"drop": differing[0][1].key}}, "+", note="drops the name that is not meant"),
        )


def refuse_without_data(names: Collection[str]) -> None:
    """Raises VerificationError where tensors of a model are, or will be, left without data."""
    if names:
        raise VerificationError(
            f"{counted(len(names), 'tensor')} of the model {'is' if len(names) == 1 else 'are'} left without data: "
            f"{listing(names)}",
        )


def _labels(stage: Stage, sources: Collection[str]) -> str:
    return ", ".join(dict.fromkeys(stage.parts[stage.offers.entries[source].part].label for source in sources))


def _refuse_empty(stage: Stage, tensors: Iterable[tuple[str, TensorEntry]]) -> None:
    """A tensor that was saved on the meta device is a shape without values."""
    empty = [source for source, entry in tensors if entry.storage is None and _is_empty(stage, source, entry)]
    if empty:
        raise CheckpointError(
            f"{_labels(stage, empty)} holds no data for {listing(empty)}: saved on the meta device",
            Fix(note="save the checkpoint again, from a model that has its weights"),
        )


def _is_empty(stage: Stage, source: str, entry: TensorEntry) -> bool:
    if entry.is_without_data:
        return stage.read(source).is_meta  # a state dict in memory has its data elsewhere
    pending = [*entry.components.values(), *(piece.entry for piece in entry.pieces)]
    return any(part.is_without_data for part in pending)


def _refuse_forms(stage: Stage, plan: Plan) -> None:
    """Casting between forms of a tensor is more than a load should do unasked."""
    differing = []
    for match in plan.matches:
        slot = stage.places[match.key]
        offer = stage.offers.entries.get(match.taken.key)
        if slot.kind == "extra" or offer is None or not isinstance(offer.entry, TensorEntry):
            continue
        forms = _forms(stage, match.key, offer.entry, slot.tensor)
        if forms is not None:
            differing.append(f"{safe_text(match.key)} is {forms[0]} in the file and {forms[1]} in the model")
    if differing:
        raise FitError(
            phrases(differing), Fix(note="build the model in the same form, or save the file's tensor in the model's")
        )


def _forms(stage: Stage, key: str, theirs: TensorEntry, mine: torch.Tensor) -> tuple[str, str] | None:
    """The forms of a tensor in the file and in the model; None where one can become the other."""
    if theirs.layout != (layout := _layout(mine)):
        return theirs.layout, layout
    final = final_dtype(stage.wanted[key], theirs.dtype, stage.policy)
    if not mine.is_quantized and not can_cast(torch_dtype(theirs), final):
        return theirs.dtype, dtype_name(final)
    if not mine.is_quantized and stage.policy != "checkpoint":
        return None  # it is cast to what the model declares
    if mine.is_quantized and dtype_name(final) != theirs.dtype:
        return theirs.dtype, dtype_name(final)
    if mine.requires_grad and not (final.is_floating_point or final.is_complex):
        return theirs.dtype, "a parameter with gradients"
    return None


def _refuse_extra(stage: Stage, extra: Iterable[str]) -> None:
    for source in extra:
        offer = stage.offers.entries[source]
        part = stage.parts[offer.part]
        if not isinstance(offer.entry, TensorEntry) and not isinstance(part.checkpoint, MemoryCheckpoint):
            refuse_unadmitted(offer.entry.record, part.config.checkpoint.allow_globals)


def _are_unlike(stage: Stage, first: Match, second: Match) -> bool:
    """Whether two entries differ whatever they hold: in dtype or form."""
    entries = [stage.offers.entries[match.taken.key].entry for match in (first, second)]
    one, other = (entry for entry in entries if isinstance(entry, TensorEntry))
    return (one.dtype, one.layout) != (other.dtype, other.layout)


def _clashing(plan: Plan) -> list[str]:
    return [mismatch.key for mismatch in plan.mismatched]


def _stays_lazy(slot: Slot) -> bool:
    return slot.kind != "extra" and is_lazy(slot.tensor)


def _layout(tensor: torch.Tensor) -> str:
    if tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested:
        return "strided"
    if tensor.is_quantized:
        return "quantized"
    return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
