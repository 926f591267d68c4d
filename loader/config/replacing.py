"""Which values replace what was there before, in the files or on the command line.

Guarantees: pure functions of what was typed; an override that a later one replaces takes no part in the config.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

CLEARED = {"model": ("model", "verify.input"), "checkpoint": ("checkpoint",), "rules": ("rules",)}
"""Groups that a literal replaces, with what has to be forgotten: an input belongs to the model it was written for."""

_Match = tuple[re.Match[str] | None, str]
"""An override with its sign, key and value; None where it has another form."""


def standing(matches: Sequence[_Match]) -> Sequence[_Match]:
    """Leaves out what a later override replaces: the literal for a group, and of the rules each that came before."""
    last = {match[2]: at for at, (match, _) in enumerate(matches) if match and _replaces(match)}
    return [
        (match, override)
        for at, (match, override) in enumerate(matches)
        if not any(at < end and _is_replaced(match, override, key) for key, end in last.items())
    ]


def _replaces(match: re.Match[str]) -> bool:
    # `+rules={...}` adds rules, where `+rules=[ddp]` is one more way to choose options.
    return match[2] in CLEARED and not (match[1] and is_literal(match[3], match[2]))


def _is_replaced(match: re.Match[str] | None, override: str, key: str) -> bool:
    typed_key = match[2] if match else override.removeprefix("~").partition("=")[0]
    return typed_key == key or (key == "rules" and typed_key.startswith("rules."))


def forgotten(key: str, value: str) -> Sequence[str]:
    """Names the nodes that are forgotten where a group is given a literal."""
    # model=null takes the model out of the file: the input that was declared for it stays right.
    return (key,) if is_null(value) else CLEARED[key]


def is_literal(element: str, key: str) -> bool:
    """Says whether a value of a group is given in full, rather than chosen from its options."""
    # rules=[ddp,compile] chooses options of the group; the other groups take one option.
    return element.lstrip()[:1] == "{" or (is_null(element) and key in CLEARED)


def is_null(value: str) -> bool:
    """Says whether a value is null."""
    return value.strip().lower() == "null"
