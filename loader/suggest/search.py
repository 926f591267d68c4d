"""Searches for nested keys and rules that make a file fit, and explains them.

Guarantees: bounded, whatever the file: a few nested keys, a few attempts with each, a few rounds, on a sample of the
keys if there are many. Deterministic: no result depends on a hash or on time. Explanations that are equally good are
all returned; none of them is preferred. An average of weights that nobody asked for is never the only one where the
file holds weights next to it, fitting or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..formats.tree import Container, TensorEntry
from ..keys.candidates import candidates, is_average
from ..schema import AUTO, Rule
from .alignment import alignment, renumbering
from .attempts import Attempt, ModelKeys, Source, Step
from .confirm import confirm
from .problem import NOT_THE_WEIGHTS, Explanation, Problem, asks_for_average, meant_key
from .steps import Generator, averages, norms, prefixes, wrappers
from .tensors import completed

# Those that look at all names, not only at the sample, come last, and only if the others leave something.
_QUICK: Sequence[Generator] = (norms, prefixes)
_THOROUGH: Sequence[Generator] = (renumbering,)
_MOST_SOURCES = 8
_BREADTH = 6
_ROUNDS = 5


def sources(root: Container, model: ModelKeys, typed: str | None = None) -> list[Source]:
    """Returns the nested keys whose shapes overlap with the model's, in the order of `candidates`.

    Args:
        root: The whole file.
        model: The model.
        typed: The nested key that was typed.
    """
    every = candidates(root, model.shapes.values(), typed)
    rest = [one for one in every if one.role != "optimizer"]  # rules may make the model's tensors of any others
    ranked = [one for one in every if one.fitting] or [one for one in every if one.holds_model] or rest
    enough = [found for found in ranked if 5 * found.fitting >= ranked[0].fitting]
    return [Source.of(found.key or None, found.container, model) for found in enough[:_MOST_SOURCES]]


def attempts(source: Source, model: ModelKeys, own: Mapping[str, Rule], *, averaged: bool = False) -> list[Attempt]:
    """Returns the attempts with one nested key that fill most of the model, best first.

    Args:
        source: The nested key.
        model: The model.
        own: The user's own rules.
        averaged: Whether an average was asked for, which may be next to weights that fit as they are.
    """
    start = Attempt.start(source, model, own)
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
    return [attempt for attempt in _distinct([*found, *aligned]) if attempt.filled][: 2 * _BREADTH]


def _better(beam: Sequence[Attempt], generators: Sequence[Generator]) -> list[Attempt]:
    """Returns the next attempts that fill more."""
    return [
        after
        for attempt in beam
        if not _finished(attempt)
        for generator in generators
        for after in _followed(attempt, generator(attempt))
        if len(after.filled) > len(attempt.filled)
    ]


def _finished(attempt: Attempt) -> bool:
    """Whether nothing is left to fill."""
    return len(attempt.filled) in (len(attempt.model.shapes), len(attempt.names))


def _followed(attempt: Attempt, steps: Iterable[Step]) -> Iterator[Attempt]:
    for step in steps:
        after = attempt.then(step)
        if after is not None:
            yield after


def _distinct(found: Iterable[Attempt]) -> list[Attempt]:
    """Sorts attempts, best first, and drops those with the same effect as a simpler one."""
    kept: dict[tuple[frozenset[tuple[str, str]], int], Attempt] = {}
    for attempt in sorted(found, key=_merit):
        left = len(attempt.names) - len(attempt.filled)
        kept.setdefault((frozenset(attempt.names.items()), left), attempt)
    return list(kept.values())


def _merit(attempt: Attempt) -> tuple[int, int, int, int]:
    rules = [rule for step in attempt.steps if not step.well_known for rule in step.rules]
    return (-len(attempt.filled), attempt.rank, attempt.guess, len(rules))


_MOST_JUDGED = 5
_MOST_STARTED = 6


@dataclass(frozen=True, slots=True)
class Candidate:
    """A nested key and the number of model keys that it can fill."""

    key: str | None
    loaded: int
    weights: bool = False
    """Whether weights that are not an average have the names and shapes of half of the model."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of a search."""

    explanations: tuple[Explanation, ...] = ()
    """The best ones: one, or several that are equally good, in the order of `loader.keys.candidates`."""
    candidates: tuple[Candidate, ...] = ()
    """Nested keys that fill something, the best first."""


@dataclass(slots=True)
class Searched:
    """Earlier results for one part, so that nothing is searched twice."""

    sources: Sequence[Source] | None = None
    found: dict[tuple[str | None, bool], tuple[Candidate | None, list[Explanation]]] = field(default_factory=dict)
    """Nested key, and whether rules may be added → what it can fill, and its explanations."""


def explain(
    problem: Problem, *, keys_free: bool = True, rules_free: bool = True, searched: Searched | None = None
) -> Findings:
    """Searches for ways to make a part's file fit.

    Args:
        problem: The part.
        keys_free: Whether a nested key other than the typed one may be used.
        rules_free: Whether rules may be added to the typed ones.
        searched: The results of earlier searches for the same part; this search adds its own.
    """
    known = searched or Searched()
    prefix = f"{problem.part}." if problem.part else ""
    model = ModelKeys.of({key.removeprefix(prefix): w.shape for key, w in problem.wanted.items() if w.kind != "extra"})
    if known.sources is None:
        known.sources = sources(problem.root, model, problem.key)
    usable = [source for source in known.sources if keys_free or source.key == problem.key]

    def searched_all(*, rules_free: bool) -> tuple[list[Candidate], list[Explanation]]:
        for source in usable:
            if (source.key, rules_free) not in known.found:
                known.found[source.key, rules_free] = _searched(problem, source, model, rules_free=rules_free)
        results = [known.found[source.key, rules_free] for source in usable]
        return [c for c, _ in results if c is not None], [e for _, explanations in results for e in explanations]

    candidates, found = searched_all(rules_free=rules_free)
    best = _best(found, problem)
    if best and all(e.average for e in best) and not (asks_for_average(problem) or is_average(problem.part)):
        # The weights may need rules that are not to be added.
        best = _with_the_weights(best, *searched_all(rules_free=True), problem)
    candidates.sort(key=lambda candidate: -candidate.loaded)
    places = [source.key for source in usable]
    best.sort(key=lambda explanation: places.index(explanation.key))
    return Findings(tuple(best), tuple(candidates))


def _searched(
    problem: Problem, source: Source, model: ModelKeys, *, rules_free: bool
) -> tuple[Candidate | None, list[Explanation]]:
    """Returns what one nested key can fill, and its explanations."""
    averaged = rules_free and asks_for_average(problem)
    found = _attempts(source, model, problem.rules or {}, rules_free=rules_free, averaged=averaged)
    possible = _promising(found)
    starts = _starts(source, model, problem.rules or {}, found) if rules_free else []
    whole = [after for attempt in starts for after in completed(problem, attempt)]
    judged = [e for attempt in (*possible, *whole) if (e := confirm(problem, attempt)) is not None]
    filled = round(len(possible[0].filled) * source.weight) if possible else 0
    weights = any(_may_be_weights(attempt) for attempt in possible)
    return Candidate(source.key, filled, weights) if possible else None, judged


def _starts(source: Source, model: ModelKeys, own: Mapping[str, Rule], found: Sequence[Attempt]) -> list[Attempt]:
    """Returns what rules for tensors may complete: the names without and with their wrappers, and the best attempts.

    A rename may fill a key with a tensor that only has its shape: the best attempts alone do not suffice.
    """
    start = Attempt.start(source, model, own)
    bare = [] if start is None else [start, *_followed(start, wrappers(start))]
    unlike: dict[frozenset[tuple[str, str]], Attempt] = {}
    for attempt in (*bare, *found):
        unlike.setdefault(frozenset(attempt.names.items()), attempt)
    return list(unlike.values())[:_MOST_STARTED]


def _attempts(
    source: Source, model: ModelKeys, own: Mapping[str, Rule], *, rules_free: bool, averaged: bool
) -> list[Attempt]:
    if not rules_free:
        start = Attempt.start(source, model, own)
        return [start] if start is not None and start.filled else []
    found = attempts(source, model, own, averaged=averaged)
    found += attempts(source, model, {}, averaged=averaged) if own else []
    return sorted(found, key=lambda attempt: -len(attempt.filled))


def _promising(found: Sequence[Attempt]) -> list[Attempt]:
    """Returns the attempts that are judged as they are."""
    # An attempt that fills much less than the best cannot catch up, but an average never hides the weights.
    best = [attempt for attempt in found if 10 * len(attempt.filled) >= 9 * len(found[0].filled)][:_MOST_JUDGED]
    hidden = next(filter(_may_be_weights, found), None) if all(attempt.average for attempt in best) else None
    return [*best, hidden] if hidden is not None else best


def _may_be_weights(attempt: Attempt) -> bool:
    """Whether it fills half of the model, and not with an average."""
    return not attempt.average and 2 * len(attempt.filled) >= len(attempt.model.shapes)


def _best(found: list[Explanation], problem: Problem) -> list[Explanation]:
    """Returns the best explanations; those that resize tensors come first, if all others need excuses."""
    best = _best_of([explanation for explanation in found if not explanation.resizes], problem)
    if best and not best[0].excused:
        return best
    return [*_best_of([explanation for explanation in found if explanation.resizes], problem), *best]


def _best_of(found: list[Explanation], problem: Problem) -> list[Explanation]:
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


def _with_the_weights(
    averages: list[Explanation], candidates: Sequence[Candidate], found: Sequence[Explanation], problem: Problem
) -> list[Explanation]:
    """Adds the best way to load the weights next to an average, and says which is which; nothing without weights."""
    if not any(candidate.weights for candidate in candidates):
        return averages
    marked = [
        e if e.swaps else dataclasses.replace(e, swaps=True, reasons=(*e.reasons, NOT_THE_WEIGHTS)) for e in averages
    ]
    ways = sorted((e for e in found if not e.average and not e.guess), key=lambda e: _order(e, problem))
    return [*ways[:1], *marked]


def _order(explanation: Explanation, problem: Problem) -> tuple[object, ...]:
    """Sorts the best first: fills most, assumes least, and changes least of what was typed."""
    own = problem.rules or {}
    return (
        explanation.excused,
        -explanation.loaded,
        explanation.rank,
        not own.items() <= explanation.rules.items(),
        len(explanation.rules),
        len(" ".join(explanation.overrides)),
        explanation.overrides,
    )


def _equal(one: Explanation, first: Explanation) -> bool:
    """Whether two are equally good; files keep averages next to weights, under keys of any form."""
    same = (one.excused, one.loaded) == (first.excused, first.loaded)
    return same and (one.rank == first.rank or (one.key != first.key and max(one.rank, first.rank) <= 1))


def _same_effect(one: Explanation, other: Explanation) -> bool:
    """Whether both fill the model with the same tensors, even if the file names them twice."""
    mine, theirs = one.verdict.sources, other.verdict.sources
    return mine.keys() == theirs.keys() and all(_same_tensor(mine[key], theirs[key]) for key in mine)


def _same_tensor(one: TensorEntry, other: TensorEntry) -> bool:
    known = one.storage is not None or bool(one.pieces) or one.formula is not None
    return one is other or (known and one == other)
