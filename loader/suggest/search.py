"""The search for ways to make a file fit.

Guarantees: bounded, whatever the file: a few nested keys, a few drafts of each, a few rounds, on a sample of the keys
where there are many. Deterministic: no outcome depends on a hash or on time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..formats.tree import Container
from ..keys.candidates import candidates
from ..schema import RuleConfig
from .alignment import alignment
from .draft import Draft, Source, Step
from .numbering import renumbering
from .steps import Generator, averages, norms, prefixes, wrappers
from .target import Target

# Those that look at all names, and not at the sample alone, come last, and only where the others leave something.
_QUICK: Sequence[Generator] = (norms, prefixes)
_THOROUGH: Sequence[Generator] = (renumbering,)
_MOST_SOURCES = 8
_BREADTH = 6
_ROUNDS = 5


def sources(root: Container, target: Target, given: str | None = None) -> list[Source]:
    """The nested keys whose shapes overlap with the model's, in the order of `candidates`.

    Args:
        root: The whole file.
        target: The model.
        given: The nested key that was typed.
    """
    ranked = [found for found in candidates(root, target.shapes.values(), given) if found.fitting]
    enough = [found for found in ranked if 5 * found.fitting >= ranked[0].fitting]
    return [Source.of(found.key or None, found.container, target) for found in enough[:_MOST_SOURCES]]


def drafts(source: Source, target: Target, given: Mapping[str, RuleConfig], *, averaged: bool = False) -> list[Draft]:
    """The drafts of one nested key that fill most of the model, best first.

    Args:
        source: The nested key.
        target: The model.
        given: The user's own rules.
        averaged: Whether an average was asked for, which may stand beside weights that fit as they are.
    """
    start = Draft.start(source, target, given)
    if start is None:
        return []
    apart = _followed(start, averages(start)) if averaged else ()
    beam = found = _distinct([start, *_followed(start, wrappers(start)), *apart])
    for _ in range(_ROUNDS):
        following = _better(beam, _QUICK)
        if not any(map(_finished, following)):
            following += _better(beam, _THOROUGH)
        beam = _distinct(following)[:_BREADTH]
        if not beam:
            break
        found = _distinct([*found, *beam])
    aligned = [] if any(map(_finished, found)) else _better(found[:_BREADTH], [alignment])
    return [draft for draft in _distinct([*found, *aligned]) if draft.filled][: 2 * _BREADTH]


def _better(beam: Sequence[Draft], generators: Sequence[Generator]) -> list[Draft]:
    """What generators make of drafts, where it fills more."""
    return [
        after
        for draft in beam
        if not _finished(draft)
        for generator in generators
        for after in _followed(draft, generator(draft))
        if len(after.filled) > len(draft.filled)
    ]


def _finished(draft: Draft) -> bool:
    """Whether there is nothing left that could be filled."""
    return len(draft.filled) in (len(draft.target.shapes), len(draft.names))


def _followed(draft: Draft, steps: Iterable[Step]) -> Iterator[Draft]:
    for step in steps:
        after = draft.then(step)
        if after is not None:
            yield after


def _distinct(found: Iterable[Draft]) -> list[Draft]:
    """Sorts drafts, best first, and leaves out those that do the same as a simpler one."""
    kept: dict[tuple[frozenset[tuple[str, str]], int], Draft] = {}
    for draft in sorted(found, key=_merit):
        left = len(draft.names) - len(draft.filled)
        kept.setdefault((frozenset(draft.names.items()), left), draft)
    return list(kept.values())


def _merit(draft: Draft) -> tuple[int, int, int, int]:
    rules = [rule for step in draft.steps if not step.well_known for rule in step.rules]
    return (-len(draft.filled), draft.rank, draft.guess, len(rules))
