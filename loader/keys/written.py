"""Writes nested keys, rules, globs and parts as overrides.

Guarantees: pure text; `loader.text.lines` writes every path and value. An override is empty if a command line cannot
carry one of its names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..schema import CheckpointConfig, Rule
from ..text.lines import Quoted, override, typed, value_text
from ..text.wording import is_printable
from .rules.ready import ready_names


def written(override: str) -> str:
    """Quotes an override for a shell; empty if it cannot be typed."""
    return typed(override).line


def key_override(path: str, key: str | None) -> str:
    """Writes ``checkpoint.key=state_dict``; the top level is null."""
    return override(path, key)


def rules_override(path: str, rules: Mapping[str, Rule], *, named: bool = True) -> str:
    """Writes ``rules=[ddp,compile]`` for ready-made rules if `named`, else ``rules={fit: {strip: net.}}``."""
    names = ready_names(rules) if path == "rules" and named else None
    sign = "+" if path.startswith("+") else ""
    return override(path.removeprefix("+"), rule_settings(rules) if names is None else names, sign)


def globs_override(path: str, globs: Sequence[str]) -> str:
    """Writes ``allow.missing=[head.*]``."""
    return override(path, list(globs))


def value_override(path: str, value: object) -> str:
    """Writes ``model.width=64``."""
    return override(path, value)


def source(settings: CheckpointConfig) -> list[str]:
    """``checkpoint.path=a.pt``, and how the files of a list are combined; empty where a name cannot be typed."""
    how = [override("checkpoint.combine", settings.combine)] if settings.combine is not None else []
    place = [override("checkpoint.path", settings.path), *how]
    return place if all(place) else []


def located(settings: CheckpointConfig, key: str = "") -> list[str]:
    """``checkpoint.path=a.pt checkpoint.key=state_dict``; empty where one of the names cannot be typed."""
    place = source(settings)
    nested = [key_override("checkpoint.key", key)] if key else []
    return [*place, *nested] if place and all(nested) else []


def parts_override(parts: Mapping[str, tuple[str | None, Mapping[str, Rule]]]) -> str:
    """Writes ``parts={encoder: {key: encoder_state}}``."""
    settings = {
        name: {"key": key, **({"rules": rule_settings(rules)} if rules else {})} for name, (key, rules) in parts.items()
    }
    return override("parts", settings)


def rule_settings(rules: Mapping[str, Rule]) -> dict[str, dict[str, object]]:
    """Returns rules as the plain mappings of a config."""
    return {name: _quoted(rule) for name, rule in rules.items()}


def may_be_typed(text: str) -> bool:
    """Whether a command line can carry a name and a terminal show it unchanged."""
    return is_printable(text) and value_text(text) != ""


def _quoted(rule: Rule) -> dict[str, object]:
    return {name: Quoted(value) if isinstance(value, str) else value for name, value in rule.settings().items()}
