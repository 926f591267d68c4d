"""Rules: how the names in a file become the names of a model.

Guarantees: pure functions of names. Rules apply one after the other, every name is rewritten, kept out or dropped, each
rule's hits are counted, a rule that hits nothing is refused, and two names never become one in silence.

A kind is a frozen dataclass below `loader.schema.Rule`, made known by `register`: a config, the messages about it, the
suggestions and the lines to type then know it. Today's kinds change names one at a time; the rules pass over the whole
ordered set of names one after the other, so that a kind can be given that set, and entries instead of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ...errors import ConfigError, FitError
from ...schema import Fate, Rule, Step
from ...text.lines import Fix, line, override, together, typed, under
from ...text.wording import counted, listing, phrases, safe_text
from .key import Add, Drop, Keep, Regex, Rename, Strip

_Kind = TypeVar("_Kind", bound=type[Rule])
_KINDS: dict[str, type[Rule]] = {}


def register(kind: _Kind) -> _Kind:
    """Makes a kind of rule known under the name of its first own field; also a decorator."""
    _KINDS[next(one.name for one in fields(kind) if not one.kw_only)] = kind
    return kind


for _kind in (Strip, Add, Rename, Regex, Drop, Keep):
    register(_kind)


def kinds() -> Mapping[str, type[Rule]]:
    """Every kind of rule by the name that a config has for it."""
    return dict(_KINDS)


def rule_of(settings: Mapping[str, Any]) -> Rule:
    """Makes a rule of valid settings, as `Rule.settings` returns them."""
    return next(kind for name, kind in _KINDS.items() if name in settings)(**settings)


@dataclass(frozen=True, slots=True)
class Hits:
    """How many keys one rule hit."""

    name: str
    hits: int


@dataclass(slots=True)
class Rewriting:
    """What the rules made of a file's keys."""

    names: dict[str, str] = field(default_factory=dict)
    """File key → model key, in the file's order, for every key that stays."""
    dropped: dict[str, str] = field(default_factory=dict)
    """File key → the name it had when it was dropped."""
    hits: list[Hits] = field(default_factory=list)
    """One entry per enabled rule, in order."""


@dataclass(slots=True)
class _Trace:
    """One name on its way through the rules."""

    name: str
    used: list[str]
    dropped: bool = False
    kept: bool = False


def rewrite(keys: Iterable[str], rules: Mapping[str, Rule], where: str = "the checkpoint") -> Rewriting:
    """Applies rules to the keys of a file.

    Args:
        keys: The file's keys, each once.
        rules: By name, in the order in which they apply; disabled ones are passed over.
        where: What the keys are of, for messages.

    Raises:
        FitError: A rule that is not optional hits no key, a key loses its whole name, or two keys become one.
        ConfigError: A regular expression does not compile.
    """
    active = {name: rule for name, rule in rules.items() if rule.enabled}
    traces = _traces(keys, active)
    exclusive = any(rule.exclusive for rule in active.values())
    hits = dict.fromkeys(active, 0)
    result = Rewriting()
    for key, trace in traces.items():
        left_out = exclusive and not trace.kept
        (result.dropped if trace.dropped or left_out else result.names)[key] = trace.name
        for name in trace.used if trace.dropped or not left_out else ():
            hits[name] += 1
    result.hits = [Hits(name, count) for name, count in hits.items()]
    _refuse_idle_rules(active, hits, list(traces), list(result.names.values()), where)
    _refuse_broken_names(result.names, where)
    _refuse_collisions(result.names, where)
    return result


def rewrite_metadata(
    metadata: Mapping[str, Mapping[str, object]], rules: Mapping[str, Rule]
) -> dict[str, dict[str, object]]:
    """Applies rules to the module prefixes of torch's ``_metadata``, so that versions follow their keys.

    A prefix that a rule moved wins over one that already stood there (DDP's own entry makes way for its module's).
    """
    steps = [_step(name, rule) for name, rule in rules.items() if rule.enabled]
    moved: dict[str, dict[str, object]] = {}
    stayed: dict[str, dict[str, object]] = {}
    for prefix, values in metadata.items():
        dotted = name = f"{prefix}." if prefix else ""
        for step in steps:
            following = step(name)
            name = following if isinstance(following, str) else name
        (stayed if name == dotted else moved)[name.removesuffix(".")] = dict(values)
    return stayed | moved


def _traces(keys: Iterable[str], active: Mapping[str, Rule]) -> dict[str, _Trace]:
    """Passes every key through the rules, one rule after the other."""
    traces = {key: _Trace(key, []) for key in keys}
    for name, rule in active.items():
        step = _step(name, rule)
        for trace in traces.values():
            following = None if trace.dropped else step(trace.name)
            if following is None:
                continue
            trace.used.append(name)
            if isinstance(following, str):
                trace.name = following
            trace.dropped = following is Fate.DROPPED
            trace.kept = trace.kept or following is Fate.KEPT
    return traces


def _step(name: str, rule: Rule) -> Step:
    try:
        return rule.step()
    except ValueError as error:
        mended = (override(under("rules", name, setting), value) for setting, value in rule.example.items())
        raise ConfigError(f"rule '{safe_text(name)}': {error}", typed(*mended)) from error


def _refuse_idle_rules(
    active: Mapping[str, Rule], hits: Mapping[str, int], keys: Sequence[str], left: Sequence[str], where: str
) -> None:
    idle = [name for name, count in hits.items() if count == 0 and not active[name].optional]
    if not idle:
        return
    told = "; ".join(f"'{safe_text(name)}' ({active[name]})" for name in idle)
    noun = "rule hits" if len(idle) == 1 else "rules hit"
    raise FitError(
        f"{len(idle)} {noun} none of the {counted(len(keys), 'key')} of {where}: {told}. Its keys are {listing(keys)}.",
        *_advice(active, idle, left),
    )


def _advice(active: Mapping[str, Rule], idle: Sequence[str], left: Sequence[str]) -> list[Fix]:
    """What to do about rules that hit nothing: some only stand too early."""
    early = [name for name in idle if any(_step(name, active[name])(key) is not None for key in left)]
    if early:
        order = [*(name for name in active if name not in early), *early]
        return [line("rules", order, note="the outermost wrapper comes first")]
    idling = together((line(under("rules", name, "optional"), value=True) for name in idle), note="lets it idle")
    return [Fix(note="leave the rule out"), *([idling] if idling.line else [])]


def _refuse_broken_names(names: Mapping[str, str], where: str) -> None:
    broken = {key: name for key, name in names.items() if _breaks(key, name)}
    if broken:
        told = phrases(f"{safe_text(key)} → '{safe_text(name)}'" for key, name in broken.items())
        raise FitError(
            f"the rules leave {counted(len(broken), 'key')} of {where} without a proper name: {told}.",
            Fix(note="a prefix usually ends in a dot: {strip: module.}"),
        )


def _breaks(key: str, name: str) -> bool:
    """Whether a rule left an empty name, or a dot at an end where the file's key has none."""
    if not name:
        return bool(key)
    return (name[0] == "." and key[:1] != ".") or (name[-1] == "." and key[-1:] != ".")


def _refuse_collisions(names: Mapping[str, str], where: str) -> None:
    first: dict[str, str] = {}
    clashes: list[str] = []
    for key in sorted(names):
        other = first.setdefault(names[key], key)
        if other != key:
            clashes.append(f"{safe_text(other)} and {safe_text(key)} both become {safe_text(names[key])}")
    if clashes:
        raise FitError(
            f"the rules make one key of two in {where}: {phrases(clashes)}.",
            line("rules", {"only": {"keep": "module.*"}}, "+", note="drops one of the two first"),
            Fix(note="make the rule narrower"),
        )
