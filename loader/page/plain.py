"""Reads what a page shows: reports and summaries whose content may be damaged, of another version, or hostile.

Guarantees: total functions of any JSON; a field that is absent or of another type is None or empty. Text is free of
secrets and of control, bidirectional and surrogate characters, and cut to a bounded length. Only regular files of a
bounded size are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..report.reading import read_content
from ..text.lines import value_text
from ..text.redaction import redacted
from ..text.wording import printable, safe_text, size

_LONGEST_WORD = 200
_LEAST_SAVED = 8
_LONGEST_SECRET = 2000
"""Characters behind the cut in which a secret is still recognized."""
_NOTHING: Mapping[str, Any] = {}


def mapping(value: Any) -> Mapping[str, Any]:
    """Returns a mapping, or an empty one."""
    return value if isinstance(value, Mapping) else _NOTHING


def rows(value: Any) -> list[Mapping[str, Any]]:
    """Returns the mappings in a list."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """Returns a finite number."""
    if type(value) not in (int, float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an integer beyond any float
        return None


def whole(value: Any) -> int:
    """Returns a count; 0 if it is not one."""
    return value if type(value) is int and 0 <= value < 1 << 63 else 0


def word(value: Any, longest: int = _LONGEST_WORD) -> str:
    """Returns one line of text, cut to a length; lists and the like as they are typed."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else value_text(value) or str(value)
    return safe_text(redacted(text[: longest + _LONGEST_SECRET]), longest)


def block(value: Any, longest: int) -> str:
    """Returns text of several lines, cut to a length."""
    text = printable(redacted(value[: longest + _LONGEST_SECRET])[: longest + 1]) if isinstance(value, str) else ""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def typed_line(value: Any, longest: int) -> str:
    """Returns a line to type; empty if it cannot be shown whole and as it is."""
    if not isinstance(value, str) or len(value) > longest:
        return ""
    shown = redacted(value)
    return shown if shown == printable(shown) and "\n" not in shown else ""


def link(path: Any) -> str:
    """Returns a relative path as a link that begins with ``./``; empty if it is absolute, or not a path."""
    if not isinstance(path, str) or not path or path.startswith(("/", "\\")) or Path(path).is_absolute():
        return ""
    if path[1:2] == ":" or not path.isprintable() or redacted(path) != path:
        return ""
    return "./" + quote(path.replace("\\", "/"), safe="/")


def without_shared_folder(texts: Sequence[str]) -> list[str]:
    """Writes paths without the folders that all of them share, if that saves room; other texts are unchanged."""
    paths = [text for text in texts if text]
    if len(set(paths)) < 2 or not all("/" in path for path in paths):
        return list(texts)
    low, high = min(paths), max(paths)
    same = next((at for at, pair in enumerate(zip(low, high, strict=False)) if pair[0] != pair[1]), len(low))
    cut = low.rfind("/", 0, same) + 1
    return [f"…/{text[cut:]}" if text else "" for text in texts] if cut > _LEAST_SAVED else list(texts)


def figure(value: float | None, digits: int = 4) -> str:
    """Writes a number for a table: ``101,770``, ``0.9711``, ``3.2e-05``."""
    if value is None:
        return ""
    if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
        return f"{int(value):,}" if abs(value) < 10**18 else f"{value:.{digits}g}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e15 else f"{value:.{digits}g}"


def seconds(value: float | None) -> str:
    """Writes a time: ``0.61 s``."""
    if value is None:
        return ""
    return f"{value:.2f} s" if value >= 0.1 or value == 0 else f"{value * 1000:.3g} ms"


def amount(value: float | None) -> str:
    """Writes a number of bytes: ``612.3 MB``."""
    return "" if value is None else size(value)


def read_report(path: Path) -> tuple[Mapping[str, Any], str]:
    """Reads a job's ``report.json``; returns it, or an empty mapping and the reason."""
    try:
        return read_content(path), ""
    except OSError as error:
        return {}, f"its report.json cannot be read: {error.strerror}"
    except ValueError as error:
        reason = "has a path that is not valid" if "\0" in str(path) else str(error)
        return {}, f"its report.json {reason}"


def in_words(names: Sequence[object], most: int = 6) -> str:
    """Lists a few names: ``0, 2 and 5``, ``0, 1, 2, 3, 4, 5 and 9 more``."""
    shown = [word(name) for name in names[:most]]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most:,} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))
