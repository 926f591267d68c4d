"""What is suggested, as text to paste.

Guarantees: pure text. What comes out goes through a shell and through Hydra's grammar and means the same there; a name
that could act on a terminal, or that neither of them could carry, is not written at all.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from loader.config.schema import RuleConfig
from loader.rules import KINDS, READY_MADE

# What needs quotes neither in Hydra's grammar nor in YAML; a glob's star and question mark are such.
_PLAIN = re.compile(r"[A-Za-z_*?][\w./*?-]*", re.ASCII)
_KEYWORDS = frozenset({"null", "true", "false", "nan", "inf", "auto", "yes", "no", "on", "off"})


def written(override: str) -> str:
    """An override as typed in a shell."""
    return shlex.quote(override)


def key_override(path: str, key: str | None) -> str:
    """``checkpoint.key=state_dict``; the top level is null."""
    return f"{path}={'null' if key is None else _text(key)}"


def rules_override(path: str, rules: Mapping[str, RuleConfig], *, named: bool = True) -> str:
    """``rules=[ddp,compile]`` where ready-made rules do it and may be named, else ``rules={fit: {strip: "net."}}``."""
    names = ready_made(rules) if path == "rules" and named else None
    if names is not None:
        return f"{path}=[{','.join(names)}]"
    told = ", ".join(f"{name}: {_rule(rule)}" for name, rule in rules.items())
    return f"{path}={{{told}}}"


def globs_override(path: str, globs: Sequence[str]) -> str:
    """``allow.missing=[head.*]``."""
    return f"{path}=[{','.join(map(_text, globs))}]"


def value_override(path: str, value: object) -> str:
    """``model.width=64``, of a plain value."""
    if isinstance(value, list | tuple):
        return f"{path}=[{','.join(map(str, value))}]"
    if value is None or isinstance(value, bool):
        return f"{path}={'null' if value is None else str(value).lower()}"
    return f"{path}={_text(value) if isinstance(value, str) else value}"


def parts_override(parts: Mapping[str, tuple[str | None, Mapping[str, RuleConfig]]]) -> str:
    """``parts={encoder: {key: encoder_state}}``."""
    told = []
    for name, (key, rules) in parts.items():
        fields = [f"key: {'null' if key is None else _text(key)}"]
        fields += [rules_override("rules", rules, named=False).replace("=", ": ", 1)] if rules else []
        told.append(f"{name}: {{{', '.join(fields)}}}")
    return f"parts={{{', '.join(told)}}}"


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
    """Whether a name can be carried by a command line and shown by a terminal as it is."""
    return text.isprintable()


def _rule(rule: RuleConfig) -> str:
    kind = next(kind for kind in KINDS if getattr(rule, kind) is not None)
    fields = [f"{kind}: {_quoted(getattr(rule, kind))}"]
    fields += [f"to: {_quoted(rule.to)}"] if rule.to is not None else []
    fields += [f"{flag}: true" for flag in ("anywhere", "optional") if getattr(rule, flag)]
    fields += [] if rule.enabled else ["enabled: false"]
    return "{" + ", ".join(fields) + "}"


def _text(value: str) -> str:
    return value if _PLAIN.fullmatch(value) and value.lower() not in _KEYWORDS else _quoted(value)


def _quoted(value: str) -> str:
    # Two readers: OmegaConf takes `${` for an interpolation unless a backslash stands before it, and Hydra's grammar
    # reads backslashes only before a quote.
    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    escaped = re.sub(r'(\\*)(")', lambda found: found[1] * 2 + r"\"", escaped)
    return '"' + re.sub(r"(\\+)$", lambda found: found[1] * 2, escaped) + '"'
