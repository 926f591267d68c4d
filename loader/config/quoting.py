"""Text, as Hydra's override grammar wants it written.

Guarantees: `quote` round-trips any text through Hydra's parser and OmegaConf's interpolation; `split_elements` cuts a
value where Hydra's sweepers would, also a value that Hydra's grammar refuses; nothing here reads a file.
"""

from __future__ import annotations

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

_PARSER = OverridesParser.create()

_NAMES = "str|int|float|bool|choice|range|interval|sort|shuffle|tag|glob"
_FUNCTION = re.compile(rf"({_NAMES})\s*\(.*\)", re.DOTALL)
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|["](?:[^"\\]|\\.)*["]""", re.DOTALL)
_OPENING = re.compile(rf"\s*(?:{_QUOTED.pattern}|(?P<bracket>(?:({_NAMES})\s*\(|[\[{{])))", re.DOTALL)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class Refused:
    """What `parse_value` returns for a value that Hydra's grammar refuses."""


def parse_value(value: str) -> Any:
    """Returns what Hydra's grammar makes of the text after ``=``; `Refused` where it makes nothing of it."""
    try:
        return _PARSER.parse_override(f"key={value}")._value  # noqa: SLF001  # value() would hide what was quoted
    except HydraException:
        return Refused


def is_function(value: str) -> bool:
    """Says whether a value calls one of Hydra's own functions, such as ``choice(a,b)``."""
    return _FUNCTION.fullmatch(value.strip()) is not None


def split_elements(value: str) -> list[str]:
    """Cuts a value at the commas that separate the values of a sweep.

    A comma inside quotes, or inside the brackets of a literal or a function call, separates nothing; nor does an
    escaped one.
    """
    elements, start = [], 0
    while True:
        end = _element_end(value, start)
        elements.append(value[start:end])
        if end >= len(value):
            return elements
        start = end + 1


def _element_end(value: str, start: int) -> int:
    """Returns the place of the comma that ends the element, or the length of the value."""
    opening = _OPENING.match(value, start)
    at = start if opening is None else opening.end()
    if opening and opening["bracket"]:
        at = closing(value, at - 1)
    while at < len(value) and value[at] != ",":
        at += 2 if value[at] == "\\" else 1
    return min(at, len(value))


def closing(value: str, at: int) -> int:
    """Returns the place after the bracket that closes the one at `at`; after `at` itself where none does."""
    expected, place = [_CLOSING[value[at]]], at + 1
    while place < len(value) and expected:
        quoted = _QUOTED.match(value, place)
        if quoted:
            place = quoted.end()
            continue
        if value[place] == expected[-1]:
            expected.pop()
        elif value[place] in _CLOSING:
            expected.append(_CLOSING[value[place]])
        place += 2 if value[place] == "\\" else 1
    return at + 1 if expected else place
