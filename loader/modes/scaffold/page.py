"""The config file as text.

Guarantees: what is read back by Hydra is exactly what was written: no value becomes an interpolation, a number or a
key of its own, and comments stay comments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml  # type: ignore[import-untyped]

from ...text.wording import safe_text

MISSING = "???"
"""A value that has to be given before the config runs."""

_PLAIN = re.compile(r"/?[A-Za-z_][\w./-]*", re.ASCII)
_KEYWORDS = frozenset({"null", "true", "false", "yes", "no", "on", "off", "nan", "inf", "y", "n"})
_LONGEST_NOTE = 200
_SHORT = 4
"""How many entries a mapping on one line may have."""


@dataclass(frozen=True, slots=True)
class Line:
    """One key of a section, and why it has its value."""

    key: str
    value: Any
    note: str = ""


def section(name: str, lines: Sequence[Line]) -> list[str]:
    """A section's lines; none where it is empty."""
    shown = [row for line in lines for row in _rows(line, "  ")]
    width = max((len(text) for text, note in shown if note), default=0)
    told = [f"{text:<{width}}  # {comment(note)}" if note else text for text, note in shown]
    return [f"{name}:", *told] if told else []


def _rows(line: Line, indent: str) -> Iterator[tuple[str, str]]:
    if not isinstance(line.value, Mapping) or len(line.value) <= _SHORT:
        yield f"{indent}{flow(line.key)}: {flow(line.value)}", line.note
        return
    yield f"{indent}{flow(line.key)}:", line.note
    for key, value in line.value.items():
        yield from _rows(Line(str(key), value), f"{indent}  ")


def comment(text: str) -> str:
    """A text that stays in its comment."""
    return safe_text(text, _LONGEST_NOTE)


def flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(str(key))}: {flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else {"inf": ".inf", "-inf": "-.inf"}.get(str(value), ".nan")
    return str(value) if isinstance(value, int) else _text(str(value))


def page(head: Iterable[str], defaults: Mapping[str, Any], sections: Iterable[list[str]]) -> str:
    """The whole file."""
    chosen = [f"  - override /{group}: {flow(option)}" for group, option in defaults.items()]
    body = [line for lines in sections for line in lines]
    return "\n".join(["# @package _global_", *(f"# {comment(h)}" for h in head), "defaults:", *chosen, *body]) + "\n"


def _text(value: str) -> str:
    if value == MISSING or (_PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS):
        return value
    # OmegaConf takes `${` for an interpolation unless a backslash stands before it.
    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    return str(yaml.safe_dump(escaped, default_style='"', allow_unicode=True, width=10**9)).strip()
