"""From a composed config to typed data.

Guarantees: a key that does not exist is refused wherever it stands, also one that was added with ``+``; every problem
of the config is told in one refusal; what comes out are plain Python values of the types in `loader.config.schema`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loader.config.schema import (
    AllowConfig,
    CheckpointConfig,
    ExpectConfig,
    JobConfig,
    PartConfig,
    RuleConfig,
    VerifyConfig,
)
from loader.errors import ConfigError
from loader.rules import KINDS
from loader.wording import did_you_mean, safe_text

MODES = ("load", "plan")
"""What a job can do."""

CHECKS = ("crc", "structure", "full")
"""How much of a file's integrity is verified."""

MISSING = "???"
"""OmegaConf's mark for a value that must be given."""

_Record = TypeVar("_Record")
_Raw = Mapping[str, Any]


def parse_job(config: _Raw) -> JobConfig:
    """Turns a resolved, plain config into a `JobConfig`.

    Raises:
        ConfigError: Unknown keys, missing values and wrong types, all of them at once.
    """
    problems = _Problems()
    problems.unknown(config, JobConfig, "")
    raw = {key: value for key, value in config.items() if value is not None}
    checkpoint = _record(CheckpointConfig, raw.get("checkpoint", {}), "checkpoint", problems)
    job = _record(JobConfig, {key: raw[key] for key in ("mode", "device", "dtype", "seed") if key in raw}, "", problems)
    job.checkpoint = checkpoint
    job.model = _model(raw.get("model"), problems)
    job.rules = _rules(raw.get("rules", {}), "rules", problems)
    job.parts = _parts(raw.get("parts", {}), raw.get("checkpoint", {}), job.rules, problems)
    job.allow = _record(AllowConfig, raw.get("allow", {}), "allow", problems)
    job.verify = _verify(config.get("verify") or {}, problems)
    job.trusted_targets = _names(raw.get("trusted_targets"), "trusted_targets", problems)
    _choices(job, problems)
    problems.raise_any()
    return job


def parse_rules(rules: _Raw | None) -> dict[str, RuleConfig]:
    """Turns named rules, as in YAML, into records; raises ConfigError."""
    problems = _Problems()
    parsed = _rules(rules or {}, "rules", problems)
    problems.raise_any()
    return parsed


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


def _record(kind: type[_Record], raw: Any, where: str, problems: _Problems) -> _Record:
    """Checks one section's keys and types; OmegaConf's structured configs do the conversions."""
    empty = kind()
    if not isinstance(raw, Mapping):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected a mapping", f"'{where}={{…}}'")
        return empty
    problems.unknown(raw, kind, where)  # type: ignore[arg-type]
    hints = get_type_hints(kind)
    for name, value in raw.items():
        place = f"{where}.{name}" if where else str(name)
        if value == MISSING:
            problems.add(f"'{place}' must be given", f"{place}={'FILE' if name == 'path' else 'VALUE'}")
        elif name in hints:
            _assign(empty, str(name), hints[str(name)], value, place, problems)
    return empty


def _assign(record: Any, name: str, hint: Any, value: Any, place: str, problems: _Problems) -> None:
    if hint == list[str] and isinstance(value, str):
        value = [value]
    field = dataclasses.make_dataclass("Field", [(name, hint)])
    try:
        checked = OmegaConf.merge(OmegaConf.structured(field), {name: value})
        converted = OmegaConf.to_container(checked, resolve=False)
    except OmegaConfBaseException as error:
        reason = safe_text(str(error).splitlines()[0], 160)
        problems.add(f"'{place}' has a wrong value: {reason}")
        return
    setattr(record, name, converted[name])  # type: ignore[index,call-overload]


def _model(raw: Any, problems: _Problems) -> _Raw | None:
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        problems.add(f"'model' is {safe_text(raw)!r}, expected a mapping with a _target_", "model._target_=my_pkg.Net")
        return None
    if "_target_" not in raw:
        problems.add("'model' has no _target_", "model._target_=my_pkg.Net, or model=null to take what is in the file")
    return raw


def _rules(raw: Any, where: str, problems: _Problems) -> dict[str, RuleConfig]:
    if not isinstance(raw, Mapping):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected named rules", f"'{where}={{ddp: {{strip: module.}}}}'")
        return {}
    return {str(name): _rule(rule, f"{where}.{name}", problems) for name, rule in raw.items()}


def _rule(raw: Any, where: str, problems: _Problems) -> RuleConfig:
    rule = _record(RuleConfig, raw, where, problems)
    kinds = [kind for kind in KINDS if getattr(rule, kind) is not None]
    told = "exactly one of strip, add, rename, regex, drop, keep"
    if len(kinds) != 1 and isinstance(raw, Mapping):
        problems.add(f"rule '{safe_text(where)}' has {' and '.join(kinds) or 'no kind'}, expected {told}")
    elif (rule.to is None) == (kinds in (["rename"], ["regex"])):
        fault = "has no 'to'" if rule.to is None else f"has a 'to', which {kinds[0] if kinds else 'it'} does not take"
        problems.add(f"rule '{safe_text(where)}' {fault}", f"{where}: {{rename: encoder., to: backbone.}}")
    if rule.anywhere and kinds not in (["strip"], ["rename"]):
        problems.add(f"rule '{safe_text(where)}' has 'anywhere', which only strip and rename take")
    return rule


def _parts(raw: Any, root: Any, rules: dict[str, RuleConfig], problems: _Problems) -> dict[str, PartConfig]:
    if not isinstance(raw, Mapping):
        problems.add(f"'parts' is {safe_text(raw)!r}, expected a mapping", "'parts={encoder: {key: encoder_state}}'")
        return {}
    parts = {}
    for name, own in raw.items():
        where = f"parts.{name}"
        if not isinstance(own, Mapping):
            problems.add(f"'{where}' is {safe_text(own)!r}, expected a mapping", f"'parts={{{name}: {{key: …}}}}'")
            continue
        known = [field.name for field in dataclasses.fields(CheckpointConfig)]
        settings = {key: value for key, value in own.items() if key != "rules"}
        problems.unknown({key: 0 for key in settings if key not in known}, CheckpointConfig, where)
        merged = {key: value for key, value in {**_inherited(root, own), **settings}.items() if key in known}
        present = {key: value for key, value in merged.items() if value is not None}
        checkpoint = _record(CheckpointConfig, present, where, problems)
        own_rules = _rules(own["rules"], f"{where}.rules", problems) if own.get("rules") is not None else rules
        parts[str(name)] = PartConfig(checkpoint, own_rules)
    return parts


def _inherited(root: Any, own: _Raw) -> dict[str, Any]:
    """What a part takes from `checkpoint`: everything but the digest of another file."""
    defaults = dict(root) if isinstance(root, Mapping) else {}
    if own.get("path") is not None:
        defaults.pop("sha256", None)
    return defaults


def _verify(raw: Any, problems: _Problems) -> VerifyConfig:
    if not isinstance(raw, Mapping):
        problems.add(f"'verify' is {safe_text(raw)!r}, expected a mapping", "verify.forward=false")
        return VerifyConfig()
    plain = {key: value for key, value in raw.items() if key not in ("input", "expect")}
    verify = _record(VerifyConfig, plain, "verify", problems)
    verify.input = raw.get("input")
    expect = {key: value for key, value in (raw.get("expect") or {}).items() if value is not None}
    verify.expect = _record(ExpectConfig, expect, "verify.expect", problems)
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
            problems.add(
                f"'{where}' is '{safe_text(value)}', expected one of {', '.join(choices)}{did_you_mean(value, choices)}"
            )
