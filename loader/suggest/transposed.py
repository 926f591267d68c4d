"""Weights that lie transposed in a file, and those of which their shape does not tell it.

Guarantees: pure functions of names and shapes; a square weight is in doubt only where the nearest module around it that
has weights of two sizes has transposed ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..keys.plan import Plan, Wanted
from ..text.wording import listing, safe_text
from .grouping import group
from .names import segments
from .target import Shape

_MOST_NAMED = 4


def turned(model: Shape, file: Shape) -> bool:
    """Whether one shape is the other transposed, as a matrix or as the kernel of a convolution."""
    return model != file and len(model) > 1 and file in _transposes(model)


def _transposes(shape: Shape) -> tuple[Shape, ...]:
    return shape[::-1], (shape[1], shape[0], *shape[2:])


def transposed(plan: Plan, wanted: Mapping[str, Wanted]) -> list[str]:
    """What a refusal says of weights that lie transposed in the file."""
    keys = [mismatch.key for mismatch in plan.mismatched if turned(mismatch.model, mismatch.checkpoint)]
    if not keys:
        return []
    doubt = in_doubt(plan, wanted)
    return [f"transposed in the file, and no rule turns them: {listing(keys)}", *([doubt] if doubt else [])]


def in_doubt(plan: Plan, wanted: Mapping[str, Wanted], dropped: Mapping[str, Shape] | None = None) -> str:
    """Names the square weights that are loaded as they are next to transposed ones; empty where there are none.

    Args:
        plan: What is done.
        wanted: The model's keys.
        dropped: The shapes of tensors that rules dropped, by full model key.
    """
    left_out = {key: shape for key, shape in (dropped or {}).items() if key in wanted}
    pairs = [(m.key, m.model, m.checkpoint) for m in plan.mismatched]
    pairs += [(key, wanted[key].shape or (), shape) for key, shape in left_out.items()]
    crossed = {key: mine for key, mine, theirs in pairs if turned(mine, theirs)}
    if not crossed:
        return ""
    ranks = set(map(len, crossed.values()))
    taken = {match.key: match.taken.shape for match in plan.matches if wanted[match.key].kind == "parameter"}
    loaded = {key: shape for key, shape in taken.items() if len(shape) in ranks}
    straight = [key for key, shape in loaded.items() if not _is_square(shape)]
    squares = [key for key, shape in loaded.items() if _is_square(shape)]
    doubted = dict.fromkeys(_next_to(squares, crossed, straight))
    if not doubted:
        return ""
    patterns = [safe_text(found.pattern, 100) for found in group(doubted, star=False)]
    named = ", ".join(patterns[:_MOST_NAMED]) + (", …" if len(patterns) > _MOST_NAMED else "")
    return f"square next to transposed ones, so that nothing says whether they are transposed too: {named}"


def _is_square(shape: Shape) -> bool:
    return shape in _transposes(shape) and max(shape[:2]) > 1


def _next_to(squares: Iterable[str], crossed: Iterable[str], straight: Iterable[str]) -> Iterator[str]:
    """Those whose nearest module with weights of two sizes has transposed ones."""
    around_crossed, around_straight = _modules(crossed), _modules(straight)
    for key in squares:
        path = segments(key)
        around = (path[:at] for at in range(len(path) - 1, -1, -1))
        nearest = next((m for m in around if m in around_crossed or m in around_straight), None)
        if nearest in around_crossed:
            yield key


def _modules(keys: Iterable[str]) -> set[tuple[str, ...]]:
    return {path[:at] for path in map(segments, keys) for at in range(len(path))}
