"""Ways to make a file fit other than nested keys and rules: the model in another size, or in parts.

Guarantees: reads no tensor data and changes no model. Another size is built and matched with the file before it is
proposed, and only if the shapes allow no other; the search is short, and says if it was cut off. Parts are proposed
only if together they fill the whole model, each from a nested key of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from ..builder import Recipe
from ..builder.arguments import signature_of
from ..builder.targets import TARGET, find_targets
from ..errors import LoaderError
from ..formats.tree import Container
from ..keys.candidates import Shape
from ..keys.segments import segments
from ..keys.select import find
from ..keys.written import parts_override, value_override
from ..module.hooks import rehearse
from ..module.slots import slots, wanted
from ..schema import Rule
from ..text.wording import counted, safe_text
from .attempts import Attempt, ModelKeys, Source
from .leftovers import Proposal
from .problem import Explanation, Problem, asked, plan_as_typed, swapped
from .search import attempts, explain, sources
from .sizes import CERTAIN, Solution, at_start, solve, sure
from .sizes.arguments import Knob, behind, hands_on, knobs_of, reaches_outside
from .sizes.probe import Goal, Probe, Seen

_MOST_BUILDS = 120
_MOST_SECONDS = 3
_MOST_PARTS = 8


def of_another_size(problem: Problem, recipe: Recipe | None) -> tuple[list[Proposal], list[str]]:
    """Finds other arguments of the model's constructor, if the shapes allow only these.

    Returns:
        The ways to fill a model with these arguments; without any, remarks on how far the search went.
    """
    if recipe is None or recipe.config.get(TARGET) is None or problem.part:
        return [], []
    root, rules = problem.root, problem.rules or {}
    try:
        probe = Probe(lambda values: recipe.build(changed(recipe.config, values)), _MOST_BUILDS, _MOST_SECONDS)
        knobs = _knobs(recipe, probe)
        solution = solve(probe, knobs, {}, partial(_goals, root, rules))
        open_names = _undecided(probe, knobs, solution) if solution is not None else []
        if solution is None or not solution.values or open_names:
            return [], _remarks(probe, solution, open_names)
        module = probe.made(solution.values)
    except LoaderError:
        return [], []
    other = dataclasses.replace(problem, wanted=wanted(slots(module)), hooks=partial(rehearse, module))
    return list(_proposed(other, solution.values)), []


def _goals(root: Container, rules: Mapping[str, Rule], seen: Seen) -> list[Goal]:
    """Keeps the goals that share half of the names; a model of another kind is not worth the builds."""
    found = goals_of(root, None, rules, seen)
    return [g for g in found if 2 * sum(key in g.shapes for key in seen.wanted) >= min(len(seen.wanted), len(g.shapes))]


def _knobs(recipe: Recipe, probe: Probe) -> list[Knob]:
    """Lists the arguments in the config, the defaults that it does not mention, and the numbers in nested nodes."""
    target = find_targets([("model", recipe.config)], recipe.policy)[id(recipe.config)]
    signature = signature_of(target.found)
    knobs = at_start(knobs_of(signature), recipe.config) if signature is not None else []
    if hands_on(signature):
        own = {knob.name for knob in knobs}
        knobs += behind(partial(probe.made, {}), own, lambda knob: probe.takes({}, knob.name, knob.default))
    known = [knob for knob in knobs if knob.kind and not knob.required]
    names = {knob.name for knob in known}
    inside = [Knob(name, "int", value) for name, value in numbers(recipe.config) if not reaches_outside(name)]
    return [*known, *(knob for knob in inside if knob.name not in names)]


def _undecided(probe: Probe, knobs: Sequence[Knob], solution: Solution) -> list[str]:
    """Returns the arguments that have to change and may have other values as well, going by the shapes."""
    certain = sure(probe, knobs, solution) if solution.values else {}
    return [name for name in solution.values if certain.get(name) != CERTAIN]


def _remarks(probe: Probe, solution: Solution | None, open_names: Sequence[str]) -> list[str]:
    if probe.cut_off:
        spent = counted(probe.spent, "build")
        return [f"the search for other sizes of the model was cut off after {spent}; mode=scaffold searches longer"]
    if solution is None and probe.outside:
        return [
            f"no other sizes of the model were tried: its constructor {probe.outside}, which a trial build may not do"
        ]
    if solution is None or any(solution.distance) or not solution.values:
        return []
    found = " ".join(value_override(f"model.{name}", value) for name, value in solution.values.items())
    names = ", ".join(f"model.{name}" for name in open_names)
    return [
        f"all names and shapes fit with {safe_text(found, 300)}, and with other values of {names}, so none is proposed"
    ]


def _proposed(problem: Problem, values: Mapping[str, Any]) -> Iterator[Proposal]:
    sizes = tuple(value_override(f"model.{name}", value) for name, value in values.items())
    reason = f"the file's sizes are those of {' '.join(sizes)}"
    plan = plan_as_typed(problem)
    if plan is not None:
        yield Proposal(sizes, (reason,), len(plan.loaded), len(problem.wanted))
        return
    for explanation in explain(problem).explanations:
        if not (explanation.excused or explanation.resizes):
            ways = (*explanation.overrides, *sizes)
            filled = explanation.loaded, explanation.wanted
            yield Proposal(ways, (*explanation.reasons, reason), *filled, doubt=explanation.doubt)


def in_parts(whole: Problem, model: nn.Module) -> list[Proposal]:
    """Finds the way to fill every submodule of a model from a nested key of its own."""
    children = [name for name, child in model.named_children() if slots(child)]
    if whole.part or whole.rules or not 1 < len(children) <= _MOST_PARTS:
        return []
    if any(key.partition(".")[0] not in children for key in whole.wanted):
        return []
    found: dict[str, Explanation] = {}
    for child in children:
        problem = _below(whole, child)
        found_ways = explain(problem).explanations
        ways = [e for e in found_ways if not (e.excused or e.resizes) and e.key is not None]
        named = [e for e in ways if _is_named(e.key or "", child)]
        if len(ways) != 1 and len(named) != 1:
            return []
        found[child] = (named if len(ways) != 1 else ways)[0]
    if len({explanation.key for explanation in found.values()}) < len(found):
        return []
    override = parts_override({name: (e.key, e.rules) for name, e in found.items()})
    reasons = [f"{name}: its weights are under '{e.key}'" for name, e in found.items()]
    swap = swapped(asked(whole), None, [e.key or "" for e in found.values()])
    reasons += [swap] if swap else []
    loaded = sum(explanation.loaded for explanation in found.values())
    doubt = any(explanation.doubt for explanation in found.values())
    return [Proposal((override,), tuple(reasons), loaded, len(whole.wanted), doubt=doubt)]


def _below(whole: Problem, child: str) -> Problem:
    keys = {key: want for key, want in whole.wanted.items() if key.startswith(f"{child}.")}
    return dataclasses.replace(whole, part=child, wanted=keys, key=None, rules={})


def _is_named(key: str, child: str) -> bool:
    """Whether a nested key is called like a submodule: ``encoder``, ``encoder_state_dict``."""
    last = segments(key)[-1]
    return last == child or last.startswith(f"{child}_") or last.endswith(f"_{child}")


def changed(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config with other values for some arguments, by dotted name."""
    result = dict(config)
    for name, value in arguments.items():
        head, _, rest = name.partition(".")
        result[head] = changed(result[head], {rest: value}) if rest else value
    return result


def numbers(node: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, int]]:
    """Yields the whole numbers in a config, by dotted name."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{where}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and str(name).isidentifier():
            yield f"{where}{name}", value


_MOST = 3
_LITTLE = 4
"""A nested key that fills less than one in this many names is ignored."""


def goals_of(root: Container, key: str | None, rules: Mapping[str, Rule], seen: Seen) -> list[Goal]:
    """Returns the file's tensors under the names that they would have in an architecture, most matching names first.

    Names alone decide: the architecture's sizes are still to be found.

    Args:
        root: The whole file.
        key: The nested key; None for all.
        rules: The user's own rules.
        seen: The architecture at any size.
    """
    bare: dict[str, Shape | None] = {key: None for key, want in seen.wanted.items() if want.kind != "extra"}
    model = ModelKeys.of(bare)
    found = [attempt for source in _sources(root, key, model) for attempt in attempts(source, model, rules)[:1]]
    found = [attempt for attempt in found if _LITTLE * len(attempt.filled) >= min(len(bare), len(attempt.names))]
    found.sort(key=lambda attempt: (-len(attempt.filled), attempt.rank))
    return _distinct(found)[:_MOST]


def _sources(root: Container, key: str | None, model: ModelKeys) -> Sequence[Source]:
    if key is None:
        return sources(root, model)
    container = find(root, key)
    return [Source.of(key, container, model)] if isinstance(container, Container) and container.tensors() else []


def _distinct(found: Sequence[Attempt]) -> list[Goal]:
    """Removes equal goals: a file may hold averages next to the weights."""
    goals: list[Goal] = []
    for attempt in found:
        shapes = {name: attempt.source.shapes[key] for key, name in attempt.everything().items()}
        if not any(goal.shapes == shapes for goal in goals):
            goals.append(Goal(shapes, attempt.rank))
    return goals
