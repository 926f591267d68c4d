"""The coverage map of one report.

Guarantees: a total function of any report; plain hashable data, with names as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..report.modules import OUTCOMES
from .plain import rows, whole

Map = tuple[tuple[str, int, int, tuple[int, ...]], ...]
"""``(module, count, parameters, numbers of keys by outcome)`` of each row."""

_LONGEST_NAME = 1000


def map_of(report: Mapping[str, Any]) -> Map:
    """Returns the coverage map of a report; empty if it has none."""
    return tuple(
        (
            name[:_LONGEST_NAME] if isinstance(name := row.get("module"), str) else "",
            whole(row.get("count")),
            whole(row.get("parameters")),
            tuple(whole(row.get(outcome)) for outcome in OUTCOMES),
        )
        for row in rows(report.get("modules"))
    )


def complete(found: Map) -> bool:
    """Whether every key of a map is loaded, or to be loaded."""
    return not any(any(outcomes[1:]) for *_, outcomes in found)
