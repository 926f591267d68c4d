"""A part whose file does not fit, what its user asked for, and the judgement of a way to make it fit.

Guarantees: plain data; a way is judged by the loader's own rules, load hooks and plan. A name that is in the file
stands for itself, whatever is close to it. A mistyped name of an average asks for the average: no line to type answers
a typo with the other weights.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import FitError, LoaderError
from ..formats.tree import Container, TensorEntry
from ..keys.candidates import is_average
from ..keys.guard import Guarded, refuse_quantized
from ..keys.plan import Hooked, Offered, Plan, Wanted, make_plan
from ..keys.rules import Context, Rewriting, no_context, rewrite, rewrite_metadata
from ..keys.rules.key import Keep, Regex, Rename, Strip
from ..keys.segments import segments
from ..keys.select import find, near_key
from ..schema import AUTO, AllowConfig, Rule, config_path
from ..text.wording import closest

_MOST_NAMES = 500
NOT_THE_WEIGHTS = "this is the average, not the weights"
_PLAIN = re.compile(r"\^?([\w.-]*)")

Hooks = Callable[[Mapping[str, Offered], Mapping[str, Mapping[str, object]]], Hooked]
"""Runs the model's own load hooks on the offered keys."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One part of a job whose file does not fit."""

    part: str
    """``""`` is the root."""
    root: Container
    """The whole file."""
    wanted: Mapping[str, Wanted]
    """The part's keys, as keys of the whole model."""
    hooks: Hooks
    key: str | None = None
    """The nested key that was typed; `AUTO`: any."""
    rules: Mapping[str, Rule] | None = None
    """The rules that were typed; None: any."""
    allow: AllowConfig = field(default_factory=AllowConfig)
    listed: bool = False
    """Whether `parts` names it."""
    context: Context = field(default_factory=no_context)
    """What rules may know of the file."""
    head: int | None = None
    """The size of an attention head, if the model's modules say it."""

    def full(self, name: str) -> str:
        """Returns a name of the part as a key of the whole model."""
        return f"{self.part}.{name}" if self.part else name

    def config(self, name: str) -> str:
        """Returns the config path of one of the part's settings."""
        plain = name == "rules" and not self.part and not self.listed
        return name if plain else config_path(self.part, name, listed=self.listed)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The loader's result for a nested key and rules."""

    plan: Plan
    rewriting: Rewriting
    sources: Mapping[str, TensorEntry]
    """Model key → the tensor of the file that fills it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One way to make a file fit, as the real plan confirmed it."""

    key: str | None
    rules: Mapping[str, Rule]
    allow: AllowConfig
    reasons: tuple[str, ...]
    overrides: tuple[str, ...]
    """Its nested key and rules, to be pasted, not yet quoted for a shell."""
    verdict: Verdict
    wanted: int
    """Number of keys of the model, or of the part."""
    rank: int = 0
    guess: bool = False
    excused: bool = False
    """Whether it needs allowances in addition to those that were typed."""
    average: bool = False
    """Whether it loads an average of weights."""
    swaps: bool = False
    """Whether it loads the weights where an average was asked for, or an average that nobody asked for next to them."""
    doubt: bool = False
    """Whether tensors of the right shapes may get the wrong values: shapes do not show the order."""
    resizes: bool = False
    """Whether it brings tensors of another size to the model's."""

    @property
    def loaded(self) -> int:
        """Number of model keys that it fills."""
        return len(self.verdict.plan.loaded)


def judge(problem: Problem, container: Container, rules: Mapping[str, Rule], allow: AllowConfig) -> Verdict:
    """Runs the loader's own rules, hooks and plan.

    Raises:
        FitError: A rule matches nothing or two keys collide, a load hook refuses, or the weights are quantized.
    """
    rewriting = rewritten(problem, container, rules)
    offered = {}
    for name, one in rewriting.made.items():
        full = problem.full(name)
        if isinstance(one.entry, TensorEntry) or full in problem.wanted:
            of = one.sources if one.rules else ()
            offered[full] = Offered(problem.part, one.sources[0], one.entry, of, one.rules)
    refuse_quantized(Guarded("the file", problem.root, container.children, offered), problem.wanted)
    metadata = {problem.full(p).removesuffix("."): v for p, v in rewrite_metadata(container.metadata, rules).items()}
    hooked = problem.hooks(offered, metadata)
    dropped = [problem.full(name) for name in rewriting.dropped.values()]
    plan = make_plan(problem.wanted, offered, hooked, allow, dropped)
    taken = {match.key: offered.get(match.taken.key) for match in plan.matches}
    sources = {key: o.entry for key, o in taken.items() if o is not None and isinstance(o.entry, TensorEntry)}
    if any(entry.layout == "quantized" and _is_float(problem.wanted[key]) for key, entry in sources.items()):
        raise FitError("quantized tensors do not fit a model of floats")
    return Verdict(plan, rewriting, sources)


def rewritten(problem: Problem, container: Container, rules: Mapping[str, Rule]) -> Rewriting:
    """Applies rules to a container's entries, with the sizes of the model and the settings of the file."""
    prefix = problem.full("")
    shapes = {key.removeprefix(prefix): want.shape for key, want in problem.wanted.items() if key.startswith(prefix)}
    return rewrite(container.children, rules, shapes=shapes, context=problem.context)


def patient(rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Returns rules that may match nothing."""
    return {name: dataclasses.replace(rule, optional=True) for name, rule in rules.items()}


def hits_of(problem: Problem, container: Container, rules: Mapping[str, Rule]) -> dict[str, int] | None:
    """Counts the keys that each rule hits, by its name; None if the rules collide."""
    try:
        return {hit.name: hit.hits for hit in rewritten(problem, container, patient(rules)).hits}
    except LoaderError:
        return None


def _is_float(want: Wanted) -> bool:
    return want.dtype.startswith(("float", "bfloat"))


def plan_as_typed(problem: Problem) -> Plan | None:
    """Returns the plan of a part as it is configured; None unless it passes."""
    found = find(problem.root, problem.key)
    if problem.rules is None or not isinstance(found, Container):
        return None
    try:
        plan = judge(problem, found, problem.rules, problem.allow).plan
    except FitError:
        return None
    return plan if plan.passes() else None


def asked_for(key: str | None, rules: Mapping[str, Rule]) -> bool | None:
    """Whether a nested key and rules ask for an average: True, or False for the weights; None if they do not say."""
    about = [_sought(rule) for rule in rules.values() if rule.enabled]
    plain = [text.replace("\\", "") for text in about]
    if any(map(is_average, plain)) or (key not in (None, AUTO) and is_average(key or "")):
        return True
    return None if key in (None, AUTO) else False


def _sought(rule: Rule) -> str:
    """Returns the text that a rule looks for in names; empty if it looks for none."""
    match rule:
        case Keep(text) | Strip(text) | Rename(text) | Regex(text):
            return text
    return ""


def swapped(asked: bool | None, key: str | None, names: Sequence[str]) -> str:
    """Returns a remark if an average is loaded in place of the weights, or the weights in place of one; else nothing.

    Args:
        asked: As `asked_for` returns it.
        key: The nested key that is used.
        names: The names of the loaded tensors, under that key.
    """
    if asked is None or not names:
        return ""
    averaged = is_average(key or "") or 2 * sum(map(is_average, names)) > len(names)
    if asked and not averaged:
        return "these are the weights, not the average"
    return NOT_THE_WEIGHTS if averaged and not asked else ""


def meant_key(problem: Problem) -> str | None:
    """Returns the nested key that a mistyped one is close to; None if the key is in the file, or nothing is close.

    The name of an average never means a key that is not called one.
    """
    key = problem.key
    if key in (None, AUTO) or find(problem.root, key) is not None:
        return None
    near = near_key(problem.root, key or "")
    return None if near is None or (is_average(key or "") and not is_average(near)) else near


def asked(problem: Problem, taken: str | None = AUTO) -> bool | None:
    """Whether an average was asked for: True, or False for the weights; None if nothing says which.

    Args:
        problem: The part.
        taken: The nested key that is used. If it is the one that was typed, only a rule says which is meant.
    """
    average = asked_for(None if taken == problem.key else problem.key, problem.rules or {})
    if average is not False or find(problem.root, problem.key) is not None:
        return average
    near = meant_key(problem)
    return None if near is None else is_average(near)


def asks_for_average(problem: Problem) -> bool:
    """Whether the user may mean an average next to the weights, also by a mistyped rule."""
    near = (_meant_prefix(problem, rule) for rule in _idle(problem))
    return asked(problem) is True or any(name is not None and is_average(name) for name in near)


def _selected(problem: Problem) -> Container:
    """The container that the rules apply to; the whole file if the nested key is not in it."""
    found = None if problem.key in (None, AUTO) else find(problem.root, problem.key)
    return found if isinstance(found, Container) else problem.root


def _idle(problem: Problem) -> list[Rule]:
    """Returns the user's own rules that match nothing."""
    rules = {name: rule for name, rule in (problem.rules or {}).items() if rule.enabled}
    hits = hits_of(problem, _selected(problem), rules)
    return [rules[name] for name, count in (hits or {}).items() if not count and name in rules]


def _meant_prefix(problem: Problem, rule: Rule) -> str | None:
    """Returns the prefix in the file that is close to the one in a rule."""
    plain = _PLAIN.match(_sought(rule).replace("\\", ""))
    typed = plain.group(1).strip(".") if plain else ""
    paths = [segments(name) for name in _selected(problem).tensors()]
    firsts = dict.fromkeys(path[0] for path in paths if len(path) > 1)
    seconds = dict.fromkeys(".".join(path[:2]) for path in paths if len(path) > 2)
    near = closest(typed, [*firsts, *seconds][:_MOST_NAMES], most=1)
    return near[0] if near else None
