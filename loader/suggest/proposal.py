"""What to type for a whole job, put together from the explanations of its parts.

Guarantees: allowances of several parts are joined, never replaced by one another; at most a few ways are proposed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..keys.written import globs_override
from ..schema import AllowConfig
from ..text.wording import safe_text
from .problem import Explanation

_MOST_PROPOSALS = 4
_LISTS = ("missing", "unexpected", "mismatched")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Overrides for a whole job, and what they lead to."""

    overrides: tuple[str, ...]
    """Not yet quoted for a shell."""
    reasons: tuple[str, ...]
    loaded: int
    wanted: int


def proposals(
    found: Sequence[tuple[str, Sequence[Explanation]]],
    allow: AllowConfig,
    others: tuple[int, int] = (0, 0),
    uncovered: Sequence[str] = (),
) -> list[Proposal]:
    """Joins one explanation of each part in every way; none where a part has none, or where there are too many ways.

    Args:
        found: The parts that do not fit: name, and explanations that are equally good.
        allow: The allowances that were given.
        others: How many keys the rest of the model loads, and how many it wants.
        uncovered: Globs of what belongs to no part.
    """
    names = [name for name, _ in found]
    ways = list(itertools.islice(itertools.product(*(e for _, e in found)), _MOST_PROPOSALS + 1))
    made = [
        Proposal(
            (*(o for e in way for o in e.overrides), *_allowances(way, allow, uncovered)),
            (*_reasons(names, way), *(f"{safe_text(glob)} belongs to no part" for glob in uncovered)),
            others[0] + sum(e.loaded for e in way),
            others[1] + sum(e.wanted for e in way),
        )
        for way in ways
    ]
    return [proposal for proposal in made if proposal.overrides] if len(ways) <= _MOST_PROPOSALS else []


def _allowances(way: Sequence[Explanation], allow: AllowConfig, uncovered: Sequence[str]) -> Iterator[str]:
    for name in _LISTS:
        given = getattr(allow, name)
        added = dict.fromkeys(glob for e in way for glob in getattr(e.allow, name) if glob not in given)
        added |= dict.fromkeys(uncovered if name == "missing" else ())
        if added:
            yield globs_override(f"allow.{name}", [*given, *added])


def _reasons(names: Sequence[str], way: Sequence[Explanation]) -> Iterator[str]:
    for name, explanation in zip(names, way, strict=True):
        for reason in explanation.reasons:
            yield f"{safe_text(name)}: {reason}" if name else reason
