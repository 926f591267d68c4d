"""The adapters of a config as records.

Guarantees: as in `sections`; each adapter has a path, known rules of its own, and a scale that float32 can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Problems
from ..schema import AUTO, AdapterConfig, Rule
from ..text.lines import line, under
from ..text.wording import safe_text
from .sections import names_of, read_section

_LARGEST = 3.4e38
"""The largest factor: arithmetic is in float32."""
ReadRules = Callable[[Any, str, Problems], dict[str, Rule] | None]
"""Reads rules at a place of the config; None for ``auto``."""


def read_adapters(raw: Any, where: str, problems: Problems, read_rules: ReadRules) -> dict[str, AdapterConfig]:
    """Returns the adapters by name, in order; invalid ones are problems."""
    if not isinstance(raw, Mapping):
        problems.add(
            f"'{where}' is {safe_text(raw)!r}, expected a mapping", line(where, {"lora": {"path": "FOLDER"}}, "+")
        )
        return {}
    nameless = {key: value for key, value in raw.items() if key in ("path", "scale") and not isinstance(value, Mapping)}
    if nameless:
        problems.add(
            f"'{where}.{next(iter(nameless))}' is set, expected a name for each adapter",
            line(where, {"lora": dict(raw)}, "+"),
        )
        return {}
    return {str(name): _read(own, f"{where}.{name}", problems, read_rules) for name, own in raw.items()}


def _read(raw: Any, where: str, problems: Problems, read_rules: ReadRules) -> AdapterConfig:
    if not isinstance(raw, Mapping):
        problems.add(
            f"'{safe_text(where)}' is {safe_text(raw)!r}, expected a mapping", line(where, {"path": "FOLDER"}, "+")
        )
        return AdapterConfig()
    rules = raw.get("rules")
    record = read_section(AdapterConfig, {key: value for key, value in raw.items() if key != "rules"}, where, problems)
    if "path" not in raw and set(raw) <= set(names_of(AdapterConfig)):  # else one of them is a mistyped path
        problems.add(f"'{safe_text(where)}.path' is required", line(under(where, "path"), "FOLDER", "+"))
    if not abs(record.scale) <= _LARGEST:
        problems.add(
            f"'{safe_text(where)}.scale' is {record.scale}, expected a number that float32 can hold",
            line(under(where, "scale"), 1.0),
        )
    if rules is not None:
        found = read_rules(rules, f"{where}.rules", problems)
        if found is None:
            problems.add(
                f"'{safe_text(where)}.rules' is '{AUTO}', which is for the rules of a checkpoint alone",
                line(under(where, "rules"), {"mine": {"strip": "model."}}),
            )
        record.rules = found or {}
    return record
