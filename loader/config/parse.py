"""From a composed config to typed data.

Guarantees: an unknown key is refused anywhere, even if it was added with ``+``; one refusal reports every problem of
the config; the result has plain Python values of the types in `loader.schema`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ..errors import ConfigError, Problems, blamed
from ..keys.rules import check_settings, kinds
from ..keys.rules.ready import ready_made
from ..schema import (
    AUTO,
    EMBEDDED,
    ROOT,
    AllowConfig,
    CheckpointConfig,
    ConvertConfig,
    EvaluateConfig,
    InspectConfig,
    JobConfig,
    OtherConfig,
    OutputConfig,
    PartConfig,
    ReplayConfig,
    Rule,
    ScaffoldConfig,
    TrackConfig,
)
from ..text.lines import MISSING, NO_FIX, Fix, line
from ..text.redaction import remember
from ..text.wording import closest, safe_text
from .adapters import read_adapters
from .combining import add_uncombined, inherited
from .sections import Raw, add_unknown, gaps, names_of, no_such_rules, read_section, read_values, shown
from .sweeps import read_sweep
from .verifying import read_verify

FIRST_SEED, LAST_SEED = -(2**63), 2**64 - 1
"""The seeds that torch takes."""


def parse_job(config: Raw) -> JobConfig:
    """Turns a resolved, plain config into a `JobConfig`.

    Raises:
        ConfigError: With all unknown keys, missing values and wrong types.
    """
    remember(config)
    problems = Problems()
    add_unknown(problems, config, names_of(JobConfig), "")
    raw = {key: value for key, value in config.items() if value is not None}
    parts = raw.get("parts", {})
    checkpoint = read_section(CheckpointConfig, _without_gaps(raw.get("checkpoint", {}), parts), "checkpoint", problems)
    job = read_section(
        JobConfig, {key: raw[key] for key in ("mode", "device", "dtype", "seed") if key in raw}, "", problems
    )
    job.checkpoint = checkpoint
    if not parts or isinstance(checkpoint.path, list):
        add_uncombined(checkpoint, "checkpoint", problems)
    job.model = _model(raw.get("model"), problems)
    job.rules = _rules(raw.get("rules", {}), "rules", problems)
    job.adapters = read_adapters(raw.get("adapters", {}), "adapters", problems, _rules)
    job.parts = _parts(parts, checkpoint, job, problems)
    job.allow = read_section(AllowConfig, raw.get("allow", {}), "allow", problems)
    job.verify = read_verify(raw.get("verify", {}), job.device, problems)
    job.inspect = read_section(InspectConfig, raw.get("inspect", {}), "inspect", problems)
    job.convert = read_section(ConvertConfig, raw.get("convert", {}), "convert", problems)
    job.compare = _other(raw.get("compare", {}), problems)
    add_uncombined(job.compare, "compare", problems)
    job.scaffold = read_section(ScaffoldConfig, raw.get("scaffold", {}), "scaffold", problems)
    job.evaluate = read_section(EvaluateConfig, raw["evaluate"], "evaluate", problems) if "evaluate" in raw else None
    job.sweep = read_sweep(raw.get("sweep", {}), problems)
    job.replay = read_section(ReplayConfig, raw.get("replay", {}), "replay", problems)
    job.report = read_section(OutputConfig, raw.get("report", {}), "report", problems)
    job.track = read_section(TrackConfig, raw["track"], "track", problems) if "track" in raw else None
    job.trusted_targets = _names(raw.get("trusted_targets"), "trusted_targets", problems)
    if job.inspect.depth is not None and job.inspect.depth < 1:
        expected = "expected a whole number from 1, or null for as many levels as fit"
        problems.add(f"'inspect.depth' is '{job.inspect.depth}', {expected}", Fix("inspect.depth=1"))
    if not FIRST_SEED <= job.seed <= LAST_SEED:
        expected = f"expected a whole number from {FIRST_SEED} to {LAST_SEED}"
        problems.add(f"'seed' is {job.seed}, {expected}", Fix("seed=0"))
    problems.raise_any()
    return job


def _model(raw: Any, problems: Problems) -> Raw | None:
    if raw is None:
        return None
    if raw == EMBEDDED:
        return {"_target_": EMBEDDED}
    if not isinstance(raw, Mapping):
        problems.add(
            f"'model' is {safe_text(raw)!r}, expected a mapping with a _target_", Fix("model._target_=my_pkg.Net")
        )
        return None
    if "_target_" not in raw and isinstance(raw.get("target"), str):
        meant = {("_target_" if key == "target" else key): value for key, value in raw.items()}
        problems.add("'model' has no _target_ (did you mean that by 'target'?)", line("model", meant))
    elif "_target_" not in raw:
        problems.add(
            "'model' has no _target_",
            Fix("model._target_=my_pkg.Net"),
            Fix("model=null", "takes the model in the file"),
        )
    for place in gaps(raw, "model"):
        problems.add(f"'{place}' is required", line(place, "VALUE"))
    return raw


def _without_gaps(checkpoint: Any, parts: Any) -> Any:
    """Removes required values that are not set, if there are parts: each of them may set its own."""
    if not (parts and isinstance(checkpoint, Mapping)):
        return checkpoint
    return {key: value for key, value in checkpoint.items() if not (isinstance(value, str) and value == MISSING)}


def _rules(raw: Any, where: str, problems: Problems) -> dict[str, Rule] | None:
    if raw == AUTO:
        return None
    if isinstance(raw, str) and raw in ready_made():
        raw = [raw]
    if isinstance(raw, Sequence) and not isinstance(raw, str):
        return None if list(raw) == [AUTO] else _ready_made(raw, where, problems)
    if not isinstance(raw, Mapping):
        problems.add(
            f"'{where}' is {safe_text(raw)!r}, expected named rules", line(where, {"ddp": {"strip": "module."}})
        )
        return {}
    settings = _rule_settings()
    nameless = {key: value for key, value in raw.items() if key in settings and not isinstance(value, Mapping)}
    if nameless:
        key, value = next(iter(nameless.items()))
        plus = "+" if where == "rules" else ""
        problems.add(
            f"'{where}.{key}' is {shown(value)}, expected a rule: each rule needs a name",
            line(where, {"mine": nameless}, plus),
        )
    named = {name: rule for name, rule in raw.items() if name not in nameless}
    rules: dict[str, Rule] = {}
    for name, own in named.items():
        before = len(problems)
        rule = _rule(own, f"{where}.{name}", problems)
        if rule is not None:
            rules[str(name)] = rule
        if rule is not None and len(problems) == before:
            with problems.noting():
                check_settings(str(name), rule, where)
    return rules


def _ready_made(names: Sequence[Any], where: str, problems: Problems) -> dict[str, Rule]:
    """Returns the rules that a list names, in order, like ``rules=[ddp,compile]`` on the command line."""
    known = ready_made()
    unknown = [name for name in names if not (isinstance(name, str) and name in known)]
    if unknown:
        problems.add(*no_such_rules(where, names, unknown, list(known)))
        return {}
    rules = {key: rule for name in names for key, rule in known[name].items()}
    for gap in (gap for key, rule in rules.items() for gap in gaps(rule.settings(), f"{where}.{key}")):
        problems.add(f"'{gap}' is required", line(gap, "VALUE"))
    return rules


def _other(raw: Any, problems: Problems) -> OtherConfig:
    plain = {key: value for key, value in raw.items() if key != "rules"} if isinstance(raw, Mapping) else raw
    other = read_section(OtherConfig, plain, "compare", problems)
    if isinstance(raw, Mapping) and raw.get("rules") is not None:
        other.rules = _rules(raw["rules"], "compare.rules", problems)
    if other.atol is not None and not other.atol >= 0:
        problems.add(f"'compare.atol' is {other.atol}, expected a number from 0", Fix("compare.atol=0"))
    return other


def _rule_settings() -> dict[str, list[type[Rule]]]:
    """Returns every setting that a rule may have, with the kinds that have it."""
    found: dict[str, list[type[Rule]]] = {}
    for kind in kinds().values():
        for name in names_of(kind):
            found.setdefault(name, []).append(kind)
    return found


def _rule(raw: Any, where: str, problems: Problems) -> Rule | None:
    if not isinstance(raw, Mapping):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected a mapping", line(where, Rule.example))
        return None
    settings = _rule_settings()
    add_unknown(problems, raw, settings, where)
    mended = _mended(raw, settings)
    if mended != raw:
        problems.add_fixes(line(where, mended))
    named = [name for name in kinds() if raw.get(name) is not None]
    shown_place = safe_text(where)
    if len(named) != 1:
        expected = f"exactly one of {', '.join(kinds())}"
        problems.add(
            f"rule '{shown_place}' has {' and '.join(named) or 'no kind'}, expected {expected}",
            line(where, Rule.example) if mended == raw else NO_FIX,
        )
        return None
    kind = kinds()[named[0]]
    values = read_values(kind, raw, where, problems)
    required = [one.name for one in dataclasses.fields(kind) if one.default is dataclasses.MISSING]
    absent = [name for name in required if raw.get(name) is None]
    if values.get(named[0]) == "":
        problems.add(f"rule '{shown_place}' has an empty '{named[0]}', expected a part of a key")
    for name in absent:
        problems.add(f"rule '{shown_place}' has no '{name}'", line(where, kind.example))
    for name in raw:
        owners = settings.get(name, [kind])
        if kind not in owners and raw[name] not in (None, False):
            only = " and ".join(", ".join(one for one, other in kinds().items() if other in owners).rsplit(", ", 1))
            problems.add(f"rule '{shown_place}' has '{name}', which only {only} take", line(where, kind.example))
    return _made(kind, values, where, problems) if all(name in values for name in required) else None


def _made(kind: type[Rule], values: Raw, where: str, problems: Problems) -> Rule | None:
    """Returns a rule; whatever the constructor of a kind from outside raises is a problem."""
    owner = f"rule '{safe_text(where)}' ({kind.__module__}.{kind.__qualname__})"
    with problems.noting(), blamed(owner, ConfigError, Fix(note="leave the rule out")):
        return kind(**values)
    return None


def _mended(raw: Raw, settings: Collection[str]) -> Raw:
    """Returns a rule with the settings that its mistyped ones are most like."""
    near = {key: closest(str(key), settings, most=1) for key in raw if key not in settings}
    return {near[key][0] if near.get(key) else key: value for key, value in raw.items()}


def _parts(raw: Any, root: CheckpointConfig, job: JobConfig, problems: Problems) -> dict[str, PartConfig]:
    if not isinstance(raw, Mapping):
        problems.add(
            f"'parts' is {safe_text(raw)!r}, expected a mapping", Fix("'parts={encoder: {key: encoder_state}}'")
        )
        return {}
    parts = {}
    for name, own in _with_root(raw).items():
        where = f"parts.{name or ROOT}"
        if not isinstance(own, Mapping):
            problems.add(
                f"'{safe_text(where)}' is {safe_text(own)!r}, expected a mapping", line("parts", {name: {"key": "KEY"}})
            )
            continue
        settings = {key: value for key, value in own.items() if key not in ("rules", "adapters")}
        checkpoint = read_section(CheckpointConfig, settings, where, problems, inherited(root, settings.get("path")))
        add_uncombined(checkpoint, where, problems)
        own_rules = _rules(own["rules"], f"{where}.rules", problems) if own.get("rules") is not None else job.rules
        adapters = {} if name else job.adapters
        if own.get("adapters") is not None:
            adapters = read_adapters(own["adapters"], f"{where}.adapters", problems, _rules)
        parts[str(name)] = PartConfig(checkpoint, own_rules, adapters, shares_rules=own.get("rules") is None)
    return parts


def _with_root(raw: Raw) -> Raw:
    """Returns the parts with the root under its own name, with the settings of both of its names."""
    if ROOT not in raw:
        return raw
    plain, root = raw.get("", {}), raw[ROOT]
    merged = {**plain, **root} if isinstance(plain, Mapping) and isinstance(root, Mapping) else root
    return {"" if name == ROOT else name: merged if name in ("", ROOT) else own for name, own in raw.items()}


def _names(raw: Any, where: str, problems: Problems) -> list[str] | None:
    if raw is None or isinstance(raw, str):
        return [raw] if isinstance(raw, str) else None
    if not isinstance(raw, Sequence) or not all(isinstance(name, str) for name in raw):
        problems.add(f"'{where}' is {safe_text(raw)!r}, expected a list of names", line(where, ["my_pkg.*"]))
        return None
    return list(raw)
