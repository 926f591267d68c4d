"""Explains why a file does not fit, and what would make it fit.

Guarantees: pure and deterministic; explanations that are equally good are all returned, and none of them is preferred.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..formats.tree import TensorEntry
from ..schema import AUTO, RuleConfig
from .conclude import conclude
from .draft import Draft, Source
from .meant import asks_for_average, meant_key
from .problem import Explanation, Problem
from .search import drafts, sources
from .target import Target

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
