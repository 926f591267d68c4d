"""The arguments of the model's constructor as they go into a config, each with the reason for its value.

Guarantees: a value is written only where it was given, where the file carries it, where it is the constructor's own
default, or where the shapes leave no other; every other required argument is left open.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from torch import nn

from ...builder.arguments import signature_of
from ...builder.policy import Policy
from ...builder.targets import TARGET, find_targets
from ...schema import JobConfig
from ...suggest.sizes import CERTAIN, FREE, OPEN, SHARED, Solution, begin, partners, solve, sure
from ...suggest.sizes.arguments import Knob, behind, hands_on, kind_of, knobs_of, reaches_outside, same
from ...suggest.sizes.probe import Goal, Probe, Seen
from ...text.lines import MISSING
from ...text.wording import counted
from .config_file import Line
from .hints import Hint, Hints

_MOST_BUILDS = 600
_MOST_SECONDS = 20
_MOST_NAMED = 3


@dataclass(slots=True)
class Inference:
    """What became of the search."""

    lines: list[Line]
    values: Mapping[str, Any] | None
    """The arguments that were built next to those that were given, with placeholders for those left open; None where
    nothing could be built."""
    probe: Probe
    fetching: Sequence[str] = ()
    """Switches that are on and whose name says that they reach outside."""

    @property
    def open(self) -> bool:
        """Whether a value is still required."""
        return any(line.value == MISSING for line in self.lines)


def infer(
    job: JobConfig,
    node: Mapping[str, Any],
    hints: Hints,
    build: Callable[[Mapping[str, Any]], nn.Module],
    goals: Callable[[Seen], Sequence[Goal]],
    origin: str = "as typed",
) -> Inference:
    """Searches for the arguments of a model.

    Args:
        job: For the policy on targets.
        node: The model's node as far as it is given.
        hints: What the file carries.
        build: Builds a node.
        goals: What the file looks like to an architecture.
        origin: Where the node comes from.

    Raises:
        ConfigError: The target cannot be found or may not be used.
    """
    signature = _signature(job, node)
    everything = knobs_of(signature) if signature is not None else []
    fetching = [k.name for k in everything if reaches_outside(k.name) and node.get(k.name, k.default) is True]
    probe = Probe(lambda values: build({**node, **values}), _MOST_BUILDS, _MOST_SECONDS)
    search = _Search(probe, node, hints, everything)
    start, handed = search.start(), list[Knob]()
    if start is not None and hands_on(signature):
        given = start
        handed = behind(partial(probe.made, given), search.names, lambda k: probe.takes(given, k.name, k.default))
        search = _Search(probe, node, hints, [*everything, *handed])
        start = search.start() or start
    solution = solve(probe, search.knobs, start, goals) if start is not None else None
    lines = given_lines(node, origin)
    if solution is None:
        return Inference([*lines, *_unsolved(search.knobs, search.fitting)], start, probe, fetching)
    certain = sure(probe, search.knobs, solution)
    silent = {knob.name for knob in handed if knob.is_default(solution.values.get(knob.name, knob.default))}
    known = (_line(knob, solution, certain, search) for knob in search.knobs if knob.name not in silent)
    return Inference([*lines, *(line for line in known if line is not None)], solution.values, probe)


@dataclass(frozen=True)
class _Search:
    """The arguments to find, and what the file says of them."""

    probe: Probe
    node: Mapping[str, Any]
    carried: Hints
    """All that the file carries."""
    everything: Sequence[Knob]
    """All arguments that there are."""

    @cached_property
    def names(self) -> set[str]:
        """Names not to look for behind keywords."""
        return {*self.given, *(knob.name for knob in self.everything)}

    @cached_property
    def given(self) -> set[str]:
        """The arguments that the node gives."""
        positional = self.node.get("_args_")
        count = len(positional) if isinstance(positional, list) else 0
        return {*self.node, *(knob.name for knob in self.everything[:count])}

    @cached_property
    def hints(self) -> dict[str, Hint]:
        """What is carried of the arguments that there are."""
        return self.carried.of(knob.name for knob in self.everything)

    @cached_property
    def disputed(self) -> dict[str, str]:
        """What is carried in two ways."""
        return self.carried.disputed(knob.name for knob in self.everything if not reaches_outside(knob.name))

    @cached_property
    def fitting(self) -> dict[str, Hint]:
        """The hints that may be meant for an argument that was not given."""
        free = (knob for knob in self.everything if knob.name not in self.given and knob.name in self.hints)
        return {knob.name: self.hints[knob.name] for knob in free if _suits(knob, self.hints)}

    @cached_property
    def knobs(self) -> list[Knob]:
        """The arguments that were not given."""
        return [_of_kind(knob, self.fitting) for knob in self.everything if knob.name not in self.given]

    def start(self) -> dict[str, Any] | None:
        """Arguments with which the model can be built at all."""
        return begin(self.probe, self.knobs, {name: hint.value for name, hint in self.fitting.items()})


def given_lines(node: Mapping[str, Any], origin: str) -> list[Line]:
    """The lines of what is given."""
    return [Line(key, value, origin if key != TARGET else "") for key, value in node.items()]


def _signature(job: JobConfig, node: Mapping[str, Any]) -> inspect.Signature | None:
    return signature_of(find_targets([("model", node)], Policy(job.trusted_targets))[id(node)].found)


def _suits(knob: Knob, hints: Mapping[str, Hint]) -> bool:
    """Whether a value may be meant for an argument: numbers for numbers, a choice that there is, nothing to fetch."""
    if reaches_outside(knob.name):
        return False
    kind, value = kind_of(hints[knob.name].value), hints[knob.name].value
    if knob.choices:
        return value in knob.choices
    unannotated = knob.required or knob.default is None
    return not knob.kind or kind == knob.kind or {kind, knob.kind} == {"int", "float"} or (unannotated and bool(kind))


def _of_kind(knob: Knob, hints: Mapping[str, Hint]) -> Knob:
    """An argument that says nothing of its kind has its hint's."""
    kind = kind_of(hints[knob.name].value) if knob.name in hints else ""
    if not kind or kind == knob.kind or (knob.kind and not knob.required):
        return knob
    return dataclasses.replace(knob, kind=kind, choices=(False, True) if kind == "choice" else ())


def _line(knob: Knob, solution: Solution, certain: Mapping[str, str], search: _Search) -> Line | None:
    probe, hints = search.probe, search.fitting
    value, how = solution.values.get(knob.name, knob.default), certain.get(knob.name, FREE)
    if knob.name in hints and same(hints[knob.name].value, value):
        return Line(knob.name, value, f"from {hints[knob.name].origin}{_agreeing(how)}")
    if how == CERTAIN:
        return Line(knob.name, value, "the default, as the shapes say" if knob.is_default(value) else "from the shapes")
    if knob.name in search.disputed:
        return Line(knob.name, MISSING, f"{search.disputed[knob.name]}; no shape decides")
    if not knob.required and knob.is_default(value):
        return _default(knob, how, probe)
    if how == FREE:
        return Line(knob.name, MISSING, "no shape depends on it")
    if how == OPEN:
        return Line(knob.name, MISSING, f"{value} fits; {_cut_off(probe)}")
    others = partners(probe, solution.goal, search.knobs, solution.values, solution.seen, knob.name)
    why = f", with another {' or '.join(others[:_MOST_NAMED])}" if how == SHARED and others else ""
    return Line(knob.name, MISSING, f"{value} fits, and other values do as well{why}")


def _agreeing(how: str) -> str:
    return ", as the shapes say" if how == CERTAIN else ""


def _default(knob: Knob, how: str, probe: Probe) -> Line | None:
    if not knob.kind or knob.default is None:
        return None
    reason = {FREE: "no shape depends on it", OPEN: _cut_off(probe)}.get(how, "it fits, and so do others")
    return Line(knob.name, knob.default, f"the default; {reason}")


def _cut_off(probe: Probe) -> str:
    return f"the search ended after {counted(probe.spent, 'build')}, before every other value was tried"


def _unsolved(knobs: Sequence[Knob], hints: Mapping[str, Hint]) -> list[Line]:
    lines = []
    for knob in knobs:
        if knob.name in hints:
            lines.append(Line(knob.name, hints[knob.name].value, f"from {hints[knob.name].origin}"))
        elif knob.required:
            lines.append(Line(knob.name, MISSING, "it has no default, and nothing determines it"))
    return lines
