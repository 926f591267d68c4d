"""Rules for tensors as they are proposed: settings of a config, not yet judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...text.wording import safe_text

DOUBT = "shapes do not show the order: compare with a golden record"
"""Ends every line that may load the right shapes with the wrong weights."""


@dataclass(frozen=True, slots=True)
class Proposed:
    """Rules that belong together."""

    rules: tuple[Mapping[str, object], ...]
    """The settings of each, as in a config."""
    reason: str
    certain: bool = True
    """Whether names and shapes leave no other reading."""
    resizes: bool = False
    """Whether it makes tensors of another size."""
    allowed: tuple[str, ...] = ()
    """Globs for model keys that stay as they are."""


def shown(name: str) -> str:
    """Quotes a name for a message."""
    return f"'{safe_text(name)}'"
