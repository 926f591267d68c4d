"""Names, lists and sizes in messages.

Guarantees: text from a file or a command line is escaped for a terminal (no control, bidirectional or surrogate
characters) and cut to a bounded length; lists name a few entries and count the rest.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

_LONGEST_NAME = 80
_LONGEST_PHRASE = 400
_MOST_NAMES = 5
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe_text(text: object, longest: int = _LONGEST_NAME) -> str:
    """Escapes and cuts a name, which may come from a hostile file."""
    head = text_of(text)[: longest + 1]
    shown = head if head.isascii() and head.isprintable() else "".join(map(_escape, head))
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def text_of(value: object) -> str:
    """Converts a value to text, even if its class cannot."""
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001  # somebody else's `__str__` may raise anything
        return f"no text: its __str__ raised {type(error).__name__}"


def printable(text: str) -> str:
    """Escapes a text of several lines for a terminal; line breaks stay, and nothing is cut."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if character == "\n" else _escape(character) for character in text)


def is_printable(text: str) -> bool:
    """Returns whether a text is one line that a terminal shows unchanged."""
    if text.isascii():
        return text.isprintable()
    return not any(unicodedata.category(character) in _UNPRINTABLE for character in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _UNPRINTABLE:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def listing(names: Iterable[object], most: int = _MOST_NAMES, longest: int = _LONGEST_NAME) -> str:
    """Names the first few and counts the rest: ``a, b, c and 4 more``."""
    every = list(names)
    shown = ", ".join(safe_text(name, longest) for name in every[:most])
    return shown if len(every) <= most else f"{shown} and {len(every) - most:,} more"


def phrases(texts: Iterable[str], most: int = _MOST_NAMES) -> str:
    """Lists phrases of several names each, with a larger bound than that of a name."""
    return listing(texts, most, longest=_LONGEST_PHRASE)


def matches(name: str, globs: Iterable[str]) -> bool:
    """Returns whether a pattern matches a whole name, case-sensitively."""
    return any(fnmatchcase(name, glob) for glob in globs)


def closest(name: str, known: Iterable[str], most: int = 3) -> list[str]:
    """Returns the known names that look like a mistyped one, best first."""
    return difflib.get_close_matches(name, sorted(known), n=most, cutoff=0.6)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)``, or an empty text if no known name is close."""
    near = closest(name, known, most=1)
    return f" (did you mean '{safe_text(near[0])}'?)" if near else ""


def counted(number: int, noun: str, plural: str = "") -> str:
    """Writes a number with its noun: ``1 key``, ``1,200 keys``, ``2 entries``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(nbytes: float) -> str:
    """Writes a number of bytes in decimal units: ``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < (1000 if unit == "B" else 999.95):  # what rounds to 1000.0 gets the next unit
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) ?(?:([kmgt])(i?)b|([kmgt])|b)?", re.IGNORECASE)


def bytes_of(text: str) -> int | None:
    """Reads ``5GB``, ``1.5 MiB`` (binary) or ``200`` as bytes, rounded down; None if it is not a size."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        return None
    base = 1024 if found[3] else 1000
    return int(float(found[1]) * base ** _POWERS[(found[2] or found[4] or "").lower()])


def shape(dimensions: Sequence[int] | None) -> str:
    """Writes a shape as torch users do: ``[10, 784]``; None is a shape that is not fixed yet."""
    return "[not fixed yet]" if dimensions is None else f"[{', '.join(map(str, dimensions))}]"
