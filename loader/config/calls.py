"""Calls in the values of a sweep that are mistyped.

Guarantees: a name that resembles a function's, and a call without its closing bracket, are refused with the line that
has them right. A value that is the name of a file is left alone by the caller.
"""

from __future__ import annotations

import re

from ..errors import ConfigError
from ..text.lines import typed
from ..text.wording import closest, safe_text
from .elements import FUNCTIONS, closing, split_elements

_LONGEST = 400
_CALL = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*\(", re.ASCII)
_KNOWN = (*FUNCTIONS, "zip")
_OPENED = ("choice", "range", "glob", "zip", "interval", "shuffle", "sort")
"""Functions that a value beginning with their name and a bracket is meant to call."""


def refuse_mistyped_calls(key: str, value: str) -> None:
    """Raises ConfigError if one of a key's values is a call of a function whose name or brackets are mistyped.

    Args:
        key: The config key, for the refusal.
        value: The text after ``=``.
    """
    start = 0
    for element in split_elements(value):
        call = _CALL.match(value, start)
        if call is not None:
            _check(key, value, call)
        start += len(element) + 1


def _check(key: str, value: str, call: re.Match[str]) -> None:
    name, shown = call["name"], safe_text(f"{key}={value}", _LONGEST)
    end = closing(value, call.end() - 1)
    if end == call.end():
        if name in _OPENED and not value.rstrip().endswith(")"):
            raise ConfigError(f"'{shown}' does not close the bracket of {name}(", typed(f"{key}={value.rstrip()})"))
        return
    near = closest(name, _KNOWN, most=1)
    if name not in _KNOWN and near and value[end:].lstrip()[:1] in ("", ","):
        right = f"{key}={value[: call.start('name')]}{near[0]}{value[call.end('name') :]}"
        raise ConfigError(f"'{name}' is not a function (did you mean '{near[0]}'?): '{shown}'", typed(right))
