"""Hydra's override grammar: reading values, and lists and mappings whose keys it cannot write.

Guarantees: in lists and mappings, values keep Hydra's meaning whatever their keys look like, and a quoted key is that
text. A key that Hydra cannot write passes through it under a placeholder and is restored in the config. A scalar that
the grammar refuses is text; unclosed brackets and quotes are left for Hydra to refuse. The one private part of Hydra
used here, `Override._convert_value`, is wrapped at the end.
"""

from __future__ import annotations

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from ..errors import ConfigError
from ..text.lines import is_plain_key, line, quoted, quoted_key
from ..text.wording import safe_text
from .elements import QUOTED, closing

_PARSER = OverridesParser.create()


class Refused:
    """What `parse_value` returns for a value that Hydra's grammar refuses."""


def parse_value(value: str) -> Any:
    """Parses the text after ``=`` by Hydra's grammar; `Refused` if it is not in it."""
    try:
        return _PARSER.parse_override(f"key={value}")._value  # noqa: SLF001  # value() would hide the quotes
    except HydraException:
        return Refused


_STAND_IN = re.compile(r"_quoted_((?:[0-9a-f]{2})*)_")
"""The placeholder for a key: its UTF-8 bytes as hexadecimal digits."""

_KEY_END = re.compile(r"""(?<!\\):(?=[\s"'\[{]|$)""")
_SPACED = re.compile(r"(?<!\\):\s")
_ANOTHER = re.compile(r"(?<!\\):(?!/)")
"""A colon outside a URL."""
_CLOSED = re.compile(rf"{QUOTED.pattern}|\$\{{[^}}]*\}}", re.DOTALL)
"""Quoted text and interpolations, whose colons separate nothing."""
_LONGEST = 400


class _MalformedError(ValueError):
    """Text that is not a list or mapping."""


def literal(value: str, key: str = "KEY") -> str:
    """Rewrites a list or mapping into Hydra's grammar.

    Args:
        value: The text after ``=``.
        key: The config key, for a refusal.

    Returns:
        The value for Hydra; unchanged if it means the same to Hydra, or if it is malformed.

    Raises:
        ConfigError: A mapping can be read in two ways.
    """
    text = value.strip()
    if text[:1] not in ("{", "["):
        return value
    try:
        reader = _Reader(text, key)
        written = reader.element()
        return written if reader.changed and reader.at_end() else value
    except _MalformedError:
        return value


def stand_in(key: str, *, dotted: bool = False) -> str:
    """Returns the name under which a key passes through Hydra's grammar: the key itself if the grammar can write it.

    Args:
        key: The key.
        dotted: Whether the name becomes a segment of a dotted path, and so must not contain a dot.
    """
    if is_plain_key(key) and not _STAND_IN.fullmatch(key) and not dotted:
        return key
    return f"_quoted_{key.encode('utf-8', 'surrogatepass').hex()}_"


def real_key(name: Any) -> Any:
    """Returns the key behind a placeholder; any other key unchanged."""
    found = _STAND_IN.fullmatch(name) if isinstance(name, str) else None
    return name if found is None else bytes.fromhex(found[1]).decode("utf-8", "surrogatepass")


def as_typed(value: str) -> str:
    """Writes a rewritten value with quoted keys again."""
    return _STAND_IN.sub(lambda found: quoted_key(real_key(found[0])), value)


class _Reader:
    """Reads one value from left to right and writes it for Hydra."""

    def __init__(self, text: str, key: str) -> None:
        self._text, self._key, self._at = text, key, 0
        self.changed = False
        """Whether the output differs from the input by more than spaces."""

    def at_end(self) -> bool:
        return not self._text[self._at :].strip()

    def element(self) -> str:
        self._skip_spaces()
        sign = self._text[self._at : self._at + 1]
        if sign == "{":
            return "{" + ",".join(self._several("}", self._pair)) + "}"
        if sign == "[":
            return "[" + ",".join(self._several("]", self.element)) + "]"
        return self._scalar(self._take(self._scalar_end()))

    def _several(self, end: str, read: Any) -> list[str]:
        found: list[str] = []
        self._at += 1
        self._skip_spaces()
        if self._text.startswith(end, self._at):
            self._at += 1
            return found
        while True:
            found.append(read())
            self._skip_spaces()
            sign = self._text[self._at : self._at + 1]
            self._at += 1
            if sign == end:
                return found
            if sign != ",":
                raise _MalformedError(self._text)

    def _pair(self) -> str:
        self._skip_spaces()
        found = QUOTED.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
            self._skip_spaces()
            key = stand_in(parse_value(found[0]).text)
            self.changed = True
        else:
            key = self._bare_key()
        if not self._text.startswith(":", self._at):
            raise _MalformedError(self._text)
        self._at += 1
        return f"{key}:{self.element()}"

    def _bare_key(self) -> str:
        """Reads an unquoted key: up to a colon before a space or, without one, up to the first colon."""
        rest = self._text[self._at : self._scalar_end(keys=True)]
        spaced = _KEY_END.search(rest)
        end = spaced.start() if spaced is not None else _first_colon(rest)
        typed, value = rest[:end].strip(), rest[end + 1 :]
        open_value = _CLOSED.sub("", value)
        if (_ANOTHER if spaced is None else _SPACED).search(open_value):
            raise self._ambiguous(typed, value)
        self._at += end
        if ":" not in typed.replace(r"\:", "") and parse_value(f"{{{typed}:0}}") is not Refused:
            return typed if not _STAND_IN.fullmatch(typed) else self._renamed(typed)
        if not typed or any(sign in typed for sign in "'\"{}[]"):
            raise _MalformedError(typed)
        return self._renamed(typed)

    def _renamed(self, key: str) -> str:
        self.changed = True
        return stand_in(key)

    def _ambiguous(self, key: str, value: str) -> ConfigError:
        first, _, rest = value.strip().partition(":")
        meant = ({f"{key}:{first.strip()}": rest.strip()}, {key: value.strip()})
        return ConfigError(
            f"'{safe_text(self._key)}={safe_text(self._text, _LONGEST)}' can be read in two ways at "
            f"'{safe_text(f'{key}:{value}', _LONGEST)}'; expected quotes around a key or value that contains a colon",
            *(line(self._key, way) for way in meant),
        )

    def _scalar(self, typed: str) -> str:
        text = typed.strip()
        if not text:
            raise _MalformedError(self._text)
        if parse_value(text) is not Refused:
            return text
        if text[0] in "'\"":
            raise _MalformedError(text)
        self.changed = True
        return quoted(text)

    def _scalar_end(self, *, keys: bool = False) -> int:
        """Returns where a scalar ends: at a comma, or at a bracket that it did not open itself.

        Args:
            keys: Whether to read a key and its colon too, which a mapping or list may follow.
        """
        at = self._at
        while at < len(self._text) and self._text[at] not in ",}]":
            found = QUOTED.match(self._text, at)
            if keys and self._text[at] in "{[" and not self._text.startswith("${", at - 1):
                return at
            if found is not None:
                at = found.end()
            elif self._text[at] in "{[(":
                at = closing(self._text, at)
            else:
                at += 2 if self._text[at] == "\\" else 1
        return min(at, len(self._text))

    def _take(self, end: int) -> str:
        text, self._at = self._text[self._at : end], end
        return text

    def _skip_spaces(self) -> None:
        while self._text[self._at : self._at + 1].isspace():
            self.changed |= self._text[self._at] not in " \t"
            self._at += 1


def _first_colon(text: str) -> int:
    found = re.search(r"(?:[^:\\]|\\.)*", text, re.DOTALL)
    end = found.end() if found is not None else 0
    if end >= len(text):
        raise _MalformedError(text)
    return end


def _with_real_keys(value: Any) -> Any:
    converted = _CONVERT(value)
    return {real_key(key): item for key, item in converted.items()} if isinstance(converted, dict) else converted


# Hydra passes every parsed value through this method on its way to a config; its grammar has no quoted keys.
_CONVERT = Override._convert_value  # noqa: SLF001
Override._convert_value = staticmethod(_with_real_keys)  # type: ignore[method-assign]  # noqa: SLF001
