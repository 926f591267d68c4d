"""JSON out of a file that is not trusted.

Guarantees: nothing but JSON passes, no name stands twice in one mapping, and whatever the text is, it is read or
refused.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from ..files.file import CheckpointFile
from ..text.wording import safe_text


def read_mapping(file: CheckpointFile, raw: bytes, what: str) -> dict[str, Any]:
    """Reads a mapping of names.

    Args:
        file: The file it stands in, for messages.
        raw: The text.
        what: What to call it there, such as ``its header``.

    Raises:
        CheckpointError: It is no JSON, no mapping, or names something twice.
    """
    try:
        return parse_mapping(raw)
    except ValueError as error:
        raise file.damaged(f"{what} {error}") from error


def parse_mapping(raw: bytes) -> dict[str, Any]:
    """Reads a mapping of names.

    Raises:
        ValueError: It is no JSON, no mapping, or names something twice; as a sentence that lacks its subject.
    """
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except _TwiceError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({safe_text(error, 120)})") from error
    if not isinstance(found, dict):
        raise ValueError("is no mapping of names")
    return found


class _TwiceError(ValueError):
    """A name that stands twice in one mapping."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _TwiceError(f"names '{safe_text(twice)}' twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
