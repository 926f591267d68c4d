"""Where the elements of a value end.

Guarantees: a value is cut where Hydra's sweepers would cut it, even one that Hydra's grammar refuses. Commas inside
quotes, literals and calls separate nothing.
"""

from __future__ import annotations

import re

FUNCTIONS = ("str", "int", "float", "bool", "choice", "range", "interval", "sort", "shuffle", "tag", "glob")
"""The functions of Hydra's grammar."""
_NAMES = "|".join(FUNCTIONS)
_FUNCTION = re.compile(rf"({_NAMES})\s*\(.*\)", re.DOTALL)
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|["](?:[^"\\]|\\.)*["]""", re.DOTALL)
"""Text in quotes, with escaped quotes in it."""
_OPENING = re.compile(rf"\s*(?:{QUOTED.pattern}|(?P<bracket>(?:({_NAMES})\s*\(|[\[{{])))", re.DOTALL)
_NAMED = re.compile(r"\s*\+{0,2}[A-Za-z_][\w.@/$-]*\s*=\s*", re.ASCII)
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def is_function(value: str) -> bool:
    """Returns whether a value calls one of Hydra's own functions, such as ``choice(a,b)``."""
    return _FUNCTION.fullmatch(value.strip()) is not None


def split_elements(value: str) -> list[str]:
    """Cuts a value at the commas that separate the values of a sweep.

    Commas inside quotes, literals and function calls, and escaped ones, do not separate values.
    """
    elements, start = [], 0
    while True:
        end = _element_end(value, start)
        elements.append(value[start:end])
        if end >= len(value):
            return elements
        start = end + 1


def split_arguments(text: str) -> list[str]:
    """Cuts the arguments of a call at their commas; ``NAME=[a,b]`` is one argument."""
    arguments, start = [], 0
    while start <= len(text):
        named = _NAMED.match(text, start)
        end = _element_end(text, start if named is None else named.end())
        arguments.append(text[start:end].strip())
        start = end + 1
    return [] if arguments == [""] else arguments


def items_of(text: str) -> list[str] | None:
    """Returns the items of a list as typed, without spaces around them; None if the text is not one list."""
    text = text.strip()
    if text[:1] != "[" or closing(text, 0) != len(text):
        return None
    items = [item.strip() for item in split_elements(text[1:-1])]
    return [] if items == [""] else items


def _element_end(value: str, start: int) -> int:
    """Returns the index of the comma that ends the element, or the length of the value."""
    opening = _OPENING.match(value, start)
    at = start if opening is None else opening.end()
    if opening and opening["bracket"]:
        at = closing(value, at - 1)
    while at < len(value) and value[at] != ",":
        at += 2 if value[at] == "\\" else 1
    return min(at, len(value))


def closing(value: str, at: int) -> int:
    """Returns the index after the bracket that closes the one at `at`; the index after `at` if none does."""
    expected, place = [_CLOSING[value[at]]], at + 1
    while place < len(value) and expected:
        text = QUOTED.match(value, place)
        if text:
            place = text.end()
            continue
        if value[place] == expected[-1]:
            expected.pop()
        elif value[place] in _CLOSING:
            expected.append(_CLOSING[value[place]])
        place += 2 if value[place] == "\\" else 1
    return at + 1 if expected else place
