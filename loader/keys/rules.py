"""Key rules: how the names in a file become the names of a model.

Guarantees: pure functions of names. Rules apply in order, every key is either rewritten or dropped, each rule's hits
are counted, a rule that hits nothing is told, and two keys never become one in silence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from ..errors import ConfigError, FitError
from ..schema import RuleConfig
from ..text.lines import Fix, line, override, together, typed, under
from ..text.wording import counted, listing, phrases, safe_text

KINDS = ("strip", "add", "rename", "regex", "drop", "keep")
"""The kinds of rule; each rule is exactly one of them."""

READY_MADE: Mapping[str, Mapping[str, RuleConfig]] = {
    "ddp": {"ddp": RuleConfig(regex=r"^((?:_orig_mod\.)*)module\.", to=r"\1")},
    "compile": {"compile": RuleConfig(strip="_orig_mod.", anywhere=True)},
    "fsdp": {"fsdp": RuleConfig(strip="_fsdp_wrapped_module.", anywhere=True)},
    "dataparallel": {"dataparallel": RuleConfig(regex=r"^((?:_orig_mod\.)*)module\.", to=r"\1")},
    "ema": {"ema_counter": RuleConfig(drop="n_averaged"), "ema": RuleConfig(strip="module.")},
    "lightning": {"lightning": RuleConfig(strip="model.")},
}
"""The options of the config group ``rules`` but ``auto``, as they are shipped."""

_Step = Callable[[str], str | None]
"""Gives a key's next name, or None where the rule does not hit it."""


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
    name: str
    used: list[str]
    fate: str = "stays"


def rewrite(keys: Iterable[str], rules: Mapping[str, RuleConfig], where: str = "the checkpoint") -> Rewriting:
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
    steps = [(name, rule, _step(name, rule)) for name, rule in active.items()]
    traces = {key: _follow(key, steps) for key in keys}
    hits = dict.fromkeys(active, 0)
    result = Rewriting()
    for key, trace in traces.items():
        (result.names if trace.fate == "stays" else result.dropped)[key] = trace.name
        for name in trace.used if trace.fate != "not kept" else ():
            hits[name] += 1
    result.hits = [Hits(name, count) for name, count in hits.items()]
    _refuse_idle_rules(active, hits, traces, where)
    _refuse_broken_names(result.names, where)
    _refuse_collisions(result.names, where)
    return result


def rewrite_metadata(
    metadata: Mapping[str, Mapping[str, object]], rules: Mapping[str, RuleConfig]
) -> dict[str, dict[str, object]]:
    """Applies rules to the module prefixes of torch's ``_metadata``, so that versions follow their keys.

    A prefix that a rule moved wins over one that already stood there (DDP's own entry makes way for its module's).
    """
    steps = [(name, rule, _step(name, rule)) for name, rule in rules.items() if rule.enabled and not _selects(rule)]
    moved: dict[str, dict[str, object]] = {}
    stayed: dict[str, dict[str, object]] = {}
    for prefix, values in metadata.items():
        dotted = f"{prefix}." if prefix else ""
        name = _follow(dotted, steps).name
        (stayed if name == dotted else moved)[name.removesuffix(".")] = dict(values)
    return stayed | moved


def describe(rule: RuleConfig) -> str:
    """Writes a rule as in a config: ``strip: module.``."""
    kind = next(kind for kind in KINDS if getattr(rule, kind) is not None)
    to = f", to: {safe_text(rule.to)}" if rule.to is not None else ""
    return f"{kind}: {safe_text(getattr(rule, kind))}{to}{', anywhere: true' if rule.anywhere else ''}"


def _follow(key: str, steps: list[tuple[str, RuleConfig, _Step]]) -> _Trace:
    trace = _Trace(key, [])
    kept = all(rule.keep is None for _, rule, _ in steps)
    for name, rule, step in steps:
        following = step(trace.name)
        if following is None:
            continue
        trace.used.append(name)
        if rule.drop is not None:
            trace.fate = "dropped"
            return trace
        kept = kept or rule.keep is not None
        trace.name = following
    if not kept:
        trace.fate = "not kept"
    return trace


def _selects(rule: RuleConfig) -> bool:
    return rule.drop is not None or rule.keep is not None


def _step(name: str, rule: RuleConfig) -> _Step:
    if rule.strip is not None:
        return _replace(rule.strip, "", rule.anywhere)
    if rule.rename is not None:
        return _replace(rule.rename, rule.to or "", rule.anywhere)
    if rule.add is not None:
        prefix = rule.add
        return lambda key: prefix + key
    if rule.regex is not None:
        return _substitute(name, rule.regex, rule.to or "")
    glob = rule.drop if rule.drop is not None else rule.keep
    return lambda key: key if fnmatchcase(key, str(glob)) else None


def _replace(prefix: str, to: str, anywhere: bool) -> _Step:
    if not anywhere:
        return lambda key: to + key[len(prefix) :] if key.startswith(prefix) else None
    # Whole segments only: `module.` is not the end of `my_module.`. A segment that is stripped takes its dot along.
    end = "" if prefix.endswith(".") else (r"(?=\.|$)" if to else r"(?:\.|$)")
    pattern = re.compile(rf"(?:^|(?<=\.)){re.escape(prefix)}{end}")

    def step(key: str) -> str | None:
        following, count = pattern.subn(lambda _: to, key)
        return following if count else None

    return step


def _substitute(name: str, expression: str, to: str) -> _Step:
    try:
        pattern = re.compile(expression)
        pattern.sub(to, "")
    except (re.error, IndexError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"rule '{safe_text(name)}': the regular expression {safe_text(expression)!r} with to: {safe_text(to)!r} "
            f"does not work: {safe_text(error)}",
            typed(
                override(under("rules", name, "regex"), r"^layers\.(\d+)\."),
                override(under("rules", name, "to"), r"blocks.\1."),
            ),
        ) from error

    def step(key: str) -> str | None:
        following, count = pattern.subn(to, key)
        return following if count else None

    return step


def _refuse_idle_rules(
    active: Mapping[str, RuleConfig], hits: Mapping[str, int], traces: Mapping[str, _Trace], where: str
) -> None:
    idle = [name for name, count in hits.items() if count == 0 and not active[name].optional]
    if not idle:
        return
    told = "; ".join(f"'{safe_text(name)}' ({describe(active[name])})" for name in idle)
    noun = "rule hits" if len(idle) == 1 else "rules hit"
    raise FitError(
        f"{len(idle)} {noun} none of the {counted(len(traces), 'key')} of {where}: {told}. "
        f"Its keys are {listing(traces)}.",
        *_advice(active, idle, [trace.name for trace in traces.values() if trace.fate == "stays"]),
    )


def _advice(active: Mapping[str, RuleConfig], idle: list[str], left: list[str]) -> list[Fix]:
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
