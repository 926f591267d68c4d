"""The kinds of rules that configs know.

Guarantees: a kind is usable in a config or refused when it is registered; no name has two meanings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from inspect import isabstract
from typing import Any, TypeVar

from ...schema import KeyRule, Rule, own_fields
from .arithmetic import Scale
from .key import Add, Drop, Keep, Regex, Rename, Strip
from .merge import Merge
from .rearrange import Rearrange
from .resize import Resize
from .split import Copy, Split
from .take import Take
from .tensors import TensorRule

_Kind = TypeVar("_Kind", bound=type[Rule])
KINDS: dict[str, type[Rule]] = {}
"""By name."""


def register(kind: _Kind) -> _Kind:
    """Registers a kind of rule under the name of its first own field; also usable as a decorator.

    Raises:
        ValueError: It is not a frozen dataclass below `KeyRule` or `TensorRule` with its method and a field of its own,
            or a name is taken.
    """
    KINDS[_name_of(kind)] = kind
    return kind


def _name_of(kind: type) -> str:
    """Returns the name of a kind of rule; raises ValueError for one that no config could use."""
    parameters = vars(kind).get("__dataclass_params__")
    if not issubclass(kind, KeyRule | TensorRule) or parameters is None or not parameters.frozen:
        raise ValueError(f"{kind.__qualname__} is not a kind of rule, expected a frozen dataclass below Rule")
    own = [one.name for one in own_fields(kind)]
    if not own or isabstract(kind):
        method = "step" if issubclass(kind, KeyRule) else "grouped"
        raise ValueError(f"the kind of rule {kind.__qualname__} has no {method if own else 'field of its own'}")
    settings = {one.name for other in KINDS.values() for one in fields(other)}
    taken = {name for name in own if hasattr(Rule, name) or name in KINDS} | ({own[0]} & settings)
    if taken:
        raise ValueError(f"the kind of rule {kind.__qualname__} has '{min(taken)}', a name that rules have already")
    return own[0]


for _kind in (Strip, Add, Rename, Regex, Drop, Keep, Split, Merge, Rearrange, Take, Scale, Resize, Copy):
    register(_kind)


def kinds() -> Mapping[str, type[Rule]]:
    """Returns every kind of rule by its name in a config."""
    return dict(KINDS)


def rule_of(settings: Mapping[str, Any]) -> Rule:
    """Builds a rule from valid settings, as `Rule.settings` returns them."""
    return next(kind for name, kind in KINDS.items() if name in settings)(**settings)
