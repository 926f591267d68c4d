"""Rules: how the entries of a file become the entries of a model.

Guarantees: pure functions of names, shapes and dtypes. Rules apply in order, each to all entries; every entry is named,
made into others or dropped, each rule's hits are counted, a rule without a hit is refused, and two names never become
one silently.

A kind is a frozen dataclass derived from `loader.schema.KeyRule` or `tensors.TensorRule` and passed to `register`;
configs, messages, suggestions and lines to type then know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...formats.tree import Leaf, Node
from ...schema import Rule
from . import packed, quantized
from .refusals import Naming, refuse_broken_names, refuse_idle
from .table import kinds, register, rule_of
from .tensors import Context, Place, Shape, TensorRule, Unsettled, no_context
from .tracing import Trace, blamed_rule, judged, settle, step_of, traced

__all__ = [
    "Context", "Hits", "Place", "Rewriting", "Rewritten", "check_settings", "kinds", "no_context", "register",
    "rewrite", "rewrite_metadata", "rule_of",
]  # fmt: skip
_REGISTERED = (packed, quantized)
"""Modules that register their ways to join."""


@dataclass(frozen=True, slots=True)
class Hits:
    """How many keys one rule hit."""

    name: str
    hits: int


@dataclass(frozen=True, slots=True)
class Rewritten:
    """One entry after all rules."""

    entry: Node
    sources: tuple[str, ...]
    """The file keys that it comes from, in order; one, unless a rule joined several."""
    rules: tuple[str, ...] = ()
    """The rules that changed its tensor; empty for one that is as in the file."""


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The result of applying rules to a file's entries."""

    made: dict[str, Rewritten] = field(default_factory=dict)
    """Model key → its entry, in the file's order, for every entry that is not dropped."""
    dropped: dict[str, str] = field(default_factory=dict)
    """File key → the name it had when it was dropped, for keys of which nothing is left."""
    hits: list[Hits] = field(default_factory=list)
    """One entry per enabled rule, in order."""

    @property
    def names(self) -> dict[str, str]:
        """File key → model key; of several the last one."""
        return {source: name for name, one in self.made.items() for source in one.sources}


_NAME = Leaf("name")
"""Stands for an entry of which only the name is known."""


def rewrite(
    entries: Mapping[str, Node] | Iterable[str],
    rules: Mapping[str, Rule],
    where: str | Place = "the checkpoint",
    shapes: Mapping[str, Shape | None] | None = None,
    context: Context | None = None,
) -> Rewriting:
    """Applies rules to the entries of a file.

    Args:
        entries: The file's entries by key, in order; names alone suffice for rules that change no tensor.
        rules: By name, in order; disabled ones are skipped.
        where: The owner of the keys, for messages; with the path of the rules, for lines to type.
        shapes: The model's keys, from which rules may take sizes.
        context: What rules may know of the file besides.

    Raises:
        FitError: A rule that is not optional hits no key, or does not fit the keys that it hits; a key loses its whole
            name, or two keys become one.
        ConfigError: A rule is invalid.
    """
    active = {name: rule for name, rule in rules.items() if rule.enabled}
    known = entries if isinstance(entries, Mapping) else dict.fromkeys(entries, _NAME)
    place = where if isinstance(where, Place) else Place(where)
    found = traced(known, active, place, context or no_context())
    exclusive = any(rule.exclusive for rule in active.values())
    left, live = list[str](), list[Trace]()
    for trace in found.traces:
        left_out = exclusive and not trace.kept
        if not trace.dropped and not left_out:
            live.append(trace)
        for name in trace.used if trace.dropped or not left_out else ():
            found.hits[name] += not isinstance(active[name], TensorRule)
        left += [] if trace.dropped or left_out else [trace.name]
        trace.dropped |= left_out
    refuse_idle(active, found.hits, list(known), left, place)
    refuse_broken_names(live, place)
    Naming(known, found, active, shapes or {}, place).refuse_collisions(live)
    settle(found.traces, active, shapes or {}, place)
    dropped = {source: trace.name for trace in found.traces for source in trace.sources}
    for source in {source for trace in live for source in trace.sources}:
        del dropped[source]
    made = {trace.name: _rewritten(trace) for trace in live}
    return Rewriting(made, dropped, [Hits(name, count) for name, count in found.hits.items()])


def _rewritten(trace: Trace) -> Rewritten:
    if isinstance(trace.entry, Unsettled):
        raise TypeError("an entry is unsettled")  # `settle` has run
    return Rewritten(trace.entry, trace.sources, trace.made_by)


def check_settings(name: str, rule: Rule, path: str) -> None:
    """Raises ConfigError if the settings of a rule that changes tensors cannot work, whatever a file holds.

    Args:
        name: The rule's name.
        rule: The rule.
        path: The config path of the rules.
    """
    if isinstance(rule, TensorRule) and rule.enabled:
        with judged(name, rule, Place("no file", path)):
            list(rule.grouped({}, no_context()))


def rewrite_metadata(
    metadata: Mapping[str, Mapping[str, object]], rules: Mapping[str, Rule]
) -> dict[str, dict[str, object]]:
    """Applies rules to the module prefixes of torch's ``_metadata``, so that versions follow their keys.

    A renamed prefix replaces one of the same name that no rule changed: DDP's own entry makes way for its module's.
    """
    dotted = {prefix: f"{prefix}." if prefix else "" for prefix in metadata}
    names = {prefix: [name] for prefix, name in dotted.items()}
    for rule_name, rule in rules.items():
        if rule.enabled:
            follow = _follower(rule_name, rule)
            with blamed_rule(rule_name, rule):
                names = {prefix: [new for one in each for new in follow(one)] for prefix, each in names.items()}
    moved: dict[str, dict[str, object]] = {}
    stayed: dict[str, dict[str, object]] = {}
    for prefix, values in metadata.items():
        for name in names[prefix]:
            (stayed if name == dotted[prefix] else moved)[name.removesuffix(".")] = dict(values)
    return stayed | moved


def _follower(name: str, rule: Rule) -> Callable[[str], Sequence[str]]:
    if isinstance(rule, TensorRule):
        return rule.follow
    step = step_of(name, rule, Place("the checkpoint"))

    def follow(prefix: str) -> Sequence[str]:
        following = step(prefix)
        return (following if isinstance(following, str) else prefix,)

    return follow
