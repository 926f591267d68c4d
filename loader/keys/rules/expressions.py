r"""The expressions of rules that give keys new names: patterns and replacements of `re.sub`, and ``{}`` for a number.

Guarantees: what cannot work is a ValueError with the reason, whatever keys there are.
"""

from __future__ import annotations

import functools
import re

from ...text.wording import safe_text

NUMBER = "{}"
"""Stands for an index in a new name."""

_BROKEN = (re.error, IndexError, OverflowError, RecursionError)
_REFERENCE = re.compile(r"\\(?:g<(\w+)>|([1-9]\d?)|.)", re.DOTALL)


@functools.lru_cache(maxsize=512)
def expression(pattern: str) -> re.Pattern[str]:
    """Compiles a regular expression; raises ValueError."""
    if not pattern:
        raise ValueError("a regular expression is empty, expected a part of a key")
    try:
        return re.compile(pattern)
    except _BROKEN as error:
        raise ValueError(f"the regular expression {safe_text(pattern)!r} does not work: {safe_text(error)}") from error


def check_replacement(pattern: re.Pattern[str], to: str, setting: str) -> None:
    """Raises ValueError if a replacement does not work with an expression."""
    try:
        pattern.sub(to, "")
    except _BROKEN as error:
        raise ValueError(
            f"the regular expression {safe_text(pattern.pattern)!r} with {setting}: {safe_text(to)!r} does not work: "
            f"{safe_text(error)}"
        ) from error


def check_numbered(pattern: re.Pattern[str], to: str, setting: str) -> None:
    """Raises ValueError if a replacement has no place for a number."""
    if NUMBER not in to:
        raise ValueError(
            f"'{setting}' is {safe_text(to)!r}, expected a list of names, or one with {NUMBER} where the number belongs"
        )
    for piece in to.split(NUMBER):
        check_replacement(pattern, piece, setting)


def numbered(pattern: re.Pattern[str], to: str, number: int, name: str) -> str:
    """Returns a name after the substitution, with the number at its place."""
    pieces = to.split(NUMBER)
    return pattern.sub(lambda found: str(number).join(map(found.expand, pieces)), name)


def referred(pattern: re.Pattern[str], to: str) -> set[int]:
    """Returns the numbers of the groups that a replacement uses."""
    found = (name or number for name, number in _REFERENCE.findall(to))
    return {int(one) if one.isdigit() else pattern.groupindex[one] for one in found if one}
