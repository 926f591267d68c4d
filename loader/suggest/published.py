"""Recognizes a file by the names of a published layout, whose ready-made rules need a number that no shape shows.

Guarantees: pure; the layout is offered only if every rule of it that is not optional hits, and the loader's own plan
passes with the rules. Such an explanation is in doubt: the shapes agree whatever the number, so ``auto`` refuses it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import cast

from ..formats.tree import Container
from ..keys.rules.ready import ready_made
from ..keys.rules.rearrange import Rearrange
from ..keys.select import find
from ..keys.written import key_override, rule_settings
from ..schema import AUTO, Rule
from ..text.lines import override
from .attempts import Attempt, ModelKeys, Source, Step
from .confirm import confirm
from .problem import Explanation, Problem, hits_of

_LLAMA = "llama_meta"
_ROTARY = "rope"
_SIZE = "d"
_BLANK = "…"
_NAMES = "the file has the names of Llama as Meta publishes it"
_ANY = 1
"""A size with which the shapes agree as with the right one."""


def as_published(problem: Problem, *, keys_free: bool) -> Explanation | None:
    """Returns how a file in Meta's layout of Llama loads; None for any other file.

    Args:
        problem: The part.
        keys_free: Whether a nested key other than the typed one may be used.
    """
    model = ModelKeys.of(
        {key.removeprefix(problem.full("")): w.shape for key, w in problem.wanted.items() if w.kind != "extra"}
    )
    for key, container in _places(problem, keys_free=keys_free):
        rules = _llama(problem.head)
        hits = hits_of(problem, container, rules) if _is_turned(container) else None
        if hits is None or not all(hits.get(name) or rule.optional for name, rule in rules.items()):
            continue
        reason = (
            f"the file has the names of Llama as Meta publishes it; {_SIZE} is half the size of a head{_of(problem)}"
        )
        attempt = Attempt.start(Source.of(key, container, model), model, {})
        following = None if attempt is None else attempt.then(Step(tuple(rules.values()), reason, doubt=True))
        found = None if following is None else confirm(problem, following)
        if found is not None and not found.excused:
            return dataclasses.replace(found, overrides=_overrides(problem, key))
    return None


def _places(problem: Problem, *, keys_free: bool) -> Iterator[tuple[str | None, Container]]:
    typed = None if problem.key == AUTO else problem.key
    found = find(problem.root, typed)
    if isinstance(found, Container) and found.tensors():
        yield typed, found
    if keys_free:
        yield from ((key or None, container) for key, container in problem.root.walk() if (key or None) != typed)


def _llama(head: int | None) -> dict[str, Rule]:
    """Returns the ready-made rules with the size of the model's heads, or any."""
    size = _ANY if head is None else head // 2
    rotary = dataclasses.replace(_rotary(), axes={**(_rotary().axes or {}), _SIZE: size})
    return {**ready_made()[_LLAMA], _ROTARY: rotary}


def _rotary() -> Rearrange:
    return cast(Rearrange, ready_made()[_LLAMA][_ROTARY])


def _is_turned(container: Container) -> bool:
    """Whether a container has the names that the rotary rule is for; cheap."""
    return any(map(_rotary().hits, container.tensors()))


def _of(problem: Problem) -> str:
    return "" if problem.head is None else f", which is {problem.head} in the model"


def _overrides(problem: Problem, key: str | None) -> tuple[str, ...]:
    """Writes the nested key and the rules; a size that the model does not say is left blank."""
    place = problem.config("rules")
    size = _BLANK if problem.head is None else problem.head // 2
    keys = (key_override(problem.config("key"), key),) if key != problem.key else ()
    if place == "rules":
        return (*keys, override(place, [_LLAMA]), f"{place}.{_ROTARY}.axes.{_SIZE}={size}")
    settings = rule_settings(_llama(problem.head))
    settings[_ROTARY]["axes"] = {**(_rotary().axes or {}), _SIZE: size}
    return (*keys, override(place, settings))
