"""Proposes rules that change tensors: what one side has fused, stacked, transposed, normed or in another size.

Guarantees: pure functions of names and shapes; a few passes over all names, whatever the file; deterministic. An
attempt is completed, never changed: what it fills stays as it is. Where shapes leave several readings, all are
returned; none of these is certain.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from ...errors import LoaderError
from ...formats.tree import TensorEntry
from ...keys.rules import Rewritten, rule_of
from ...keys.rules.merge import Merge
from ...keys.rules.split import Split
from ..attempts import Attempt, Step
from ..problem import Problem, patient, rewritten
from . import fused, normed, sizes, stacked, transposed
from .held import Held, Joint
from .proposed import Proposed

_Proposer = Callable[[Held], Iterator[Proposed]]

_MOVES: Sequence[_Proposer] = (normed.unnormed, stacked.stack, stacked.unstack, fused.split, fused.merge)
"""Each leaves one reading of the names; all that it proposes is taken together."""
_READINGS: Sequence[_Proposer] = (transposed.turned, sizes.resized)
"""Each proposes alternatives."""
_MOST_COMPLETED = 6


def completed(problem: Problem, attempt: Attempt) -> list[Attempt]:
    """Returns an attempt with rules for the tensors that it leaves open; none if nothing is to be proposed."""
    moved, held = attempt, _held(problem, attempt)
    for propose in _MOVES:
        found = list(propose(held)) if held is not None else []
        following = moved.then(_step(found)) if found else None
        if following is not None:
            moved, held = following, _held(problem, following)
    ways = [(moved, held)]
    for propose in _READINGS:
        ways = [after for way in ways for after in _read(problem, *way, propose)]
    return [way for way, _ in ways[:_MOST_COMPLETED] if way is not attempt]


def _read(
    problem: Problem, attempt: Attempt, held: Held | None, propose: _Proposer
) -> list[tuple[Attempt, Held | None]]:
    """Returns an attempt with each alternative; the attempt itself if there is none."""
    found = itertools.islice(propose(held), _MOST_COMPLETED) if held is not None else ()
    ways = [attempt.then(_step([one])) for one in found]
    return [(way, _held(problem, way)) for way in ways if way is not None] or [(attempt, held)]


def _held(problem: Problem, attempt: Attempt) -> Held | None:
    """Returns both sides after the rules of an attempt; None if the rules do not fit, or nothing is left open."""
    try:
        made = rewritten(problem, attempt.source.container, patient(attempt.rules)).made
    except LoaderError:
        return None
    tensors = {name: one.entry for name, one in made.items() if isinstance(one.entry, TensorEntry)}
    prefix = problem.full("")
    ties = {key.removeprefix(prefix): want.first.removeprefix(prefix) for key, want in problem.wanted.items()}
    floats = ("float", "bfloat", "complex")
    whole = {name for name, entry in tensors.items() if not entry.dtype.startswith(floats)}
    joints = {name: joint for name in tensors if (joint := _joint(attempt, made[name])) is not None}
    held = Held({name: entry.shape for name, entry in tensors.items()}, attempt.model, ties, whole, joints)
    return held if (held.missing and held.extra) or held.crossed or joints else None


def _joint(attempt: Attempt, made: Rewritten) -> Joint | None:
    """Returns how the last rule that changed a tensor has joined or cut it; None if it did neither."""
    rule, entry = attempt.rules[made.rules[-1]] if made.rules else None, made.entry
    match rule:
        case Merge(merge=list() as patterns, by=None, groups=1, dim=dim) if isinstance(entry, TensorEntry):
            piece = (*entry.shape[:dim], entry.shape[dim] // len(patterns), *entry.shape[dim + 1 :])
            ends = {attempt.source.shapes[source][-2:] for source in made.sources}
            return Joint(dim, piece if ends == {piece[-2:]} else (), len(patterns), merged=True)
        case Split(into=list() as names, sizes=sizes, groups=1, dim=dim) if isinstance(entry, TensorEntry):
            alike = sizes is not None and len(set(sizes)) == 1
            return Joint(dim, entry.shape if alike else (), len(names), merged=False)
    return None


def _step(found: Sequence[Proposed]) -> Step:
    rules = [settings for one in found for settings in one.rules]
    return Step(
        tuple(map(rule_of, rules)),
        "; ".join(one.reason for one in found),
        rank=1,
        doubt=not all(one.certain for one in found),
        resizes=any(one.resizes for one in found),
        allowed=tuple(dict.fromkeys(glob for one in found for glob in one.allowed)),
    )
