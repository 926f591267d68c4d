"""Lines to paste into a shell.

Guarantees: every line is one printable line whose words reach the loader exactly as they were meant, through a POSIX
shell, Hydra's grammar and OmegaConf's interpolation; nothing in a name or value is expanded or run on the way. Where a
path or value cannot be carried so, the result is empty: there is no line to offer. Imports neither Hydra nor torch.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from .wording import is_printable

_PATH = re.compile(r"[A-Za-z_$][\w$-]*(\.(?:[A-Za-z_$][\w$-]*|0|[1-9]\d*))*", re.ASCII)
"""A dotted path in Hydra's grammar."""

_PLAIN = re.compile(r"[A-Za-z_*?/][\w./*?:@+-]*", re.ASCII)
"""Text that means itself to Hydra without quotes, also inside a list or mapping."""

_PLAIN_KEY = re.compile(r"[A-Za-z_*?/][\w./*?-]*", re.ASCII)

_GLOB = re.compile(r"[\w./*?=@+-]+")
"""A pattern that stands between the brackets of ``glob()`` without quotes."""

_ACTING = re.compile(r"[`$\\;&|<>!]")
"""A note that holds one of these is not written behind a line."""

_KEYWORDS = frozenset({"null", "true", "false", "nan", "inf"})

_MISSING = "???"
"""What OmegaConf takes for a value that is missing, quoted or not."""

_LONGEST = 8_000
"""Nobody pastes a longer line."""


class Quoted(str):
    """Text that reads better between quotes, also where it needs none: ``"module."``."""

    __slots__ = ()


class _CannotBeCarriedError(ValueError):
    """A value that no command line carries."""


def override(path: str, value: object, sign: str = "") -> str:
    """Writes ``path=value`` in Hydra's grammar; not yet quoted for a shell.

    Args:
        path: A dotted path of the config, as `under` makes it from names that may be anything.
        value: Plain data: null, truth values, numbers, text, and lists and mappings of these.
        sign: ``+`` or ``++``.

    Returns:
        The override; empty where the path or the value cannot be carried by a command line.
    """
    try:
        return f"{sign}{path}={_written_list(value)}" if _PATH.fullmatch(path) else ""
    except _CannotBeCarriedError:
        return ""


def removal(path: str) -> str:
    """Writes ``~path``, which takes a key away; empty where the path cannot be typed."""
    return f"~{path}" if _PATH.fullmatch(path) else ""


def under(path: str, *names: object) -> str:
    """Returns the path of a key below another one; empty where a name cannot be a part of a dotted path."""
    parts = [path, *map(str, names)] if path else list(map(str, names))
    whole = ".".join(parts)
    return whole if _PATH.fullmatch(whole) and not any("." in name for name in map(str, names)) else ""


def typed(*words: str, note: str = "") -> str:
    """Quotes words for a shell, and joins them to one line.

    Args:
        words: Overrides, flags and paths, each as the program is to receive it.
        note: A comment behind the line, of the loader's own words.

    Returns:
        The line; empty where there is no word, or where one is empty or not printable.
    """
    line = shlex.join(words)
    if not words or not all(words) or not is_printable(line) or len(line) > _LONGEST:
        return ""
    return f"{line}   # {note}" if note else line


def line(path: str, value: object, sign: str = "", *, note: str = "") -> str:
    """Writes one override as typed in a shell; empty where it cannot be typed."""
    return typed(override(path, value, sign), note=note)


def blank(path: str, sign: str = "", gap: str = "…", *, note: str = "") -> str:
    """Writes an override whose value is still to be chosen, ``+model.width=…``; empty where the path cannot be typed.

    The note may quote a file: it is left out where a shell that takes no comments would act on it.
    """
    behind = f"   # {note}" if note and not _ACTING.search(note) and is_printable(note) else ""
    return f"{typed(f'{sign}{path}=')}{gap}{behind}" if _PATH.fullmatch(path) else ""


def python_text(text: str) -> str:
    """Writes a text as Python does, between single quotes always: a shell runs nothing in these, if it is pasted there.

    Empty where it is not printable.
    """
    escaped = text.replace("\\", r"\\").replace("'", r"\x27")
    return f"'{escaped}'" if is_printable(text) else ""


def glob_line(path: str, pattern: str) -> str:
    """Writes the sweep over the files that a pattern finds: ``-m 'checkpoint.path=glob(runs/*.pt)'``."""
    quote = next((sign for sign in ("", '"', "'") if (sign not in pattern if sign else _GLOB.fullmatch(pattern))), None)
    return "" if quote is None else typed("-m", f"{path}=glob({quote}{pattern}{quote})")


def value_text(value: object) -> str:
    """Writes plain data in Hydra's grammar; empty where it cannot be carried."""
    try:
        return _written(value)
    except _CannotBeCarriedError:
        return ""


def quoted(text: str) -> str:
    """Writes a text between double quotes so that Hydra and OmegaConf hand it on unchanged."""
    # Two readers: OmegaConf takes `${` for an interpolation unless a backslash stands before it, and Hydra's grammar
    # reads backslashes only before a quote.
    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    escaped = re.sub(r'(\\*)(")', lambda found: found[1] * 2 + r"\"", escaped)
    return '"' + re.sub(r"(\\+)$", lambda found: found[1] * 2, escaped) + '"'


def is_plain_key(key: str) -> bool:
    """Says whether Hydra's grammar takes a mapping's key as this text without quotes."""
    return _PLAIN_KEY.fullmatch(key) is not None and key.lower() not in _KEYWORDS


def _written(value: object) -> str:
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if type(value) in (int, float):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return "[" + ", ".join(map(_written, value)) + "]"
    raise _CannotBeCarriedError(value)


def _written_list(value: object) -> str:
    """Writes a list of names or numbers without spaces, as it is usually typed."""
    flat = isinstance(value, list | tuple) and not any(isinstance(item, Mapping | list | tuple) for item in value)
    return "[" + ",".join(map(_written, value)) + "]" if flat else _written(value)  # type: ignore[call-overload]


def _text(value: str) -> str:
    if value == _MISSING or not is_printable(value):
        raise _CannotBeCarriedError(value)
    plain = _PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS and not isinstance(value, Quoted)
    return value if plain else quoted(value)


def _key(key: object) -> str:
    if type(key) is int:
        return str(key)
    if not isinstance(key, str) or not is_printable(key):
        raise _CannotBeCarriedError(key)
    if is_plain_key(key):
        return key
    return '"' + re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), key) + '"'
