"""Names and texts as MLflow takes them.

Guarantees: a total function of any names; different names stay different. Letters, digits and `_ - . /` and spaces are
kept, any other character becomes `_`, as does a slash where the name would be a path to elsewhere. A name that another
one has then is numbered; one that is too long is cut.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable

from ..text.redaction import redacted

LONGEST_NAME = 250
"""The longest name of a parameter, metric or tag that every store takes."""

LONGEST_PARAMETER = 500
"""The longest value of a parameter: newer servers take more."""

LONGEST_TAG = 5000
"""The longest value of a tag."""

_OTHER = re.compile(r"[^\w\-. /]")


def accepted(names: Iterable[str]) -> dict[str, str]:
    """Returns the acceptable form of each name."""
    taken: dict[str, str] = {}
    for name in dict.fromkeys(names):
        taken[name] = _numbered(_plain(name), set(taken.values()))
    return taken


def _plain(name: str) -> str:
    kept = _OTHER.sub("_", redacted(name))[:LONGEST_NAME] or "_"
    if posixpath.normpath(kept) == kept and not kept.startswith(("/", "..")) and kept != ".":
        return kept
    flat = kept.replace("/", "_")
    return "_" * (len(flat) - len(flat.lstrip("."))) + flat.lstrip(".")


def _numbered(name: str, taken: set[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        ending = f"_{number}"
        free = name[: LONGEST_NAME - len(ending)] + ending
    return free


def shortened(value: object, longest: int) -> str:
    """Writes a value as text without the credentials of URLs, cut to a length."""
    text = redacted(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
