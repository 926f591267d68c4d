"""Lays a partial config over the defaults.

Guarantees: changes neither; nodes whose content belongs together are replaced as a whole, so that nothing of a default
model drags along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REPLACED = ("model", "rules", "parts", "verify.input", "trusted_targets")
"""Nodes that are taken as they are given."""


def overlay(defaults: Mapping[str, Any], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Returns the defaults with what is given over them; unknown keys are kept for the parser to refuse."""
    result = dict(defaults)
    for key, value in given.items():
        place = f"{where}.{key}" if where else str(key)
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and place not in REPLACED:
            result[key] = overlay(below, value, place)
        else:
            result[key] = value
    return result
