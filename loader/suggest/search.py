"""The search for ways to make a file fit.

Guarantees: bounded, whatever the file: a few nested keys, a few drafts of each, a few rounds, on a sample of the keys
where there are many. Deterministic: no outcome depends on a hash or on time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..formats.tree import Container, TensorEntry
from ..keys.candidates import candidates
from ..schema import AUTO, RuleConfig
from .alignment import alignment, renumbering
from .attempts import Draft, Source, Step, Target
from .confirm import conclude
from .problem import Explanation, Problem, asks_for_average, meant_key
from .steps import Generator, averages, norms, prefixes, wrappers

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


_MOST_JUDGED = 5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A nested key and how much of the model it fills at best."""

    key: str | None
    loaded: int


@dataclass(frozen=True, slots=True)
class Findings:
    """What a search found."""

    explanations: tuple[Explanation, ...] = ()
    """The best ones: one, or several that are equally good, in the order of `loader.keys.candidates`."""
    candidates: tuple[Candidate, ...] = ()
    """Nested keys that fill something, the fullest first."""


@dataclass(slots=True)
class Searched:
    """What was found out of one part already, so that nothing is searched twice."""

    sources: Sequence[Source] | None = None
    found: dict[tuple[str | None, bool], tuple[Candidate | None, list[Explanation]]] = field(default_factory=dict)
    """Nested key, and whether rules could be added → how far it goes, and its explanations."""


def explain(
    problem: Problem, *, keys_free: bool = True, rules_free: bool = True, searched: Searched | None = None
) -> Findings:
    """Searches for what makes a part's file fit.

    Args:
        problem: The part.
        keys_free: Whether another nested key than the one given may be taken.
        rules_free: Whether rules may be added to those given.
        searched: What an earlier search for the same part found; gets what this one finds.
    """
    known = searched or Searched()
    prefix = f"{problem.part}." if problem.part else ""
    target = Target.of({key.removeprefix(prefix): w.shape for key, w in problem.wanted.items() if w.kind != "extra"})
    if known.sources is None:
        known.sources = sources(problem.root, target, problem.key)
    found: list[Explanation] = []
    candidates = []
    for source in known.sources:
        if not keys_free and source.key != problem.key:
            continue
        place = (source.key, rules_free)
        if place not in known.found:
            known.found[place] = _searched(problem, source, target, rules_free=rules_free)
        candidate, explanations = known.found[place]
        candidates += [candidate] if candidate is not None else []
        found += explanations
    candidates.sort(key=lambda candidate: -candidate.loaded)
    places = [source.key for source in known.sources]
    best = sorted(_best(found, problem), key=lambda explanation: places.index(explanation.key))
    return Findings(tuple(best), tuple(candidates))


def _searched(
    problem: Problem, source: Source, target: Target, *, rules_free: bool
) -> tuple[Candidate | None, list[Explanation]]:
    """How far one nested key goes, and its explanations."""
    averaged = rules_free and asks_for_average(problem)
    possible = _drafts(source, target, problem.rules or {}, rules_free=rules_free, averaged=averaged)
    judged = [e for draft in possible if (e := conclude(problem, draft)) is not None]
    filled = round(len(possible[0].filled) * source.weight) if possible else 0
    return Candidate(source.key, filled) if possible else None, judged


def _drafts(
    source: Source, target: Target, given: Mapping[str, RuleConfig], *, rules_free: bool, averaged: bool
) -> list[Draft]:
    if not rules_free:
        start = Draft.start(source, target, given)
        return [start] if start is not None and start.filled else []
    found = drafts(source, target, given, averaged=averaged)
    if given:
        found = sorted([*found, *drafts(source, target, {}, averaged=averaged)], key=lambda draft: -len(draft.filled))
    # One that fills much less than the best does not get better by being judged.
    return [draft for draft in found if 10 * len(draft.filled) >= 9 * len(found[0].filled)][:_MOST_JUDGED]


def _best(found: list[Explanation], problem: Problem) -> list[Explanation]:
    near = meant_key(problem)
    meant = [e for e in found if near is not None and (e.key == near or (e.key or "").startswith(f"{near}."))]
    kept = [explanation for explanation in meant or found if not explanation.swaps]
    ranked = sorted(kept or found, key=lambda explanation: _order(explanation, problem))
    if not ranked:
        return []
    first = ranked[0]
    if problem.key not in (None, AUTO) and any(e.key == problem.key and _equal(e, first) for e in ranked):
        ranked = [explanation for explanation in ranked if explanation.key == problem.key]
        first = ranked[0]
    best = [first]
    for explanation in ranked[1:]:
        if _equal(explanation, first) and not any(_same_effect(explanation, other) for other in best):
            best.append(explanation)
    return [] if first.guess and len(best) == 1 else best


def _order(explanation: Explanation, problem: Problem) -> tuple[object, ...]:
    """Best first: what fills most, assumes least, and changes least of what was typed."""
    given = problem.rules or {}
    return (
        explanation.excused,
        -explanation.loaded,
        explanation.rank,
        not given.items() <= explanation.rules.items(),
        len(explanation.rules),
        len(" ".join(explanation.overrides)),
        explanation.overrides,
    )


def _equal(one: Explanation, first: Explanation) -> bool:
    """Whether nothing but taste decides between two; files keep averages beside weights, under keys of any form."""
    same = (one.excused, one.loaded) == (first.excused, first.loaded)
    return same and (one.rank == first.rank or (one.key != first.key and max(one.rank, first.rank) <= 1))


def _same_effect(one: Explanation, other: Explanation) -> bool:
    """Whether both fill the model with the same tensors, also where a file names them twice."""
    mine, theirs = one.verdict.sources, other.verdict.sources
    return mine.keys() == theirs.keys() and all(_same_tensor(mine[key], theirs[key]) for key in mine)


def _same_tensor(one: TensorEntry, other: TensorEntry) -> bool:
    return one is other or (one.storage is not None and one == other)
