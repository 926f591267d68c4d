"""Rules as the loader's own records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loader.config.parse import parse_job
from loader.schema import Rule


def parse_rules(rules: Mapping[str, Any] | None) -> dict[str, Rule]:
    """Parses named rules, as in YAML; raises ConfigError."""
    return parse_job({"rules": rules}).rules or {}
