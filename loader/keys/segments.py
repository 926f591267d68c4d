"""Keys as segments, and the numbers among them.

Guarantees: pure functions; segments beyond a fixed depth stay together, so that no key costs more than its length.
Numbers are written exactly as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

Path = tuple[str, ...]
"""Segments of a key, or of a pattern."""

DEEPEST = 24
"""How often a key is split at most."""
_MOST_DIGITS = 6


def segments(key: str) -> Path:
    """Splits a key into its segments."""
    return tuple(key.split(".", DEEPEST))


def is_number(segment: str) -> bool:
    """Whether a segment is an index among siblings."""
    return segment.isdigit() and segment.isascii() and len(segment) <= _MOST_DIGITS


def ranges(numbers: Sequence[int]) -> str:
    """Writes numbers exactly: ``{0,2..5}``; a single number without braces."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    written = [str(run[0]) if len(run) == 1 else f"{run[0]}{',' if len(run) == 2 else '..'}{run[-1]}" for run in runs]
    return written[0] if len(numbers) == 1 else "{" + ",".join(written) + "}"
