"""Adds adapters to the entries of a part, after its rules.

Guarantees: pure functions of names, shapes and dtypes; no value is read, and the entries that are given stay as they
are. A result has the shape and the nominal dtype of what it is added to; adapters are added in order, in the wide dtype
of arithmetic, and rounded once at the end. One of scale 0 changes nothing that the base has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ...errors import FitError
from ...formats.boxes import is_movable, reshaped
from ...formats.formulas.additions import Added, Directed, Merged, Product
from ...formats.tree import TensorEntry
from ...keys.rules import Hits, Place, Rewritten, rewrite
from ...keys.rules.tensors import Shape
from ...schema import Rule
from ...text.lines import Fix, line
from ...text.wording import counted, listing, phrases, safe_text, shape
from .deltas import Delta, computed, is_floating
from .places import Places, placed, without_place


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
    flat: bool = False
    """Whether its names may have ``_`` for ``.``."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one adapter."""

    name: str
    hits: int
    """The number of its changes, each of which found its place."""
    rules: Sequence[Hits]
    note: str = ""


Made = dict[str, Rewritten]
"""The entries of a part by model key, after its rules."""


def merged(
    made: Mapping[str, Rewritten],
    adapters: Sequence[Changes],
    shapes: Mapping[str, Shape | None],
    tied: Mapping[str, str],
    base: str,
) -> tuple[Made, list[Applied]]:
    """Adds adapters, in order.

    Args:
        made: The entries of the part.
        adapters: What they change.
        shapes: The model's keys.
        tied: Key of the model → the first name of the same tensor.
        base: What they are added to, for messages.

    Raises:
        FitError: A change has no place, or another shape; a rule of an adapter matches nothing.
    """
    entries = dict(made)
    return entries, [_add(entries, adapter, shapes, tied, base) for adapter in adapters]


def _add(
    entries: Made, adapter: Changes, shapes: Mapping[str, Shape | None], tied: Mapping[str, str], base: str
) -> Applied:
    changes, hits = _renamed(adapter, entries, shapes)
    places = Places(entries, tied, adapter.flat)
    where, odd = placed(changes, places)
    if odd:
        raise without_place(f"{base}, which {adapter.where} changes,", odd, changes, places, adapter.path)
    faults, integers = list[str](), list[str]()
    results: Made = {}
    for name, keys in where.items():
        for key in keys:
            delta, there = changes[name], results.get(key) or entries.get(key)
            if fault := _fault(delta, there):
                faults.append(f"{safe_text(delta.sources[0])} {fault} for {safe_text(key)} {_form(there)}")
            elif delta.kind == "sum" and not is_floating(delta.entry):
                integers.append(key)
            elif there is None or adapter.scale:
                results[key] = _result(delta, there, adapter)
    if faults:
        raise FitError(f"{adapter.where} does not fit {base}: {phrases(faults)}", *_turning(adapter, changes, entries))
    entries |= results
    note = f"{counted(len(integers), 'tensor')} of integers stays the base's: {listing(integers)}" if integers else ""
    return Applied(adapter.name, len(where), hits, note)


def _renamed(
    adapter: Changes, entries: Mapping[str, Rewritten], shapes: Mapping[str, Shape | None]
) -> tuple[dict[str, Delta], Sequence[Hits]]:
    """The changes after the adapter's own rules, under the names that these give them."""
    if not adapter.rules:
        return dict(adapter.deltas), ()
    sizes = {key: one.entry.shape for key, one in entries.items() if isinstance(one.entry, TensorEntry)}
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
    return f"{shape(entry.shape)} {entry.dtype}" if isinstance(entry, TensorEntry) else "(no tensor)"


def _fault(delta: Delta, there: Rewritten | None) -> str:
    """Why a change cannot be made; empty if it can."""
    if delta.kind == "replaced":
        return ""  # the plan compares its shape with the model's
    entry = None if there is None else there.entry
    if not isinstance(entry, TensorEntry) or not is_movable(entry):
        return "adds values"
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
        return computed(base, base.shape, Added(scale), base, reshaped(delta.entry, base.shape))
    if delta.magnitude is None:
        return computed(base, base.shape, Merged(scale, made), base, *delta.entry.inputs)
    return computed(base, base.shape, Directed(scale, made), base, delta.magnitude, *delta.entry.inputs)


def _turning(adapter: Changes, changes: Mapping[str, Delta], entries: Mapping[str, Rewritten]) -> Iterator[Fix]:
    """Yields the rule that transposes differences, where that is all that is wrong."""
    where, _ = placed(changes, Places(entries, {}, adapter.flat))
    wrong = {
        name: (changes[name].entry.shape, entries[keys[0]].entry)
        for name, keys in where.items()
        if keys[0] in entries and _fault(changes[name], entries[keys[0]])
    }
    turned = all(isinstance(one, TensorEntry) and size == one.shape[::-1] for size, one in wrong.values())
    if wrong and turned and all(len(size) == 2 for size, _ in wrong.values()):
        glob = "*" if len(wrong) == len(changes) else next(iter(wrong)) if len(wrong) == 1 else ""
        rule = {"turned": {"rearrange": glob or "GLOB", "pattern": "i o -> o i"}}
        yield line(
            adapter.path, rule, "+", note="shapes do not show the order of square ones: compare with a golden record"
        )
