"""Nested keys, rules, globs and parts as overrides to suggest.

Guarantees: pure text; `loader.text.lines` writes every path and value, so that an override is empty where no command
line can carry a name in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..schema import RuleConfig
from ..text.lines import Quoted, override, typed, value_text
from ..text.wording import is_printable
from .rules import KINDS, READY_MADE


def written(override: str) -> str:
    """Quotes an override for a shell; empty where it cannot be typed."""
    return typed(override).line


def key_override(path: str, key: str | None) -> str:
    """``checkpoint.key=state_dict``; the top level is null."""
    return override(path, key)


def rules_override(path: str, rules: Mapping[str, RuleConfig], *, named: bool = True) -> str:
    """``rules=[ddp,compile]`` where ready-made rules do it and may be named, else ``rules={fit: {strip: net.}}``."""
    names = ready_made(rules) if path == "rules" and named else None
    sign = "+" if path.startswith("+") else ""
    return override(path.removeprefix("+"), rule_settings(rules) if names is None else names, sign)


def globs_override(path: str, globs: Sequence[str]) -> str:
    """``allow.missing=[head.*]``."""
    return override(path, list(globs))


def value_override(path: str, value: object) -> str:
    """``model.width=64``, of a plain value."""
    return override(path, value)


def located(path: str, key: str = "") -> list[str]:
    """``checkpoint.path=a.pt checkpoint.key=state_dict``; empty where one of the names cannot be typed."""
    place = [override("checkpoint.path", path), *([key_override("checkpoint.key", key)] if key else [])]
    return place if all(place) else []


def parts_override(parts: Mapping[str, tuple[str | None, Mapping[str, RuleConfig]]]) -> str:
    """``parts={encoder: {key: encoder_state}}``."""
    settings = {
        name: {"key": key, **({"rules": rule_settings(rules)} if rules else {})} for name, (key, rules) in parts.items()
    }
    return override("parts", settings)


def rule_settings(rules: Mapping[str, RuleConfig]) -> dict[str, dict[str, object]]:
    """Returns rules as the plain mappings of a config."""
    return {name: _settings(rule) for name, rule in rules.items()}


def ready_made(rules: Mapping[str, RuleConfig]) -> list[str] | None:
    """The options of the group that together are exactly these rules, in order; None where some are not."""
    rest, names = list(rules.items()), list[str]()
    while rest:
        fitting = [name for name, ready in READY_MADE.items() if rest[: len(ready)] == list(ready.items())]
        if not fitting:
            return None
        names.append(fitting[0])
        rest = rest[len(READY_MADE[fitting[0]]) :]
    return names


def under_ready_names(
    rules: Mapping[str, RuleConfig], given: Mapping[str, RuleConfig], *, lightning: bool
) -> dict[str, RuleConfig]:
    """Gives rules that are ready-made the names under which they are shipped; the user's own keep theirs."""
    rest, named = list(rules.items()), dict[str, RuleConfig]()
    while rest:
        ready = next((found for name, found in READY_MADE.items() if _starts(rest, found, named, given)), None)
        if ready is not None and (lightning or "lightning" not in ready):
            named |= ready
            rest = rest[len(ready) :]
        else:
            name, rule = rest.pop(0)
            named[name] = rule
    return named


def _starts(
    rest: Sequence[tuple[str, RuleConfig]],
    ready: Mapping[str, RuleConfig],
    named: Mapping[str, RuleConfig],
    given: Mapping[str, RuleConfig],
) -> bool:
    head = rest[: len(ready)]
    own = any(name in given for name, _ in head) or any(name in named or name in given for name in ready)
    return not own and [rule for _, rule in head] == list(ready.values())


def may_be_typed(text: str) -> bool:
    """Says whether a name can be carried by a command line and shown by a terminal as it is."""
    return is_printable(text) and value_text(text) != ""


def _settings(rule: RuleConfig) -> dict[str, object]:
    kind = next(kind for kind in KINDS if getattr(rule, kind) is not None)
    fields: dict[str, object] = {kind: Quoted(getattr(rule, kind))}
    fields |= {"to": Quoted(rule.to)} if rule.to is not None else {}
    fields |= {flag: True for flag in ("anywhere", "optional") if getattr(rule, flag)}
    return fields if rule.enabled else {**fields, "enabled": False}
