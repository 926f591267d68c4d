"""The config file as text.

Guarantees: what is read back by Hydra is exactly what was written: no value becomes an interpolation, a number or a
key of its own, and comments stay comments.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...text.lines import yaml_value
from ...text.wording import safe_text

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
        yield f"{indent}{yaml_value(line.key)}: {yaml_value(line.value)}", line.note
        return
    yield f"{indent}{yaml_value(line.key)}:", line.note
    for key, value in line.value.items():
        yield from _rows(Line(str(key), value), f"{indent}  ")


def comment(text: str) -> str:
    """A text that stays in its comment."""
    return safe_text(text, _LONGEST_NOTE)


def page(head: Iterable[str], defaults: Mapping[str, Any], sections: Iterable[list[str]]) -> str:
    """The whole file."""
    chosen = [f"  - override /{group}: {yaml_value(option)}" for group, option in defaults.items()]
    body = [line for lines in sections for line in lines]
    return "\n".join(["# @package _global_", *(f"# {comment(h)}" for h in head), "defaults:", *chosen, *body]) + "\n"
