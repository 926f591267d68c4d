"""Values that are always text, such as the names of files.

Guarantees: a value means the text that was typed, whatever Hydra's grammar would make of it, unless it is in that
grammar on purpose (quotes, ``choice(...)``, an interpolation). ``glob(...)`` for a file becomes the files, also as an
item of a list of files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hydra.core.override_parser.types import QuotedString, Sweep

from ..errors import ConfigError
from ..text.lines import quoted, typed
from ..text.wording import counted, listing, safe_text
from .calls import refuse_mistyped_calls
from .elements import is_function, items_of, split_elements
from .globs import expand_glob, is_glob
from .grammar import Refused, parse_value

_ADAPTER = r"(parts\.[^.]+\.)?adapters\.[^.]+"
FILES = re.compile(
    r"(checkpoint|compare|parts\.[^.]+|verify\.input(\.[^.]+)*|replay)\.path|verify\.golden"
    rf"|{_ADAPTER}\.(path|minus)"
)
"""Values that name files to read, so that glob(...) finds them."""

TEXT = re.compile(
    r"(checkpoint|compare|parts\.[^.]+)\.(path|key|sha256)|verify\.(golden|fingerprint)|(convert|scaffold|replay)\.path"
    r"|verify\.input\.([^.]+\.)*path|sweep\.resume"
    rf"|{_ADAPTER}\.(path|minus|key)"
    rf"|((parts\.[^.]+|compare|{_ADAPTER})\.)?rules\.[^.]+\.(strip|add|rename|regex|drop|keep|to)"
)
"""Values that are always text: `1e5` is not a number here, and `=` needs no quotes."""

LISTS = re.compile(r"(checkpoint|compare|parts\.[^.]+)\.(path|sha256)")
"""Values that may be a list of texts."""

_LONGEST = 400


def for_text(key: str, value: str, *, sweep: bool, exists: Callable[[str], bool]) -> str:
    """Writes the value of a key that is always text for Hydra.

    Args:
        key: A key that `TEXT` matches.
        value: The value as typed.
        sweep: Whether an unquoted comma separates values.
        exists: Returns whether a file of that name exists.

    Raises:
        ConfigError: A single run has several values; or a glob is without a match.
    """
    names_file = key.endswith(("path", "golden", "resume"))
    is_there = exists if names_file else set().__contains__
    parts = split_elements(value)
    if LISTS.fullmatch(key) and any(_is_list(one, is_there) for one in (parts if sweep else [value])):
        elements = parts if sweep else [value]
        return ",".join(_each_element(key, element.strip(), is_there) for element in elements)
    if FILES.fullmatch(key) and any(map(is_glob, parts)):
        return _expanded(key, value, parts, is_there, sweep=sweep)
    if names_file and not any(map(is_there, (value, *map(str.strip, parts)))):
        refuse_mistyped_calls(key, value)
    if len(parts) > 1 and not sweep and not is_there(value):
        if parse_value(value) is not Refused:
            return value  # Hydra refuses it, and `messages` explains that several values need -m
        if all(is_there(part.strip()) for part in parts):
            fix = typed("-m", f"{key}={value}", note="one job for each")
            raise ConfigError(
                f"'{safe_text(f'{key}={value}', _LONGEST)}' has several values, but a single run accepts one", fix
            )
    # Hydra ignores spaces next to the comma that separates values.
    elements = [part.strip() for part in parts] if sweep else [value]
    return ",".join(_text_element(element, is_there, escapes=names_file) for element in elements)


def _is_list(element: str, exists: Callable[[str], bool]) -> bool:
    """Returns whether a value is ``[…]`` and not the name of a file."""
    return items_of(element) is not None and not exists(element.strip())


def _each_element(key: str, element: str, exists: Callable[[str], bool]) -> str:
    """Writes one value of a key that takes lists; a ``glob(...)`` in a list stands for all of its files."""
    if not _is_list(element, exists):
        return for_text(key, element, sweep=False, exists=exists)
    found: list[str] = []
    for item in items_of(element) or []:
        if is_glob(item) and FILES.fullmatch(key):
            found += map(quoted, expand_glob(key, item))
        else:
            if not exists(item):
                refuse_mistyped_calls(key, item)
            found.append(_text_element(item, exists, escapes=True))
    return f"[{','.join(found)}]"


def _expanded(key: str, value: str, elements: list[str], exists: Callable[[str], bool], *, sweep: bool) -> str:
    found: list[tuple[str, str]] = []
    for element in map(str.strip, elements):
        files = [(path, quoted(path)) for path in expand_glob(key, element)] if is_glob(element) else []
        found += files or [(element, _text_element(element, exists, escapes=True))]
    if len(found) > 1 and not sweep:
        files_found = listing([path for path, _ in found])
        raise ConfigError(
            f"'{key}={value}' matches {counted(len(found), 'file')} ({files_found}); a single run accepts one",
            typed("-m", f"{key}={value}", note="one job for each"),
        )
    return ",".join(written for _, written in found)


def _text_element(element: str, exists: Callable[[str], bool], *, escapes: bool) -> str:
    """Quotes one value if Hydra would refuse or change it."""
    parsed = parse_value(element)
    if parsed is Refused:
        return quoted(element)
    if parsed is None:
        return element
    unchanged = isinstance(parsed, str) and parsed == element and "${" not in element
    if unchanged or (not exists(element) and _is_meant_for_hydra(element, parsed, escapes=escapes)):
        return element
    return quoted(element)


def _is_meant_for_hydra(element: str, parsed: Any, *, escapes: bool) -> bool:
    """Returns whether a value is in Hydra's grammar on purpose."""
    if isinstance(parsed, (QuotedString, Sweep)) or is_function(element):
        return True
    # In a regular expression, a backslash belongs to the expression.
    return isinstance(parsed, str) and ("${" in element or (escapes and "\\" in element))
