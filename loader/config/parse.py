"""From a composed config to typed data.

Guarantees: a key that does not exist is refused wherever it stands, also one that was added with ``+``; every problem
of the config is told in one refusal; what comes out are plain Python values of the types in `loader.config.schema`.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loader.config.quoting import readable
from loader.config.schema import (
    AUTO,
    EMBEDDED,
    AllowConfig,
    CheckpointConfig,
    ConvertConfig,
    ExpectConfig,
    InspectConfig,
    JobConfig,
    PartConfig,
    RuleConfig,
    ScaffoldConfig,
    VerifyConfig,
)
from loader.errors import ConfigError
from loader.rules import KINDS
from loader.wording import closest, did_you_mean, safe_text

MODES = ("load", "plan", "inspect", "convert", "scaffold")
"""What a job can do."""

CHECKS = ("crc", "structure", "full")
"""How much of a file's integrity is verified."""

MISSING = "???"
"""OmegaConf's mark for a value that must be given."""

_Record = TypeVar("_Record")
_Raw = Mapping[str, Any]

_RULE_FIELDS = frozenset(field.name for field in dataclasses.fields(RuleConfig))

_EXPECTED: Mapping[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list[str]: "a list of names",
    list[int]: "a list of whole numbers",
}


def parse_job(config: _Raw) -> JobConfig:
    """Turns a resolved, plain config into a `JobConfig`.

    Raises:
        ConfigError: Unknown keys, missing values and wrong types, all of them at once.
    """
    problems = _Problems()
    problems.unknown(config, JobConfig, "")
    raw = {key: value for key, value in config.items() if value is not None}
    parts = raw.get("parts", {})
    checkpoint = _record(CheckpointConfig, _without_gaps(raw.get("checkpoint", {}), parts), "checkpoint", problems)
    job = _record(JobConfig, {key: raw[key] for key in ("mode", "device", "dtype", "seed") if key in raw}, "", problems)
    job.checkpoint = checkpoint
    job.model = _model(raw.get("model"), problems)
    job.rules = _rules(raw.get("rules", {}), "rules", problems)
    job.parts = _parts(parts, checkpoint, job.rules, problems)
    job.allow = _record(AllowConfig, raw.get("allow", {}), "allow", problems)
    job.verify = _verify(raw.get("verify", {}), problems)
    job.inspect = _record(InspectConfig, raw.get("inspect", {}), "inspect", problems)
    job.convert = _record(ConvertConfig, raw.get("convert", {}), "convert", problems)
    job.scaffold = _record(ScaffoldConfig, raw.get("scaffold", {}), "scaffold", problems)
    job.trusted_targets = _names(raw.get("trusted_targets"), "trusted_targets", problems)
    _choices(job, problems)
    problems.raise_any()
    return job


def parse_rules(rules: _Raw | None) -> dict[str, RuleConfig]:
    """Turns named rules, as in YAML, into records; raises ConfigError."""
    problems = _Problems()
    parsed = _rules(rules or {}, "rules", problems)
    problems.raise_any()
    return parsed or {}


class _Problems:
    """Collects what is wrong, so that it is told at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hints: list[str] = []

    def add(self, line: str, hint: str = "") -> None:
        self.lines.append(line)
        if hint and hint not in self.hints:
            self.hints.append(hint)

    def unknown(self, raw: _Raw, record: type, where: str) -> None:
        known = [field.name for field in dataclasses.fields(record)]
        for key in raw:
            if key not in known:
                place = f"{where}.{key}" if where else str(key)
                self.add(f"unknown config key '{safe_text(place)}'{did_you_mean(str(key), known)}")

    def raise_any(self) -> None:
        if self.lines:
            raise ConfigError("; ".join(self.lines), "\n".join(self.hints))


def _record(kind: type[_Record], raw: Any, where: str, problems: _Problems, defaults: _Record | None = None) -> _Record:
    """Checks one section's keys and types; null is a value where the type allows it, and means unset elsewhere."""
    record = copy.copy(defaults) if defaults is not None else kind()
    if not isinstance(raw, Mapping):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected a mapping", f"'{where}={{…}}'")
        return record
    problems.unknown(raw, kind, where)
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is hashable
    for name in (name for name in raw if name in hints):
        place = f"{where}.{name}" if where else str(name)
        if isinstance(raw[name], str) and raw[name] == MISSING:
            problems.add(f"'{place}' must be given", f"{place}={'FILE' if name == 'path' else 'VALUE'}")
        elif raw[name] is not None or type(None) in _alternatives(hints[name]):
            _assign(record, name, hints[name], raw[name], place, problems)
    return record


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _assign(record: Any, name: str, hint: Any, value: Any, place: str, problems: _Problems) -> None:
    if hint == list[str] and isinstance(value, str):
        value = [value]
    try:
        setattr(record, name, _converted(value, hint))
    except (OmegaConfBaseException, TypeError):
        kinds = [_EXPECTED.get(kind, "null") for kind in _alternatives(hint)]
        default = getattr(type(record)(), name)
        told = "null" if default is None else str(default).lower()
        hint_line = "" if default == "" or isinstance(default, list) else f"{place}={told}"
        problems.add(f"'{place}' is {_shown(value)}, expected {' or '.join(kinds)}", hint_line)


def _converted(value: Any, hint: Any) -> Any:
    """A value in the type of its field, by the conversions of OmegaConf's structured configs: 10 is text as well."""
    if type(value) in _alternatives(hint):
        return value
    if hint == list[str] and isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return list(value)
    if "${" in str(value) and str not in _alternatives(hint):
        raise TypeError(value)  # OmegaConf would take an interpolation on trust
    field = dataclasses.make_dataclass("Field", [("value", hint)])
    checked = OmegaConf.merge(OmegaConf.structured(field), {"value": value})
    return OmegaConf.to_container(checked, resolve=False)["value"]  # type: ignore[index,call-overload]


def _alternatives(hint: Any) -> tuple[Any, ...]:
    """The types that a field's hint allows: its own, or those of a union."""
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _shown(value: Any) -> str:
    return "null" if value is None else repr(safe_text(value))


def _model(raw: Any, problems: _Problems) -> _Raw | None:
    if raw is None:
        return None
    if raw == EMBEDDED:
        return {"_target_": EMBEDDED}
    if not isinstance(raw, Mapping):
        problems.add(f"'model' is {safe_text(raw)!r}, expected a mapping with a _target_", "model._target_=my_pkg.Net")
        return None
    if "_target_" not in raw and isinstance(raw.get("target"), str):
        meant = {("_target_" if key == "target" else key): value for key, value in raw.items()}
        problems.add(
            "'model' has no _target_ (did you mean that by 'target'?)", shlex.quote(f"model={readable(meant)}")
        )
    elif "_target_" not in raw:
        problems.add("'model' has no _target_", "model._target_=my_pkg.Net, or model=null to take what is in the file")
    for place in _gaps(raw, "model"):
        problems.add(f"'{place}' must be given", f"{place}=VALUE")
    return raw


def _gaps(node: Any, where: str) -> Iterator[str]:
    """Where a free-form node still holds the mark of a value that must be given."""
    if isinstance(node, str):
        if node == MISSING:
            yield safe_text(where)
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _gaps(value, f"{where}.{key}")
    elif isinstance(node, Sequence):
        for index, value in enumerate(node):
            yield from _gaps(value, f"{where}.{index}")


def _without_gaps(checkpoint: Any, parts: Any) -> Any:
    """What `checkpoint` leaves open is no gap where parts are named: each of them may fill it."""
    if not (parts and isinstance(checkpoint, Mapping)):
        return checkpoint
    return {key: value for key, value in checkpoint.items() if not (isinstance(value, str) and value == MISSING)}


def _rules(raw: Any, where: str, problems: _Problems) -> dict[str, RuleConfig] | None:
    if raw == AUTO:
        return None
    if not isinstance(raw, Mapping):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected named rules", f"'{where}={{ddp: {{strip: module.}}}}'")
        return {}
    nameless = {key: value for key, value in raw.items() if key in _RULE_FIELDS and not isinstance(value, Mapping)}
    if nameless:
        key, value = next(iter(nameless.items()))
        plus = "+" if where == "rules" else ""
        problems.add(
            f"'{where}.{key}' is {_shown(value)}, expected a rule: each rule stands under a name of its own",
            shlex.quote(f"{plus}{where}={readable({'mine': nameless})}"),
        )
    named = {name: rule for name, rule in raw.items() if name not in nameless}
    return {str(name): _rule(rule, f"{where}.{name}", problems) for name, rule in named.items()}


def _rule(raw: Any, where: str, problems: _Problems) -> RuleConfig:
    rule = _record(RuleConfig, raw, where, problems)
    if not isinstance(raw, Mapping):
        return rule
    # A kind whose value is wrong has been told already.
    kinds = [kind for kind in KINDS if raw.get(kind) is not None]
    empty = [kind for kind in kinds if raw[kind] == ""]
    if len(kinds) != 1:
        told = f"exactly one of {', '.join(KINDS)}"
        problems.add(f"rule '{safe_text(where)}' has {' and '.join(kinds) or 'no kind'}, expected {told}")
    elif empty:
        problems.add(f"rule '{safe_text(where)}' has an empty '{empty[0]}', expected a part of a key")
    elif (raw.get("to") is None) == (kinds[0] in ("rename", "regex")):
        fault = "has no 'to'" if raw.get("to") is None else f"has a 'to', which {kinds[0]} does not take"
        problems.add(f"rule '{safe_text(where)}' {fault}", f"'{where}={{rename: encoder., to: backbone.}}'")
    if rule.anywhere and kinds not in (["strip"], ["rename"]):
        problems.add(f"rule '{safe_text(where)}' has 'anywhere', which only strip and rename take")
    return rule


def _parts(
    raw: Any, root: CheckpointConfig, rules: dict[str, RuleConfig] | None, problems: _Problems
) -> dict[str, PartConfig]:
    if not isinstance(raw, Mapping):
        problems.add(f"'parts' is {safe_text(raw)!r}, expected a mapping", "'parts={encoder: {key: encoder_state}}'")
        return {}
    parts = {}
    for name, own in raw.items():
        where = f"parts.{name}"
        if not isinstance(own, Mapping):
            problems.add(f"'{where}' is {safe_text(own)!r}, expected a mapping", f"'parts={{{name}: {{key: …}}}}'")
            continue
        settings = {key: value for key, value in own.items() if key != "rules"}
        # A digest belongs to a file, and is not handed on to another one.
        inherited = root if own.get("path") is None else dataclasses.replace(root, sha256=None)
        checkpoint = _record(CheckpointConfig, settings, where, problems, inherited)
        own_rules = _rules(own["rules"], f"{where}.rules", problems) if own.get("rules") is not None else rules
        parts[str(name)] = PartConfig(checkpoint, own_rules)
    return parts


def _verify(raw: Any, problems: _Problems) -> VerifyConfig:
    if not isinstance(raw, Mapping):
        problems.add(f"'verify' is {safe_text(raw)!r}, expected a mapping", "verify.forward=false")
        return VerifyConfig()
    plain = {key: value for key, value in raw.items() if key not in ("input", "expect")}
    verify = _record(VerifyConfig, plain, "verify", problems)
    verify.input = raw.get("input")
    expect = raw.get("expect")
    verify.expect = _record(ExpectConfig, {} if expect is None else expect, "verify.expect", problems)
    return verify


def _names(raw: Any, where: str, problems: _Problems) -> list[str] | None:
    if raw is None or isinstance(raw, str):
        return [raw] if isinstance(raw, str) else None
    if not isinstance(raw, Sequence) or not all(isinstance(name, str) for name in raw):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected a list of names", f"'{where}=[my_pkg.*]'")
        return None
    return list(raw)


def _choices(job: JobConfig, problems: _Problems) -> None:
    checks = {"checkpoint": job.checkpoint} | {f"parts.{name}": part.checkpoint for name, part in job.parts.items()}
    chosen = [("mode", job.mode, MODES)] + [(f"{at}.check", c.check, CHECKS) for at, c in checks.items()]
    for where, value, choices in chosen:
        if value not in choices:
            meant = (*closest(value, choices, most=1), choices[0])[0]
            expected = f"expected one of {', '.join(choices)}{did_you_mean(value, choices)}"
            problems.add(f"'{where}' is '{safe_text(value)}', {expected}", f"{where}={meant}")
