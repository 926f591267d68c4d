"""Rules for tensors as they are proposed: settings of a config, not yet judged."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ...keys.rules.ready import ready_made
from ...keys.rules.tensors import TensorRule
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


def ready(option: str, wanted: Collection[str], names: Collection[str]) -> tuple[Mapping[str, object], ...]:
    """Returns ready-made rules if they hit exactly the wanted names, each some of them; else none."""
    rules = [rule for rule in ready_made().get(option, {}).values() if isinstance(rule, TensorRule)]
    hits = [{name for name in names if rule.hits(name)} for rule in rules]
    exact = hits and all(hits) and set().union(*hits) == set(wanted)
    return tuple(rule.settings() for rule in rules) if exact else ()
