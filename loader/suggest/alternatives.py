"""What would make a file fit beside nested keys and rules: the model in another size, or in parts.

Guarantees: reads no tensor data and changes no model; other sizes are built and matched with the file before they are
proposed, and only where the shapes leave no other; the search for them is short, and says where it was cut off; parts
are proposed only where together they fill the whole model, each from a place of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..builder.arguments import signature_of
from ..builder.targets import TARGET, find_targets
from ..errors import LoaderError
from ..formats.tree import Container
from ..keys.written import parts_override, value_override
from ..module.slots import slots, wanted
from ..schema import RuleConfig
from ..text.wording import counted, safe_text
from .arguments import changed, numbers
from .averages import swapped
from .explain import explain
from .goals import goals_of
from .meant import asked
from .names import segments
from .problem import Explanation, Problem, fits
from .proposal import Proposal
from .sizes.behind import behind, hands_on
from .sizes.certainty import TOLD
from .sizes.knobs import Knob, knobs_of
from .sizes.outside import reaches_outside
from .sizes.probe import Goal, Probe, Seen
from .sizes.solve import Solution, at_start, solve, sure

if TYPE_CHECKING:
    from ..apply.prepare import Recipe
    from .advice import Advice

_MOST_BUILDS = 120
_MOST_SECONDS = 3
_MOST_PARTS = 8


def of_another_size(advice: Advice) -> tuple[list[Proposal], list[str]]:
    """Ways with other arguments of the model's constructor, where the shapes tell them; else how far that went."""
    recipe, part = advice.recipe, advice.parts[0]
    if recipe is None or recipe.config.get(TARGET) is None or part.name:
        return [], []
    root, rules = part.checkpoint.root, part.config.rules or {}
    try:
        probe = Probe(lambda values: recipe.build(changed(recipe.config, values)), _MOST_BUILDS, _MOST_SECONDS)
        knobs = _knobs(recipe, probe)
        solution = solve(probe, knobs, {}, partial(_goals, root, rules))
        open_names = _untold(probe, knobs, solution) if solution is not None else []
        if solution is None or not solution.values or open_names:
            return [], _remarks(probe, solution, open_names)
        module = probe.made(solution.values)
    except LoaderError:
        return [], []
    other = dataclasses.replace(advice, model=module, wanted=wanted(slots(module)))
    return list(_proposed(other.problem(part), solution.values)), []


def _goals(root: Container, rules: Mapping[str, RuleConfig], seen: Seen) -> list[Goal]:
    """What half of the names agree with; a model of another kind is not worth the builds."""
    found = goals_of(root, None, rules, seen)
    return [g for g in found if 2 * sum(key in g.shapes for key in seen.wanted) >= min(len(seen.wanted), len(g.shapes))]


def _knobs(recipe: Recipe, probe: Probe) -> list[Knob]:
    """The arguments as the config gives them, defaults that it does not mention, and numbers further inside it."""
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


def _untold(probe: Probe, knobs: Sequence[Knob], solution: Solution) -> list[str]:
    """The arguments that would have to change and for which the shapes leave other values too, or may."""
    certain = sure(probe, knobs, solution) if solution.values else {}
    return [name for name in solution.values if certain.get(name) != TOLD]


def _remarks(probe: Probe, solution: Solution | None, open_names: Sequence[str]) -> list[str]:
    if probe.cut_off:
        spent = counted(probe.spent, "build")
        return [f"the search for other sizes of the model was cut off after {spent}; mode=scaffold searches longer"]
    if solution is None and probe.outside:
        return [f"no other sizes of the model were tried: its constructor {probe.outside}, and a trial build may not"]
    if solution is None or any(solution.distance) or not solution.values:
        return []
    found = " ".join(value_override(f"model.{name}", value) for name, value in solution.values.items())
    names = ", ".join(f"model.{name}" for name in open_names)
    return [
        f"all names and shapes fit with {safe_text(found, 300)}, and with other values of {names}, so none is proposed"
    ]


def _proposed(problem: Problem, values: Mapping[str, Any]) -> Iterator[Proposal]:
    told = tuple(value_override(f"model.{name}", value) for name, value in values.items())
    reason = f"the file's sizes are those of {' '.join(told)}"
    plan = fits(problem)
    if plan is not None:
        yield Proposal(told, (reason,), len(plan.loaded), len(problem.wanted))
        return
    for explanation in explain(problem).explanations:
        if not explanation.excused:
            ways = (*explanation.overrides, *told)
            yield Proposal(ways, (*explanation.reasons, reason), explanation.loaded, explanation.wanted)


def in_parts(advice: Advice) -> list[Proposal]:
    """The way in which every submodule of a model is filled from a nested key of its own."""
    part = advice.parts[0]
    children = [name for name, child in advice.model.named_children() if slots(child)]
    if part.name or part.config.rules or not 1 < len(children) <= _MOST_PARTS:
        return []
    if any(key.partition(".")[0] not in children for key in advice.wanted):
        return []
    whole = advice.problem(part)
    found: dict[str, Explanation] = {}
    for child in children:
        problem = _below(whole, child)
        ways = [e for e in explain(problem).explanations if not e.excused and e.key is not None]
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
    return [Proposal((override,), tuple(reasons), loaded, len(advice.wanted))]


def _below(whole: Problem, child: str) -> Problem:
    keys = {key: want for key, want in whole.wanted.items() if key.startswith(f"{child}.")}
    return dataclasses.replace(whole, part=child, wanted=keys, key=None, rules={})


def _is_named(key: str, child: str) -> bool:
    """Whether a nested key is called like a submodule: ``encoder``, ``encoder_state_dict``."""
    last = segments(key)[-1]
    return last == child or last.startswith(f"{child}_") or last.endswith(f"_{child}")
