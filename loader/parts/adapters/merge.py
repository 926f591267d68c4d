"""Adds adapters to the entries of a part, after its rules.

Guarantees: pure functions of names, shapes and dtypes; no value is read, and the entries that are given stay as they
are. A result has the shape and the nominal dtype of what it is added to; adapters are added in order, in the wide dtype
of arithmetic, and rounded once at the end. One of scale 0 changes nothing that the base has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...errors import FitError
from ...formats.boxes import computed, is_movable, reshaped
from ...formats.formulas.additions import Added, Directed, Merged, Product
from ...formats.tree import Container, TensorEntry
from ...keys.plan import Wanted
from ...keys.rules import Hits, Place, Rewritten, rewrite
from ...keys.rules.tensors import Shape
from ...schema import Rule
from ...text.lines import Fix
from ...text.wording import counted, listing, phrases, safe_text, shape
from .codes import refuse_codes
from .copies import agreeing
from .deltas import Delta, is_floating, oriented
from .operands import refuse_outsized, unfit
from .places import Places, placed, without_place
from .ties import Ties
from .turning import turning


@dataclass(frozen=True, slots=True)
class Changes:
    """What one adapter changes."""

    name: str
    scale: float
    deltas: Mapping[str, Delta]
    """By module, or by key."""
    rules: Mapping[str, Rule]
    where: str
    """The adapter and its file, for messages."""
    path: str
    """The config path of its rules."""
    root: Container
    """All of its file."""
    entries: Container
    """The tensors that it uses."""
    flat: bool = False
    """Whether its names may have ``_`` for ``.``."""
    ties: bool = False
    """Whether it was trained with tied names as one tensor, whichever of them it holds."""
    note: str = ""
    """What the report says of its file."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one adapter."""

    name: str
    hits: int
    """The number of its changes, each of which found its place."""
    rules: Sequence[Hits]
    note: str = ""
    replaced: Mapping[str, str] = field(default_factory=dict)
    """The keys that it replaces by a tensor of their own, with the name of the change."""
    changed: Mapping[str, str] = field(default_factory=dict)
    """All keys that it changes, with the name of the change."""


Made = dict[str, Rewritten]
"""The entries of a part by model key, after its rules."""


def merged(
    made: Mapping[str, Rewritten],
    adapters: Sequence[Changes],
    wanted: Mapping[str, Wanted],
    base: str,
) -> tuple[Made, list[Applied]]:
    """Adds adapters, in order.

    Args:
        made: The entries of the part.
        adapters: What they change.
        wanted: The model's keys.
        base: What they are added to, for messages.

    Raises:
        FitError: A change has no place, or another shape; tied names are changed apart; weights are quantized; a rule
            of an adapter matches nothing.
    """
    entries = dict(made)
    return entries, [_add(entries, adapter, wanted, base) for adapter in adapters]


def _add(entries: Made, adapter: Changes, wanted: Mapping[str, Wanted], base: str) -> Applied:
    changes, hits = _renamed(adapter, entries, wanted)
    tied = {key: want.first for key, want in wanted.items()}
    places = Places(entries, tied, adapter.flat)
    where, odd = placed(changes, places)
    ties = Ties(where, changes, tied, adapter.where, adapter.path, adapter.ties)
    _refuse_codes(adapter, changes, {name: place.keys for name, place in where.items()}, wanted)
    if odd:
        raise without_place(f"{base}, which {adapter.where} changes,", odd, changes, places, adapter.path)
    _refuse_idle(adapter, changes)
    keys = ties.keys()
    kept = {name: oriented(delta, _turned(wanted.get(where[name].key))) for name, delta in changes.items()}
    kept = agreeing(kept, ties)
    faults, integers, wrong = list[str](), list[str](), dict[str, Rewritten | None]()
    results: Made = {}
    for name in sorted(kept, key=lambda name: kept[name].kind != "replaced"):  # what is added is added to these
        for key in keys[name]:
            delta, there = kept[name], results.get(key) or entries.get(key)
            if fault := _fault(delta, there):
                wrong[name] = there
                faults.append(f"{safe_text(delta.sources[0])} {fault} for {safe_text(key)} {_form(there)}")
            elif delta.kind == "sum" and not is_floating(delta.entry):
                integers.append(key)
            elif there is None or adapter.scale:
                results[key] = _result(delta, there, adapter)
    if faults:
        raise FitError(f"{adapter.where} does not fit {base}: {phrases(faults)}", *turning(adapter.path, kept, wrong))
    if adapter.rules:
        refuse_outsized(kept, keys, entries, wanted, adapter.where)
    entries |= results
    kept_integers = f"{counted(len(integers), 'tensor')} of integers stays the base's: {listing(integers)}"
    notes = (adapter.note, kept_integers if integers else "", ties.note() if adapter.scale else "")
    changed = {key: name for name, each in keys.items() for key in each if key not in integers}
    return Applied(adapter.name, len(where), hits, "; ".join(filter(None, notes)), ties.replaced(), changed)


def _turned(want: Wanted | None) -> bool | None:
    return None if want is None else want.turned


def _refuse_codes(
    adapter: Changes, changes: Mapping[str, Delta], keys: Mapping[str, list[str]], wanted: Mapping[str, Wanted]
) -> None:
    rules = adapter.path, adapter.rules
    refuse_codes(adapter.where, adapter.root, adapter.entries, changes, adapter.deltas, keys, wanted, rules)


def _refuse_idle(adapter: Changes, changes: Mapping[str, Delta]) -> None:
    """Refuses an adapter that changes nothing."""
    if not changes:
        why = f": its rules leave none of its {counted(len(adapter.deltas), 'change')}" if adapter.deltas else ""
        raise FitError(
            f"{adapter.where} changes nothing{why}", Fix(note="leave the adapter out, or make a rule narrower")
        )


def _renamed(
    adapter: Changes, entries: Mapping[str, Rewritten], wanted: Mapping[str, Wanted]
) -> tuple[dict[str, Delta], Sequence[Hits]]:
    """The changes after the adapter's own rules, under the names that these give them."""
    if not adapter.rules:
        return dict(adapter.deltas), ()
    sizes = {key: one.entry.shape for key, one in entries.items() if isinstance(one.entry, TensorEntry)}
    shapes = {key: want.shape for key, want in wanted.items()}
    known = {**shapes, **{key.removesuffix(".weight"): size for key, size in sizes.items()}, **sizes}
    given = {name: delta.entry for name, delta in adapter.deltas.items()}
    rewriting = rewrite(given, adapter.rules, Place(adapter.where, adapter.path), known)
    changes: dict[str, Delta] = {}
    mixed: list[str] = []
    for name, one in rewriting.made.items():
        first = adapter.deltas[one.sources[0]]
        if not one.rules:
            changes[name] = first
            continue
        all_ = [adapter.deltas[source] for source in one.sources]
        if len({delta.kind for delta in all_}) > 1 or any(delta.magnitude is not None for delta in all_):
            mixed.append(name)
        elif isinstance(one.entry, TensorEntry):
            sources = tuple(key for delta in all_ for key in delta.sources)
            changes[name] = Delta(first.kind, one.entry, sources)
    if mixed:
        raise FitError(
            f"the rules of {adapter.where} change the tensors of {listing(mixed)}, which have a magnitude of DoRA or "
            "are joined of differences and replacements",
            Fix(note="change the base's layout by a rule instead, so that it is as the adapter's"),
        )
    return changes, rewriting.hits


def _form(there: Rewritten | None) -> str:
    entry = None if there is None else there.entry
    if not isinstance(entry, TensorEntry):
        return "(no tensor)"
    kind = entry.dtype if entry.layout == "strided" else f"{entry.layout} {entry.dtype}"
    return f"{shape(entry.shape)} {safe_text(kind)}"


def _fault(delta: Delta, there: Rewritten | None) -> str:
    """Why a change cannot be made; empty if it can."""
    if delta.kind == "replaced":
        return ""  # the plan compares its shape with the model's
    entry = None if there is None else there.entry
    if not isinstance(entry, TensorEntry) or not is_movable(entry):
        return "adds values"
    if odd := unfit(delta.entry):
        return f"adds {odd}"
    if is_floating(delta.entry) != is_floating(entry) or (delta.kind == "product" and not is_floating(entry)):
        return f"adds {delta.entry.dtype}"
    if _bare(delta.entry.shape) != _bare(entry.shape) or (delta.magnitude is not None and len(entry.shape) < 2):
        return f"makes {shape(delta.entry.shape)}"
    return ""


def _bare(size: Shape) -> Shape:
    """A shape without the dims of a kernel of one element: a 1 × 1 convolution is a matrix."""
    end = len(size)
    while end > 2 and size[end - 1] == 1:
        end -= 1
    return size[:end]


def _result(delta: Delta, there: Rewritten | None, adapter: Changes) -> Rewritten:
    if there is None or not isinstance(there.entry, TensorEntry):
        return Rewritten(delta.entry, delta.sources, (adapter.name,))
    sources = tuple(dict.fromkeys((*there.sources, *delta.sources)))
    if delta.kind == "replaced":
        return Rewritten(delta.entry, sources, (adapter.name,))
    rules = tuple(dict.fromkeys((*there.rules, adapter.name)))
    return Rewritten(_sum(delta, there.entry, adapter.scale), sources, rules)


def _sum(delta: Delta, base: TensorEntry, scale: float) -> TensorEntry:
    made = delta.entry.formula
    if not isinstance(made, Product):
        return computed(Added(scale), [base, reshaped(delta.entry, base.shape)], base.shape)
    if delta.magnitude is None:
        return computed(Merged(scale, made), [base, *delta.entry.inputs], base.shape)
    return computed(Directed(scale, made), [base, delta.magnitude, *delta.entry.inputs], base.shape)
