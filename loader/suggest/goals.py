"""What a file looks like to an architecture: its tensors under the names that they would have there.

Guarantees: names alone decide, and the rules are those that a suggestion may propose; no shape of the architecture is
looked at, since its sizes are what is to be found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..formats.tree import Container
from ..keys.select import find
from ..schema import RuleConfig
from .draft import Draft, Source
from .search import drafts, sources
from .sizes.probe import Goal, Seen
from .target import Shape, Target

_MOST = 3
_LITTLE = 4
"""A nested key that fills less than one in so many of the names is not looked at."""


def goals_of(root: Container, key: str | None, rules: Mapping[str, RuleConfig], seen: Seen) -> list[Goal]:
    """The file's tensors as an architecture could take them, those that have most of its names first.

    Args:
        root: The whole file.
        key: The nested key; None looks at all.
        rules: The user's own rules.
        seen: The architecture at any size.
    """
    bare: dict[str, Shape | None] = {key: None for key, want in seen.wanted.items() if want.kind != "extra"}
    target = Target.of(bare)
    found = [draft for source in _sources(root, key, target) for draft in drafts(source, target, rules)[:1]]
    found = [draft for draft in found if _LITTLE * len(draft.filled) >= min(len(bare), len(draft.names))]
    found.sort(key=lambda draft: (-len(draft.filled), draft.rank))
    return _distinct(found)[:_MOST]


def _sources(root: Container, key: str | None, target: Target) -> Sequence[Source]:
    if key is None:
        return sources(root, target)
    container = find(root, key)
    return [Source.of(key, container, target)] if isinstance(container, Container) and container.tensors() else []


def _distinct(found: Sequence[Draft]) -> list[Goal]:
    """The goals without those that are the same: a file may hold averages beside the weights."""
    goals: list[Goal] = []
    for draft in found:
        shapes = {name: draft.source.shapes[key] for key, name in draft.everything().items()}
        if not any(goal.shapes == shapes for goal in goals):
            goals.append(Goal(shapes, draft.rank))
    return goals
