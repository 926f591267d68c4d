"""What will be loaded where, before anything is touched.

Guarantees: a pure function of what the model wants, what the files offer and what is allowed; reads no tensor data and
changes nothing. Every model key and every file key appears in the plan exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..formats.tree import Node, TensorEntry
from ..schema import AllowConfig
from ..text.wording import matches

SlotKind = Literal["parameter", "buffer", "extra"]
"""What takes a key: ``extra`` is state of a module's own code."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One key of the model's state dict."""

    shape: tuple[int, ...] | None
    """None for a lazy module, which takes its shape from the file, and for extra state."""
    dtype: str
    """torch's name; empty for extra state."""
    kind: SlotKind
    first: str
    """The first name of the same tensor; its own key if it is not tied."""
    turned: bool | None = None
    """Whether its layer is known to keep it as [in, out], or as [out, in]; None where its class does not say."""


@dataclass(frozen=True, slots=True)
class Offered:
    """One entry of a file under its full model key, after the rules."""

    part: str
    """The part that it belongs to; ``""`` is the root."""
    source: str
    """Its key in the file, under the part's nested key."""
    entry: Node
    """A tensor; anything else can only be extra state."""
    sources: tuple[str, ...] = ()
    """All its keys in the file, if rules or adapters made it of others; the first is `source`."""
    rules: tuple[str, ...] = ()
    """The names of the rules and adapters that changed its tensor; empty for one that is as in the file."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a model key takes, as the model's own load hooks decide."""

    key: str
    """The offered key; ``""`` if a hook computes the value."""
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class Hooked:
    """The offered keys after the model's load hooks; without hooks each model key takes its namesake."""

    taken: Mapping[str, Taken]
    """Model key → what it takes."""
    left: tuple[str, ...]
    """Offered keys that nothing took, in the files' order."""


@dataclass(frozen=True, slots=True)
class Match:
    """One tensor of a file and the model keys that it fills."""

    key: str
    """The model key that takes it; of tied names the first that the file fills."""
    taken: Taken


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A key that both sides have, with different shapes."""

    key: str
    model: tuple[int, ...]
    checkpoint: tuple[int, ...]
    source: str = ""
    """The offered key; ``""`` if a load hook computed the value."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a load would do."""

    matches: list[Match] = field(default_factory=list)
    """What is loaded, in the model's order."""
    loaded: list[str] = field(default_factory=list)
    """The model keys that are filled, second names of tied tensors included."""
    missing: list[str] = field(default_factory=list)
    """Model keys that nothing fills, allowed ones included."""
    unexpected: list[str] = field(default_factory=list)
    """File keys, as rewritten, that the model does not have, allowed ones included."""
    mismatched: list[Mismatch] = field(default_factory=list)
    """Keys of two shapes, allowed ones included."""
    dropped: list[str] = field(default_factory=list)
    """File keys that the rules dropped."""
    tied: list[list[str]] = field(default_factory=list)
    """The groups of model keys that are one tensor."""
    duplicates: list[tuple[Match, Match]] = field(default_factory=list)
    """Names of one tied tensor that the file fills twice: both must hold the same values."""
    refused: list[str] = field(default_factory=list)
    """The keys of missing, unexpected and mismatched that no allowance excuses."""

    def unread(self) -> set[str]:
        """Returns the offered keys whose data is not needed: unexpected, mismatched, or a tied tensor's second copy."""
        seconds = {second.taken.key for _, second in self.duplicates}
        return {*self.unexpected, *(mismatch.source for mismatch in self.mismatched), *seconds}

    def filled(self, wanted: Mapping[str, Wanted]) -> int:
        """Counts the model keys that files fill, without buffers that a load hook creates for a module they lack."""
        places = {match.key.rpartition(".")[0] for match in self.matches if match.taken.key}
        made_up = {
            match.key
            for match in self.matches
            if not match.taken.key and wanted[match.key].kind == "buffer" and match.key.rpartition(".")[0] not in places
        }
        return sum(wanted[key].first not in made_up and key not in made_up for key in self.loaded)

    def passes(self) -> bool:
        """Whether it may be applied: nothing is refused, and something is loaded."""
        return bool(self.loaded) and not self.refused

    def leaves_to_initialize(self) -> bool:
        """Whether it may be applied and leaves keys to the model's own initialization."""
        return bool(self.missing or self.mismatched) and self.passes()


def make_plan(
    wanted: Mapping[str, Wanted],
    offered: Mapping[str, Offered],
    hooked: Hooked,
    allow: AllowConfig,
    dropped: Iterable[str] = (),
) -> Plan:
    """Matches a model's keys with the entries of files.

    Args:
        wanted: The model's keys.
        offered: The files' entries by full model key.
        hooked: What each model key takes after the model's own load hooks.
        allow: The keys that may have no counterpart.
        dropped: File keys that rules dropped; only listed.
    """
    filled: dict[str, Match] = {}
    mismatched: list[Mismatch] = []
    duplicates: list[tuple[Match, Match]] = []
    for key, want in wanted.items():
        taken = hooked.taken.get(key)
        if taken is None:
            continue
        if not fits(want.shape, taken.shape):
            mismatched.append(Mismatch(key, want.shape or (), taken.shape, taken.key))
        elif want.first not in filled or not filled[want.first].taken.key:
            filled[want.first] = Match(key, taken)
        elif taken.key:
            duplicates.append((filled[want.first], Match(key, taken)))
    if not _feeds(filled.values(), offered, hooked):
        # Values that load hooks create without the file are the model's own.
        filled = {}
    clashing = {mismatch.key for mismatch in mismatched}
    missing = [key for key, want in wanted.items() if want.first not in filled and key not in clashing]
    unexpected = [key for key in hooked.left if isinstance(offered[key].entry, TensorEntry) or key in wanted]
    return Plan(
        matches=list(filled.values()),
        loaded=[key for key, want in wanted.items() if want.first in filled and key not in clashing],
        missing=missing,
        unexpected=unexpected,
        mismatched=mismatched,
        dropped=list(dropped),
        tied=_tied(wanted),
        duplicates=duplicates,
        refused=[
            *_not_allowed(missing, allow.missing),
            *_not_allowed(unexpected, allow.unexpected),
            *_not_allowed((mismatch.key for mismatch in mismatched), allow.mismatched),
        ],
    )


def _feeds(matches: Iterable[Match], offered: Mapping[str, Offered], hooked: Hooked) -> bool:
    """Whether anything of a file reaches the model, directly or through a load hook."""
    spared = {*hooked.left, *(taken.key for taken in hooked.taken.values())}
    return any(match.taken.key for match in matches) or not spared.issuperset(offered)


def fits(wanted: tuple[int, ...] | None, found: tuple[int, ...]) -> bool:
    """Whether a tensor of a file has the shape that a model key takes; None takes any.

    As in torch, a one-element vector fills a scalar; never the other way round.
    """
    return wanted is None or wanted == found or (wanted == () and found == (1,))


def _tied(wanted: Mapping[str, Wanted]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for key, want in wanted.items():
        groups.setdefault(want.first, []).append(key)
    return [group for group in groups.values() if len(group) > 1]


def _not_allowed(keys: Iterable[str], globs: Iterable[str]) -> list[str]:
    globs = list(globs)
    return [key for key in keys if not matches(key, globs)]
