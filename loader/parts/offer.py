"""The entries that the parts' files offer to the model: nested keys selected, rules applied, full model keys.

Guarantees: every entry of a file is offered under its full model key, dropped, or listed as not a tensor, before
anything is planned; the result is frozen. Reads no tensor data.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import CheckpointError, FitError
from ..formats.folder_config import config_beside
from ..formats.pickle.globals import dangerous_maker
from ..formats.tree import Container, TensorEntry
from ..keys.plan import Offered, Wanted
from ..keys.rules import Context, Hits, Place, Rewritten, rewrite, rewrite_metadata
from ..keys.select import find, only_optimizer, select, tree
from ..text.lines import Fix
from ..text.wording import safe_text
from ..trust import HOSTILE
from . import Part, below, mounted

if TYPE_CHECKING:
    from .adapters import Applied

Metadata = Mapping[str, Mapping[str, object]]
"""Full module prefix → version and the like."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """An entry of a file of which the rules left nothing, or which belongs to another part."""

    key: str
    """The full key that it had when it was dropped."""
    source: str
    """Its key in the file, under the part's nested key."""


@dataclass(frozen=True, slots=True)
class Offers:
    """Everything that the parts offer to the model."""

    entries: Mapping[str, Offered]
    """By full model key, after the rules."""
    dropped: Sequence[Dropped]
    """The entries that rules dropped."""
    metadata: Metadata
    selected: Mapping[str, Container]
    """Part → the container under its nested key."""
    hits: Mapping[str, Sequence[Hits]]
    """Part → how often each of its rules matched."""
    other: Mapping[str, Mapping[str, str]]
    """Part → its entries that are not tensors: key → type."""
    adapters: Mapping[str, Sequence[Applied]]
    """Part → what became of each of its adapters."""


def offers(parts: Sequence[Part], wanted: Mapping[str, Wanted]) -> Offers:
    """Selects every part's entries, applies its rules, and names the results by full model key.

    Raises:
        CheckpointError: A selected entry is the result of a call that no model needs.
        FitError: A nested key does not exist, a rule matches nothing, or two keys become one.
    """
    offered = {part.name: _offer(part, mounted(part, parts), wanted) for part in parts}
    entries: dict[str, Offered] = {}
    for one in offered.values():
        twice = next((full for full in one.entries if full in entries), None)
        if twice is not None:
            raise FitError(
                f"{safe_text(twice)} is offered by two parts", Fix(note="give each key of the model to one part alone")
            )
        entries |= one.entries
    return Offers(
        entries,
        [gone for one in offered.values() for gone in one.dropped],
        {prefix: values for one in offered.values() for prefix, values in one.metadata.items()},
        {name: one.selected for name, one in offered.items()},
        {name: one.hits for name, one in offered.items()},
        {name: one.other for name, one in offered.items()},
        {name: one.adapters for name, one in offered.items()},
    )


def selected(part: Part) -> Container | None:
    """The container under a part's nested key, whatever it holds; None if there is none."""
    key, root = part.config.checkpoint.key, part.checkpoint.root
    found = find(root, key)
    return found if isinstance(found, Container) else None


def check_weights(parts: Sequence[Part]) -> None:
    """Raises CheckpointError if a file holds only the state of an optimizer, and no nested key selects it."""
    for part in parts:
        root = part.checkpoint.root
        named = part.config.checkpoint.key is not None and "key" not in part.config.autos
        if not named and only_optimizer(root):
            raise CheckpointError(
                f"{part.checkpoint.label} holds the state of an optimizer and no weights. In the file:\n{tree(root)}",
                Fix("checkpoint.path=FILE", "the file with the weights, often next to this one"),
            )


@dataclass(frozen=True, slots=True)
class _Offer:
    """The offers of one part, with full keys as in `Offers`."""

    entries: Mapping[str, Offered]
    dropped: Sequence[Dropped]
    metadata: Metadata
    selected: Container
    hits: Sequence[Hits]
    other: Mapping[str, str]
    adapters: Sequence[Applied]


def _offer(part: Part, others: tuple[str, ...], wanted: Mapping[str, Wanted]) -> _Offer:
    """Offers a part's entries; those that belong to a part below it are dropped."""
    _refuse_dangerous(part)
    own = [key for key, _ in below(part.name, wanted) if not part.full(key).startswith(others)]
    key = part.config.checkpoint.key
    container = select(part.checkpoint.root, key, own, part.checkpoint.label)
    if part.checkpoint.combination is not None:
        part.checkpoint.combination.check(container)
    rules = part.config.rules or {}
    shapes = {key: want.shape for key, want in below(part.name, wanted)}
    rewriting = rewrite(container.children, rules, Place(part.label, part.used_rules_path), shapes, context_of(part))
    made, adapters = _adapted(part, rewriting.made, others, wanted)
    entries: dict[str, Offered] = {}
    other: dict[str, str] = {}
    dropped = [Dropped(part.full(name), source) for source, name in rewriting.dropped.items()]
    for name, one in made.items():
        entry, source, full = one.entry, one.sources[0], part.full(name)
        if full.startswith(others):
            dropped += [Dropped(full, key) for key in one.sources]
        elif not isinstance(entry, TensorEntry) and full not in wanted:
            other[source] = entry.type
        else:
            entries[full] = Offered(part.name, source, entry, one.sources if one.rules else (), one.rules)
    prefixes = rewrite_metadata(container.metadata, rules).items()
    metadata = {part.full(prefix).removesuffix("."): values for prefix, values in prefixes}
    metadata = {prefix: values for prefix, values in metadata.items() if not f"{prefix}.".startswith(others)}
    return _Offer(entries, dropped, metadata, container, rewriting.hits, other, adapters)


def _adapted(
    part: Part, made: Mapping[str, Rewritten], others: tuple[str, ...], wanted: Mapping[str, Wanted]
) -> tuple[Mapping[str, Rewritten], Sequence[Applied]]:
    """Adds a part's adapters to what its rules made."""
    if not part.adapters:
        return made, ()
    from .adapters import merged  # noqa: PLC0415  # few jobs have adapters

    own = {key: want for key, want in below(part.name, wanted) if not part.full(key).startswith(others)}
    return merged(made, [adapter.changes() for adapter in part.adapters], own, part.label)


def context_of(part: Part) -> Context:
    """Returns what rules may know of a part's file besides names, shapes and dtypes."""
    path = part.checkpoint.path

    def peek(entry: TensorEntry) -> bytes:
        from ..formats.elements import raw  # noqa: PLC0415  # names and shapes alone need no torch

        part.checkpoint.verify([entry], mmap=False)
        return bytes(raw(part.checkpoint.read(entry, mmap=False)))

    @functools.cache  # asked for every group of a rule
    def quantization() -> Mapping[str, object]:
        found = config_beside(path).get("quantization_config")
        return found if isinstance(found, dict) else {}

    return Context(peek, quantization)


def _refuse_dangerous(part: Part) -> None:
    """Raises CheckpointError if the selected entries are the result of a call that no model needs."""
    root, names = part.checkpoint.root, (part.config.checkpoint.key or "").split(".")
    for level in range(len(names) + 1):
        found = find(root, ".".join(names[:level])) if level else root
        maker = dangerous_maker(getattr(found, "record", None))
        if maker:
            place = f"under '{safe_text('.'.join(names[:level]))}'" if level else "at its top level"
            raise CheckpointError(
                f"{part.checkpoint.label} holds {place} the result of calling {safe_text(maker)}, {HOSTILE}",
                Fix(note="do not load this file; ask whoever made it for a safetensors file"),
            )
