"""Rules: how the names in a file become the names of a model.

Guarantees: pure functions of names. Rules apply in order, each to all names; every name is rewritten or dropped, each
rule's hits are counted, a rule without a hit is refused, and two names never become one silently.

A kind is a frozen dataclass derived from `loader.schema.Rule` and passed to `register`; configs, messages, suggestions
and lines to type then know it. Today's kinds change one name at a time. Since every rule passes over the whole ordered
set of names before the next one does, a kind that maps sets of entries needs no other order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from inspect import isabstract
from typing import Any, TypeVar

from ...errors import ConfigError, FitError, blamed
from ...schema import Fate, Rule, Step
from ...text.lines import Fix, line, override, together, typed, under
from ...text.wording import counted, listing, phrases, safe_text
from .key import Add, Drop, Keep, Regex, Rename, Strip

_Kind = TypeVar("_Kind", bound=type[Rule])
_KINDS: dict[str, type[Rule]] = {}
_LEAVE_OUT = Fix(note="leave the rule out")


def register(kind: _Kind) -> _Kind:
    """Registers a kind of rule under the name of its first own field; also usable as a decorator.

    Raises:
        ValueError: It is not a frozen dataclass below `Rule` with a `step` and a field of its own, or a name is taken.
    """
    _KINDS[_name_of(kind)] = kind
    return kind


def _name_of(kind: type) -> str:
    """Returns the name of a kind of rule; raises ValueError for one that no config could use."""
    parameters = vars(kind).get("__dataclass_params__")
    if not issubclass(kind, Rule) or parameters is None or not parameters.frozen:
        raise ValueError(f"{kind.__qualname__} is not a kind of rule, expected a frozen dataclass below Rule")
    own = [one.name for one in fields(kind) if not one.kw_only]
    if not own or isabstract(kind):
        raise ValueError(f"the kind of rule {kind.__qualname__} has no {'step' if own else 'field of its own'}")
    settings = {one.name for other in _KINDS.values() for one in fields(other)}
    taken = {name for name in own if hasattr(Rule, name) or name in _KINDS} | ({own[0]} & settings)
    if taken:
        raise ValueError(f"the kind of rule {kind.__qualname__} has '{min(taken)}', a name that rules have already")
    return own[0]


for _kind in (Strip, Add, Rename, Regex, Drop, Keep):
    register(_kind)


def kinds() -> Mapping[str, type[Rule]]:
    """Returns every kind of rule by its name in a config."""
    return dict(_KINDS)


def rule_of(settings: Mapping[str, Any]) -> Rule:
    """Builds a rule from valid settings, as `Rule.settings` returns them."""
    return next(kind for name, kind in _KINDS.items() if name in settings)(**settings)


@dataclass(frozen=True, slots=True)
class Hits:
    """How many keys one rule hit."""

    name: str
    hits: int


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The result of applying rules to a file's keys."""

    names: dict[str, str] = field(default_factory=dict)
    """File key → model key, in the file's order, for every key that is not dropped."""
    dropped: dict[str, str] = field(default_factory=dict)
    """File key → the name it had when it was dropped."""
    hits: list[Hits] = field(default_factory=list)
    """One entry per enabled rule, in order."""


@dataclass(slots=True)
class _Trace:
    """The state of one name between two rules."""

    name: str
    used: list[str]
    dropped: bool = False
    kept: bool = False


def rewrite(keys: Iterable[str], rules: Mapping[str, Rule], where: str = "the checkpoint") -> Rewriting:
    """Applies rules to the keys of a file.

    Args:
        keys: The file's keys, each once.
        rules: By name, in order; disabled ones are skipped.
        where: The owner of the keys, for messages.

    Raises:
        FitError: A rule that is not optional hits no key, a key loses its whole name, or two keys become one.
        ConfigError: A rule is invalid.
    """
    active = {name: rule for name, rule in rules.items() if rule.enabled}
    traces = _traces(keys, active)
    exclusive = any(rule.exclusive for rule in active.values())
    hits = dict.fromkeys(active, 0)
    names, dropped = dict[str, str](), dict[str, str]()
    for key, trace in traces.items():
        left_out = exclusive and not trace.kept
        (dropped if trace.dropped or left_out else names)[key] = trace.name
        for name in trace.used if trace.dropped or not left_out else ():
            hits[name] += 1
    _refuse_idle_rules(active, hits, list(traces), list(names.values()), where)
    _refuse_broken_names(names, where)
    _refuse_collisions(names, where)
    return Rewriting(names, dropped, [Hits(name, count) for name, count in hits.items()])


def rewrite_metadata(
    metadata: Mapping[str, Mapping[str, object]], rules: Mapping[str, Rule]
) -> dict[str, dict[str, object]]:
    """Applies rules to the module prefixes of torch's ``_metadata``, so that versions follow their keys.

    A renamed prefix replaces one of the same name that no rule changed: DDP's own entry makes way for its module's.
    """
    dotted = {prefix: f"{prefix}." if prefix else "" for prefix in metadata}
    names = dict(dotted)
    for rule_name, rule in rules.items():
        if rule.enabled:
            step = _step(rule_name, rule)
            with _blamed(rule_name, rule):
                followed = {prefix: step(name) for prefix, name in names.items()}
            names |= {prefix: name for prefix, name in followed.items() if isinstance(name, str)}
    moved: dict[str, dict[str, object]] = {}
    stayed: dict[str, dict[str, object]] = {}
    for prefix, values in metadata.items():
        name = names[prefix]
        (stayed if name == dotted[prefix] else moved)[name.removesuffix(".")] = dict(values)
    return stayed | moved


def _traces(keys: Iterable[str], active: Mapping[str, Rule]) -> dict[str, _Trace]:
    """Applies the rules to every key, one rule after the other."""
    traces = {key: _Trace(key, []) for key in keys}
    for name, rule in active.items():
        step = _step(name, rule)
        with _blamed(name, rule):
            for trace in traces.values():
                following = None if trace.dropped else step(trace.name)
                if following is not None:
                    trace.used.append(name)
                    _follow(trace, following)
    return traces


def _follow(trace: _Trace, following: object) -> None:
    if isinstance(following, str):
        trace.name = following
    elif not isinstance(following, Fate):
        raise TypeError(f"its step gave {type(following).__name__}, expected a name, a Fate or None")
    trace.dropped = following is Fate.DROPPED
    trace.kept = trace.kept or following is Fate.KEPT


def _step(name: str, rule: Rule) -> Step:
    with _blamed(name, rule):
        try:
            step = rule.step()
        except ValueError as error:
            # The example of another kind would give the rule two kinds.
            mended = [override(under("rules", name, setting), value) for setting, value in rule.example.items()]
            example = typed(*mended) if all(hasattr(rule, setting) for setting in rule.example) else _LEAVE_OUT
            raise ConfigError(f"rule '{safe_text(name)}': {error}", example) from error
        if not callable(step):
            raise TypeError(f"its step() returned {type(step).__name__}, expected a function")
        return step


def _blamed(name: str, rule: Rule) -> AbstractContextManager[None]:
    """Refuses whatever a rule of a kind from outside raises, with the rule and its class."""
    kind = type(rule)
    return blamed(f"rule '{safe_text(name)}' ({kind.__module__}.{kind.__qualname__})", ConfigError, _LEAVE_OUT)


def _refuse_idle_rules(
    active: Mapping[str, Rule], hits: Mapping[str, int], keys: Sequence[str], left: Sequence[str], where: str
) -> None:
    idle = [name for name, count in hits.items() if count == 0 and not active[name].optional]
    if not idle:
        return
    said = "; ".join(f"'{safe_text(name)}' ({active[name]})" for name in idle)
    noun = "rule matches" if len(idle) == 1 else "rules match"
    raise FitError(
        f"{len(idle)} {noun} none of the {counted(len(keys), 'key')} in {where}: {said}. Its keys are {listing(keys)}.",
        *_advice(active, idle, left),
    )


def _advice(active: Mapping[str, Rule], idle: Sequence[str], left: Sequence[str]) -> list[Fix]:
    """Returns the fixes for rules without a hit; some only come too early."""
    early = [name for name in idle if _hits_any(name, active[name], left)]
    if early:
        order = [*(name for name in active if name not in early), *early]
        return [line("rules", order, note="the outermost wrapper comes first")]
    idling = together(
        (line(under("rules", name, "optional"), value=True) for name in idle), note="allows the rule to match nothing"
    )
    return [_LEAVE_OUT, *([idling] if idling.line else [])]


def _hits_any(name: str, rule: Rule, keys: Sequence[str]) -> bool:
    step = _step(name, rule)
    with _blamed(name, rule):
        return any(step(key) is not None for key in keys)


def _refuse_broken_names(names: Mapping[str, str], where: str) -> None:
    broken = {key: name for key, name in names.items() if _breaks(key, name)}
    if broken:
        texts = phrases(f"{safe_text(key)} → '{safe_text(name)}'" for key, name in broken.items())
        raise FitError(
            f"the rules leave {counted(len(broken), 'key')} in {where} without a valid name: {texts}.",
            Fix(note="a prefix usually ends in a dot: {strip: module.}"),
        )


def _breaks(key: str, name: str) -> bool:
    """Whether a rule left an empty name, or a dot at an end that the file's key does not have."""
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
            f"the rules map two keys to the same name in {where}: {phrases(clashes)}.",
            line("rules", {"only": {"keep": "module.*"}}, "+", note="drops one of the two first"),
            Fix(note="make the rule narrower"),
        )
