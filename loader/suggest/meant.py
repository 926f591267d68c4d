"""The names that a user meant where those that were typed are not in the file.

Guarantees: pure functions of names; a name that is there stands for itself, whatever is close to it. A mistyped name of
an average asks for the average: no line to type answers a typo with the other weights.
"""

from __future__ import annotations

import dataclasses
import re

from ..errors import LoaderError
from ..formats.tree import Container
from ..keys.candidates import is_average
from ..keys.rules import rewrite
from ..keys.select import find, near_key
from ..schema import AUTO, RuleConfig
from ..text.wording import closest
from .averages import asked_for
from .names import segments
from .problem import Problem

_MOST_NAMES = 500
_PLAIN = re.compile(r"\^?([\w.-]*)")


def meant_key(problem: Problem) -> str | None:
    """The nested key that a mistyped one is close to; None where the key is there, or nothing is close.

    What is called an average stands for no key that is called otherwise.
    """
    key = problem.key
    if key in (None, AUTO) or find(problem.root, key or "") is not None:
        return None
    near = near_key(problem.root, key or "")
    return None if near is None or (is_average(key or "") and not is_average(near)) else near


def asked(problem: Problem, taken: str | None = AUTO) -> bool | None:
    """Whether an average was asked for: True, or False for the weights; None where nothing says which.

    Args:
        problem: What was typed.
        taken: The nested key that is taken. Under the one that was typed nothing but a rule says which is meant.
    """
    told = asked_for(None if taken == problem.key else problem.key, problem.rules or {})
    if told is not False or find(problem.root, problem.key or "") is not None:
        return told
    near = meant_key(problem)
    return None if near is None else is_average(near)


def asks_for_average(problem: Problem) -> bool:
    """Whether an average may be meant that stands next to the weights, also by a rule that is mistyped."""
    near = (_meant_prefix(problem, rule) for rule in _idle(problem))
    return asked(problem) is True or any(name is not None and is_average(name) for name in near)


def _selected(problem: Problem) -> Container:
    """What the rules are for; the whole file where the nested key leads nowhere."""
    found = None if problem.key in (None, AUTO) else find(problem.root, problem.key or "")
    return found if isinstance(found, Container) else problem.root


def _idle(problem: Problem) -> list[RuleConfig]:
    """The user's own rules that hit nothing."""
    rules = {name: rule for name, rule in (problem.rules or {}).items() if rule.enabled}
    patient = {name: dataclasses.replace(rule, optional=True) for name, rule in rules.items()}
    try:
        hits = rewrite(_selected(problem).children, patient).hits if rules else []
    except LoaderError:
        return []
    return [rules[hit.name] for hit in hits if not hit.hits and hit.name in rules]


def _meant_prefix(problem: Problem, rule: RuleConfig) -> str | None:
    """What the file has in front of its keys that is close to what a rule is about."""
    text = rule.keep or rule.strip or rule.rename or rule.regex or ""
    plain = _PLAIN.match(text.replace("\\", ""))
    typed = plain.group(1).strip(".") if plain else ""
    paths = [segments(name) for name in _selected(problem).tensors()]
    firsts = dict.fromkeys(path[0] for path in paths if len(path) > 1)
    seconds = dict.fromkeys(".".join(path[:2]) for path in paths if len(path) > 2)
    near = closest(typed, [*firsts, *seconds][:_MOST_NAMES], most=1)
    return near[0] if near else None
