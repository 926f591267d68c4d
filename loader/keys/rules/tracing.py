"""Applies rules to the entries of a file, one rule after the other, each to all entries.

Guarantees: pure; every entry of the file is in a trace, dropped or not. Two entries may share a name on the way, as
long as no rule that changes tensors takes one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from ...errors import ConfigError, FitError, LoaderError, blamed
from ...formats.tree import Node, TensorEntry
from ...schema import Fate, KeyRule, Rule, Step
from ...text.lines import Fix, line, override, typed, under
from ...text.wording import listing, safe_text
from .tensors import Context, Group, Mending, Place, Shape, TensorRule, Unfit, Unsettled, Unusable

LEAVE_OUT = Fix(note="leave the rule out")


@dataclass(slots=True)
class Trace:
    """The state of one entry between two rules."""

    sources: tuple[str, ...]
    """The file keys that it comes from."""
    name: str
    entry: Node | Unsettled
    used: list[str] = field(default_factory=list)
    """The rules that hit it, in order."""
    made_by: tuple[str, ...] = ()
    """Those of them that changed tensors."""
    dropped: bool = False
    kept: bool = False
    named: dict[str, str] = field(default_factory=dict)
    """The names that rules gave it, by rule, in order; its first one is that of its first source."""
    position: int = 0
    """Its position among the results of the last rule that made it."""


@dataclass(slots=True)
class Traced:
    """All entries after all rules, and how often each rule hit."""

    traces: list[Trace]
    hits: dict[str, int]


def traced(entries: Mapping[str, Node], active: Mapping[str, Rule], where: Place, context: Context) -> Traced:
    """Applies rules to entries.

    Args:
        entries: The file's entries by key, in order.
        active: The enabled rules by name, in order.
        where: The owner of the keys, for messages.
        context: What rules may know of the file.

    Raises:
        FitError: A rule that changes tensors does not fit the entries that it hits.
        ConfigError: A rule is invalid.
    """
    found = Traced([Trace((key,), key, entry) for key, entry in entries.items()], dict.fromkeys(active, 0))
    for name, rule in active.items():
        if isinstance(rule, TensorRule):
            _apply(found, name, rule, where, context)
        else:
            _rename(found.traces, name, rule, where)
    return found


def _rename(traces: Sequence[Trace], name: str, rule: Rule, where: Place) -> None:
    step = step_of(name, rule, where)
    with blamed_rule(name, rule):
        for trace in traces:
            following = None if trace.dropped else step(trace.name)
            if following is not None:
                trace.used.append(name)
                _follow(trace, following, name)


def _follow(trace: Trace, following: object, rule: str) -> None:
    if isinstance(following, str):
        trace.named[rule] = trace.name = following
    elif not isinstance(following, Fate):
        raise TypeError(f"its step gave {type(following).__name__}, expected a name, a Fate or None")
    trace.dropped = following is Fate.DROPPED
    trace.kept = trace.kept or following is Fate.KEPT


def _apply(found: Traced, name: str, rule: TensorRule, where: Place, context: Context) -> None:
    """Replaces the entries that a rule takes by those that it makes, at the place of the first."""
    live = [trace for trace in found.traces if not trace.dropped and isinstance(trace.entry, TensorEntry | Unsettled)]
    named: dict[str, Trace] = {}
    for trace in live:
        named.setdefault(trace.name, trace)
    with judged(name, rule, where):
        open_ = [key for key, trace in named.items() if isinstance(trace.entry, Unsettled) and rule.hits(key)]
    if open_:
        raise FitError(
            f"{said(name, rule)} needs sizes in {where} that an earlier rule leaves to the model: those of "
            f"{listing(open_)}",
            Fix(note="give sizes in the earlier rule, or put this rule before it"),
        )
    settled = {key: trace.entry for key, trace in named.items() if isinstance(trace.entry, TensorEntry)}
    with judged(name, rule, where):
        groups = list(rule.grouped(settled, context))
    taken = {member: group for group in groups for member in group.members}
    doubled = [trace.name for trace in live if trace.name in taken and named[trace.name] is not trace]
    if doubled:
        raise FitError(
            f"two keys in {where} have the same name before {said(name, rule)}: {listing(doubled)}",
            Fix(note="drop one of them first"),
        )
    found.hits[name] += len(taken)
    found.traces = list(_following(found.traces, named, taken, name)) if taken else found.traces


def _following(
    traces: Sequence[Trace], named: Mapping[str, Trace], taken: Mapping[str, Group], rule: str
) -> Iterator[Trace]:
    for trace in traces:
        group = taken.get(trace.name) if named.get(trace.name) is trace else None
        if group is None:
            yield trace
        elif group.members[0] == trace.name:
            whole = trace if len(group.members) == 1 else _united([named[member] for member in group.members])
            used, made_by = [*whole.used, rule], (*whole.made_by, rule)
            for at, result in enumerate(group.results):
                name = trace.name if result.name is None else result.name
                names, dropped = {**whole.named, rule: name}, result.name is None
                yield Trace(whole.sources, name, result.entry, [*used], made_by, dropped, whole.kept, names, at)


def _united(members: Sequence[Trace]) -> Trace:
    """Returns what the members of a group have in common: all their sources, and the rules that hit any of them."""
    return Trace(
        tuple(dict.fromkeys(source for member in members for source in member.sources)),
        members[0].name,
        members[0].entry,
        list(dict.fromkeys(one for member in members for one in member.used)),
        tuple(dict.fromkeys(one for member in members for one in member.made_by)),
        kept=any(member.kept for member in members),
        named=members[0].named,
    )


def settle(
    traces: Sequence[Trace], rules: Mapping[str, Rule], shapes: Mapping[str, Shape | None], where: Place
) -> None:
    """Gives the entries whose sizes come from the model their shapes.

    Args:
        traces: All traces, after all rules.
        rules: The enabled rules.
        shapes: The model's keys.
        where: The owner of the keys, for messages.

    Raises:
        FitError: A size does not fit.
    """
    open_: dict[int, list[tuple[Unsettled, Trace]]] = {}
    for trace in traces:
        if isinstance(trace.entry, Unsettled):
            open_.setdefault(id(trace.entry.pending), []).append((trace.entry, trace))
    for group in open_.values():
        group.sort(key=lambda one: one[0].index)
        names = [None if trace.dropped else trace.name for _, trace in group]
        wanted = [None if name is None else shapes.get(name) for name in names]
        by = group[0][1].made_by[-1]
        with judged(by, rules[by], where):
            entries = group[0][0].pending.settled(names, wanted)
        for (_, trace), entry in zip(group, entries, strict=True):
            trace.entry = entry


@contextmanager
def judged(name: str, rule: Rule, where: Place) -> Iterator[None]:
    """Refuses what a rule raises: entries that it cannot map, settings that cannot work, and a failure of its code."""
    with blamed_rule(name, rule):
        try:
            yield
        except Unfit as fault:
            fixes = [line_of(name, fix, where) if isinstance(fix, Mending) else fix for fix in fault.fixes]
            raise FitError(f"{said(name, rule)} does not fit {where}: {fault}", *fixes) from fault
        except ValueError as fault:
            if isinstance(fault, LoaderError):
                raise
            raise invalid(name, rule, fault, where) from fault


def line_of(name: str, mending: Mending, where: Place) -> Fix:
    """Returns the line with a setting of a rule."""
    """Returns the line with a setting of a rule."""
    return line(under(where.path, name, *mending.setting.split(".")), mending.value, note=mending.note)


def said(name: str, rule: Rule) -> str:
    """Writes ``rule 'qkv' (split: .qkv., into: …)``."""
    return f"rule '{safe_text(name)}' ({rule})"


def step_of(name: str, rule: Rule, where: Place) -> Step:
    """Returns the function of a rule that changes names.

    Raises:
        ConfigError: The rule is invalid.
    """
    if not isinstance(rule, KeyRule):
        raise TypeError(f"{type(rule).__name__} has no step")
    with judged(name, rule, where):
        step = rule.step()
        if not callable(step):
            raise TypeError(f"its step() returned {type(step).__name__}, expected a function")
        return step


def invalid(name: str, rule: Rule, fault: ValueError, where: Place) -> ConfigError:
    """Returns the refusal of a rule that cannot work."""
    if isinstance(fault, Unusable):
        fixes = [line_of(name, mending, where) for mending in fault.mendings] or [LEAVE_OUT]
        return ConfigError(f"rule '{safe_text(name)}': {fault}", *fixes)
    # The example of another kind would give the rule two kinds.
    mended = [override(under(where.path, name, setting), value) for setting, value in rule.example.items()]
    example = typed(*mended) if all(hasattr(rule, setting) for setting in rule.example) else LEAVE_OUT
    return ConfigError(f"rule '{safe_text(name)}': {fault}", example)


def blamed_rule(name: str, rule: Rule) -> AbstractContextManager[None]:
    """Refuses whatever a rule of a kind from outside raises, with the rule and its class."""
    kind = type(rule)
    return blamed(f"rule '{safe_text(name)}' ({kind.__module__}.{kind.__qualname__})", ConfigError, LEAVE_OUT)
