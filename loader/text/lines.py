"""Lines to paste into a shell, and values to write into a config file.

Guarantees: every line is one printable line whose words reach the loader exactly as meant, through a POSIX shell,
Hydra's grammar and OmegaConf's interpolation; nothing in a name or value is expanded or run on the way. A path or value
that no command line can carry gives an empty text: no line is offered. Imports neither Hydra nor torch.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .wording import is_printable

_PATH = re.compile(r"[A-Za-z_$][\w$-]*(\.(?:[A-Za-z_$][\w$-]*|0|[1-9]\d*))*", re.ASCII)
"""A dotted path in Hydra's grammar."""

_PLAIN = re.compile(r"[A-Za-z_*?/][\w./*?:@+-]*", re.ASCII)
"""Text that means itself to Hydra without quotes, also inside a list or mapping."""

_PLAIN_KEY = re.compile(r"[A-Za-z_*?/][\w./*?-]*", re.ASCII)

_GLOB = re.compile(r"[\w./*?=@+-]+")
"""A pattern that ``glob()`` takes without quotes."""

_ACTING = re.compile(r"""[`$\\;&|<>!'"()*?\[\]{}]|(?:^|\s)[~=]""")
"""A note that contains one of these is not appended to a line: zsh at a prompt reads notes as further words."""

_KEYWORDS = frozenset({"null", "true", "false", "nan", "inf"})
_YAML_KEYWORDS = _KEYWORDS | {"yes", "no", "on", "off", "y", "n"}

MISSING = "???"
"""OmegaConf's mark for a required value that is not set, quoted or not."""

_LONGEST = 8_000
"""Nobody pastes a longer line."""


@dataclass(frozen=True, slots=True)
class Fix:
    """One way out of a refusal; false if there is nothing to offer."""

    line: str = ""
    """What to type, ready to paste."""
    note: str = ""
    """What the line does, or when it is right; without a line, what to do in words."""

    def __bool__(self) -> bool:
        return bool(self.line or self.note)

    def __str__(self) -> str:
        """Writes it on one line, ``line   # note``, that does the same when pasted whole."""
        if not self.line or not self.note:
            return self.line or self.note
        harmful = _ACTING.search(self.note) or not is_printable(self.note)
        return self.line if harmful else f"{self.line}   # {self.note}"


NO_FIX = Fix()
"""Nothing to offer."""


class Quoted(str):
    """Text that is quoted even where it needs no quotes, because it reads better: ``"module."``."""

    __slots__ = ()


class _CannotBeCarriedError(ValueError):
    """A value that no command line can carry."""


def program() -> str:
    """The words that start this program: as this process was started, or the installed command."""
    return shlex.join(["python", sys.argv[0]]) if sys.argv[0].endswith("run.py") else "hydra-loader"


def override(path: str, value: object, sign: str = "") -> str:
    """Writes ``path=value`` in Hydra's grammar, not yet quoted for a shell.

    Args:
        path: A dotted config path, as `under` builds it from arbitrary names.
        value: Plain data: null, booleans, numbers, text, and lists and mappings of these.
        sign: ``+`` or ``++``.

    Returns:
        The override; empty if a command line cannot carry the path or the value.
    """
    try:
        return f"{sign}{path}={_written_list(value)}" if _PATH.fullmatch(path) else ""
    except _CannotBeCarriedError:
        return ""


def removal(path: str) -> str:
    """Writes ``~path``, which removes a key; empty if the path cannot be typed."""
    return f"~{path}" if _PATH.fullmatch(path) else ""


def under(path: str, *names: object) -> str:
    """Returns the path of a key below another one; empty if a name cannot be a segment of a dotted path."""
    parts = [path, *map(str, names)] if path else list(map(str, names))
    dotted = ".".join(parts)
    return dotted if _PATH.fullmatch(dotted) and not any("." in name for name in map(str, names)) else ""


def for_shell(words: Iterable[str]) -> str:
    """Quotes words for a POSIX shell and joins them to one line, however long it is."""
    return shlex.join(words)


def typed(*words: str, note: str = "") -> Fix:
    """Quotes words for a shell and joins them to one line.

    Args:
        words: Overrides, flags and paths, each as the program should receive it.
        note: What the line does, or when it is right.

    Returns:
        The line; empty without words, or if one is empty or not printable.
    """
    line = for_shell(words)
    if not words or not all(words) or not is_printable(line) or len(line) > _LONGEST:
        return NO_FIX
    return Fix(line, note)


def together(fixes: Iterable[Fix], note: str = "") -> Fix:
    """Joins lines into one, to be typed at once; empty ones are left out."""
    return Fix(" ".join(fix.line for fix in fixes if fix.line), note)


def line(path: str, value: object, sign: str = "", *, note: str = "") -> Fix:
    """Writes one override as typed in a shell; empty if it cannot be typed."""
    return typed(override(path, value, sign), note=note)


def blank(path: str, sign: str = "", gap: str = "…", *, note: str = "") -> Fix:
    """Writes an override whose value is still to be chosen, ``+model.width=…``; empty if the path cannot be typed."""
    return Fix(f"{sign}{path}={gap}", note) if _PATH.fullmatch(path) else NO_FIX


def python_text(text: str) -> str:
    """Writes a Python string literal, always in single quotes, in which a shell would run nothing either.

    Empty if the text is not printable.
    """
    escaped = text.replace("\\", r"\\").replace("'", r"\x27")
    return f"'{escaped}'" if is_printable(text) else ""


def glob_line(path: str, pattern: str) -> Fix:
    """Writes a sweep over the files that a pattern matches: ``-m 'checkpoint.path=glob(runs/*.pt)'``."""
    quote = next((sign for sign in ("", '"', "'") if (sign not in pattern if sign else _GLOB.fullmatch(pattern))), None)
    return NO_FIX if quote is None else typed("-m", f"{path}=glob({quote}{pattern}{quote})")


def value_text(value: object) -> str:
    """Writes plain data in Hydra's grammar; empty if a command line cannot carry it."""
    try:
        return _written(value)
    except _CannotBeCarriedError:
        return ""


def quoted(text: str) -> str:
    """Writes any text in double quotes so that Hydra and OmegaConf pass it on unchanged."""
    return quoted_key(without_interpolation(text))


def quoted_key(key: str) -> str:
    """Writes a mapping's key in double quotes; interpolations have no meaning in keys."""
    # Hydra's grammar reads backslashes only before a quote.
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), key) + '"'


def is_plain_key(key: str) -> bool:
    """Returns whether Hydra's grammar reads a mapping's key, or an option's name, as this text without quotes."""
    return _PLAIN_KEY.fullmatch(key) is not None and key.lower() not in _KEYWORDS


def yaml_value(value: object) -> str:
    """Writes plain data on one line of YAML; OmegaConf reads back the same data, without interpolations."""
    return MISSING if value == MISSING else _yaml_written(value)


def _yaml_written(value: object) -> str:
    if isinstance(value, Mapping):
        # OmegaConf finds no interpolations in keys.
        return "{" + ", ".join(f"{_yaml_text(str(key))}: {_yaml_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml_written, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return {"inf": ".inf", "-inf": "-.inf"}.get(str(value), ".nan")
    return str(value) if isinstance(value, int | float) else _yaml_text(without_interpolation(str(value)))


def _yaml_text(text: str) -> str:
    if is_plain_key(text) and not set("*?") & set(text) and text.lower() not in _YAML_KEYWORDS:
        return text
    import yaml  # type: ignore[import-untyped]  # noqa: PLC0415  # few lines are YAML

    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9)).strip()


def without_interpolation(text: str) -> str:
    r"""Escapes ``${``, which starts an interpolation for OmegaConf unless a backslash precedes it."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)


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
    """Writes a flat list without spaces, as it is usually typed."""
    flat = isinstance(value, list | tuple) and not any(isinstance(item, Mapping | list | tuple) for item in value)
    return "[" + ",".join(map(_written, value)) + "]" if flat else _written(value)  # type: ignore[call-overload]


def _text(value: str) -> str:
    if value == MISSING or not is_printable(value):
        raise _CannotBeCarriedError(value)
    plain = _PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS and not isinstance(value, Quoted)
    return value if plain else quoted(value)


def _key(key: object) -> str:
    if type(key) is int:
        return str(key)
    if not isinstance(key, str) or not is_printable(key):
        raise _CannotBeCarriedError(key)
    return key if is_plain_key(key) else quoted_key(key)
