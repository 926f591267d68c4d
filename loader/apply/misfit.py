"""Refuses files that do not fit a model, or fit it and do not hold the values.

Guarantees: reads no tensor data and changes nothing; every fault that is known before data is read is refused here, for
a dry run and a load alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch.nn.parameter import is_lazy

from ..errors import CheckpointError, FitError, VerificationError
from ..formats.pickle.globals import refuse_unadmitted
from ..formats.pickle.objects import refuse_withheld
from ..formats.tensor import dtype_name, torch_dtype
from ..formats.tree import TensorEntry
from ..keys.guard import Guarded, refuse_quantized
from ..keys.plan import Match
from ..module.dtype import can_cast
from ..module.policy import dtype_for, refuse_torn
from ..module.slots import Slot
from ..parts.reading import Reader
from ..text.lines import Fix, line
from ..text.wording import counted, listing, phrases, safe_text
from .prepare import Advise, Prepared

_MOST_RULES = 8
"""Names for which a rule each is offered."""


def refuse_misfit(prepared: Prepared, advise: Advise) -> None:
    """Refuses files that do not fit the model, or fit but do not hold the values.

    Raises:
        FitError: Keys do not fit, an adapter changes what the model does not take, weights are quantized, or tied names
            hold different tensors or are to end in different dtypes; it carries the plan where the keys are at fault.
        CheckpointError: Tensors are shares of larger ones, were saved without data, or have an unsupported dtype.
        VerificationError: A lazy tensor of the model would stay without a shape.
    """
    _refuse_quantized(prepared)
    if prepared.plan.passes():
        refuse_torn(prepared.policy, prepared.plan.tied)
        _refuse_lost(prepared)
        _refuse_withheld(prepared)
        _refuse_known(prepared)
        return
    parts = list(prepared.parts.values())
    shapes = {key: entry.shape for key in prepared.offers.entries if (entry := prepared.tensor(key)) is not None}
    files = ", ".join(dict.fromkeys(part.label for part in parts))
    raise advise(prepared.model, parts, prepared.wanted).misfit(prepared.plan, shapes, files)


def _refuse_lost(prepared: Prepared) -> None:
    """Refuses adapters that change what the model does not take, whatever is allowed for the base's own tensors."""
    plan = prepared.plan
    lost = {
        **dict.fromkeys(plan.unexpected, "unexpected"),
        **{one.source: "of another size" for one in plan.mismatched},
    }
    for name, part in prepared.parts.items():
        for adapter, applied in zip(part.adapters, prepared.offers.adapters[name], strict=True):
            places = {key: part.full(key) for key in applied.changed}
            why = {key: lost.get(full, "") or _elsewhere(prepared, name, full) for key, full in places.items()}
            odd = [key for key in places if why[key]]
            if odd:
                said = phrases([f"{safe_text(places[key])} ({why[key]})" for key in odd])
                names = list(dict.fromkeys(applied.changed[key] for key in odd))
                raise FitError(
                    f"{adapter.label} changes {counted(len(odd), 'tensor')} that the model does not take: {said}",
                    *_left_out(adapter.rules_path, names),
                )


def _elsewhere(prepared: Prepared, part: str, key: str) -> str:
    offer = prepared.offers.entries.get(key)
    return "" if offer is not None and offer.part == part else "of another part"


def _left_out(path: str, names: list[str]) -> Iterator[Fix]:
    """Yields the line that leaves changes of an adapter out."""
    if path and len(names) <= _MOST_RULES:
        rules = {f"rest{at or ''}": {"drop": name} for at, name in enumerate(names)}
        yield line(path, rules, "+", note=f"leaves {'it' if len(names) == 1 else 'them'} out")
    else:
        yield Fix(note="leave them out by a rule of the adapter")


def _refuse_withheld(prepared: Prepared) -> None:
    unread = prepared.plan.unread()
    for name, part in prepared.parts.items():
        entries = [(key, offer.entry) for key, offer in prepared.offers.entries.items() if offer.part == name]
        refuse_withheld(part.label, ((key, entry) for key, entry in entries if key not in unread))


def _refuse_quantized(prepared: Prepared) -> None:
    for name, part in prepared.parts.items():
        offered = {key: offer for key, offer in prepared.offers.entries.items() if offer.part == name}
        children, rules = prepared.offers.selected[name].children, part.config.rules or {}
        file = Guarded(part.label, part.checkpoint.root, children, offered, part.rules_path, rules)
        try:
            refuse_quantized(file, prepared.wanted)
        except FitError as error:
            error.plan = prepared.plan
            raise


def _refuse_known(prepared: Prepared) -> None:
    """Refuses files that fit by name and shape and cannot be loaded all the same."""
    if prepared.device.type == "meta":
        return  # no data is read there
    plan = prepared.plan
    needed = [(source, prepared.tensor(source)) for source in prepared.needed()]
    tensors = [(source, entry) for source, entry in needed if entry is not None]
    _refuse_empty(prepared, tensors)
    for example in {entry.dtype: entry for _, entry in tensors}.values():
        torch_dtype(example)
    _refuse_forms(prepared)
    _refuse_extra(prepared, [source for source, entry in needed if entry is None])
    refuse_untied(prepared, (pair for pair in plan.duplicates if _are_unlike(prepared, *pair)))
    clashing = (mismatch.key for mismatch in plan.mismatched)
    refuse_without_data([key for key in (*plan.missing, *clashing) if _stays_lazy(prepared.places[key])])


def refuse_untied(prepared: Prepared, pairs: Iterator[tuple[Match, Match]]) -> None:
    """Raises FitError if tied names are known to hold different values."""
    differing = list(pairs)
    if differing:
        names = [f"{safe_text(first.key)} and {safe_text(second.key)}" for first, second in differing]
        source = next((found for match in reversed(differing[0]) if (found := _replacement(prepared, match))), None)
        where, path, name = source or ("the file", "rules", differing[0][1].key)
        raise FitError(
            f"the model ties names that hold different values in {where}: {phrases(names)}",
            line(path, {"untie": {"drop": name}}, "+", note="drops the unwanted name"),
        )


def _replacement(prepared: Prepared, match: Match) -> tuple[str, str, str] | None:
    """The last adapter that gives a key its value, the config path of its rules, and its name for the key."""
    key = match.taken.key
    part = prepared.part_of(key)
    own = key.removeprefix(f"{part.name}.") if part.name else key
    applied = prepared.offers.adapters[part.name]
    for adapter, one in zip(reversed(part.adapters), reversed(applied), strict=True):
        if own in one.replaced:
            return adapter.label, adapter.rules_path, one.replaced[own]
    return None


def refuse_without_data(names: Collection[str]) -> None:
    """Raises VerificationError if tensors of a model are, or will be, left without data."""
    if names:
        raise VerificationError(
            f"{counted(len(names), 'tensor')} of the model {'is' if len(names) == 1 else 'are'} left without data: "
            f"{listing(names)}",
        )


def _refuse_empty(prepared: Prepared, tensors: Iterable[tuple[str, TensorEntry]]) -> None:
    """Refuses tensors that were saved on the meta device: they have a shape and no values."""
    empty = [source for source, entry in tensors if entry.storage is None and _is_empty(prepared, source, entry)]
    if empty:
        files = ", ".join(dict.fromkeys(prepared.part_of(source).label for source in empty))
        raise CheckpointError(
            f"{files} holds no data for {listing(empty)}: saved on the meta device",
            Fix(note="save the checkpoint again, from a model that has its weights"),
        )


def _is_empty(prepared: Prepared, source: str, entry: TensorEntry) -> bool:
    if entry.is_without_data:
        return (
            Reader(prepared.parts, prepared.offers.entries).read(source).is_meta
        )  # a state dict in memory has its data elsewhere
    pending = [*entry.components.values(), *entry.inputs, *(piece.entry for piece in entry.pieces)]
    return any(part.is_without_data for part in pending)


def _refuse_forms(prepared: Prepared) -> None:
    """Refuses conversions between layouts and quantization schemes, which nobody asked for."""
    differing = []
    for match in prepared.plan.matches:
        slot, entry = prepared.places[match.key], prepared.tensor(match.taken.key)
        if slot.kind == "extra" or entry is None:
            continue
        forms = _forms(prepared, match.key, entry, slot.tensor)
        if forms is not None:
            differing.append(f"{safe_text(match.key)} is {forms[0]} in the file and {forms[1]} in the model")
    if differing:
        raise FitError(
            phrases(differing),
            Fix(note="build the model with the same layout, or save the tensor in the model's layout"),
        )


def _forms(prepared: Prepared, key: str, theirs: TensorEntry, mine: torch.Tensor) -> tuple[str, str] | None:
    """The forms of a tensor in the file and in the model; None if the one can be cast to the other."""
    if theirs.layout != (layout := _layout(mine)):
        return theirs.layout, layout
    final = prepared.dtype(key, theirs.dtype)
    if not mine.is_quantized and not can_cast(torch_dtype(theirs), final):
        return theirs.dtype, dtype_name(final)
    if not mine.is_quantized and dtype_for(prepared.policy, key) != "checkpoint":
        return None  # it is cast to what the model declares
    if mine.is_quantized and dtype_name(final) != theirs.dtype:
        return theirs.dtype, dtype_name(final)
    if mine.requires_grad and not (final.is_floating_point or final.is_complex):
        return theirs.dtype, "a parameter with gradients"
    return None


def _refuse_extra(prepared: Prepared, extra: Iterable[str]) -> None:
    for source in extra:
        entry, part = prepared.offers.entries[source].entry, prepared.part_of(source)
        if not isinstance(entry, TensorEntry) and not part.checkpoint.in_memory:
            refuse_unadmitted(entry.record, part.config.checkpoint.allow_globals)


def _are_unlike(prepared: Prepared, first: Match, second: Match) -> bool:
    """Whether two entries differ whatever they hold: in dtype or form."""
    one, other = prepared.tensor(first.taken.key), prepared.tensor(second.taken.key)
    return one is not None and other is not None and (one.dtype, one.layout) != (other.dtype, other.layout)


def _stays_lazy(slot: Slot) -> bool:
    return slot.kind != "extra" and is_lazy(slot.tensor)


def _layout(tensor: torch.Tensor) -> str:
    if tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_nested:
        return "strided"
    if tensor.is_quantized:
        return "quantized"
    return "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
