"""What does not fit, and an explanation of it.

Guarantees: plain data; the judge is the loader's own: the real rules, the real load hooks and the real plan.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..errors import FitError
from ..formats.tree import Container, TensorEntry
from ..keys.plan import Hooked, Offered, Plan, Wanted, make_plan
from ..keys.quantized import refuse_quantized
from ..keys.rules import Rewriting, rewrite, rewrite_metadata
from ..keys.select import find
from ..schema import AllowConfig, RuleConfig, config_path

Hooks = Callable[[Mapping[str, Offered], Mapping[str, Mapping[str, object]]], Hooked]
"""How the model's own load hooks see the offered keys."""


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
    """The nested key that was given; `AUTO` where it is to be found."""
    rules: Mapping[str, RuleConfig] | None = None
    """The rules that were given; None where they are to be found."""
    allow: AllowConfig = field(default_factory=AllowConfig)
    listed: bool = False
    """Whether `parts` names it."""

    def full(self, name: str) -> str:
        """A name of the part as a key of the whole model."""
        return f"{self.part}.{name}" if self.part else name

    def config(self, name: str) -> str:
        """The config path of one of the part's settings."""
        plain = name == "rules" and not self.part and not self.listed
        return name if plain else config_path(self.part, name, listed=self.listed)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the loader would make of a nested key and rules."""

    plan: Plan
    rewriting: Rewriting
    sources: Mapping[str, TensorEntry]
    """Model key → the tensor of the file that fills it."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One way to make a file fit, as the real plan confirmed it."""

    key: str | None
    rules: Mapping[str, RuleConfig]
    allow: AllowConfig
    reasons: tuple[str, ...]
    overrides: tuple[str, ...]
    """Its nested key and rules, to be pasted, not yet quoted for a shell."""
    verdict: Verdict
    wanted: int
    """How many keys the model has, or the part."""
    rank: int = 0
    guess: bool = False
    excused: bool = False
    """Whether it takes allowances beside those that were given."""
    swaps: bool = False
    """Whether it loads an average where the weights were asked for, or the weights where an average was."""

    @property
    def loaded(self) -> int:
        """How many keys of the model are filled."""
        return len(self.verdict.plan.loaded)


def judge(problem: Problem, container: Container, rules: Mapping[str, RuleConfig], allow: AllowConfig) -> Verdict:
    """Runs the loader's own rules, hooks and plan.

    Raises:
        FitError: The rules do not work out, a load hook refuses, or the weights are quantized.
    """
    rewriting = rewrite(container.children, rules)
    names = {key: problem.full(name) for key, name in rewriting.names.items()}
    refuse_quantized("the file", problem.root, container.children, names, problem.wanted)
    offered = {}
    for key, full in names.items():
        entry = container.children[key]
        if isinstance(entry, TensorEntry) or full in problem.wanted:
            offered[full] = Offered(problem.part, key, entry)
    metadata = {problem.full(p).removesuffix("."): v for p, v in rewrite_metadata(container.metadata, rules).items()}
    hooked = problem.hooks(offered, metadata)
    dropped = [problem.full(name) for name in rewriting.dropped.values()]
    plan = make_plan(problem.wanted, offered, hooked, allow, dropped)
    taken = {match.key: offered.get(match.taken.key) for match in plan.matches}
    sources = {key: o.entry for key, o in taken.items() if o is not None and isinstance(o.entry, TensorEntry)}
    if any(entry.layout == "quantized" and _is_float(problem.wanted[key]) for key, entry in sources.items()):
        raise FitError("quantized tensors do not fit a model of floats")
    return Verdict(plan, rewriting, sources)


def _is_float(want: Wanted) -> bool:
    return want.dtype.startswith(("float", "bfloat"))


def fits(problem: Problem) -> Plan | None:
    """The plan of a part as it is configured, where that already loads everything it should."""
    found = problem.root if problem.key is None else find(problem.root, problem.key)
    if problem.rules is None or not isinstance(found, Container):
        return None
    try:
        plan = judge(problem, found, problem.rules, problem.allow).plan
    except FitError:
        return None
    return plan if plan.passes() else None
