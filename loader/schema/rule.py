"""The bases of rules; their kinds are in `loader.keys.rules`."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from enum import Enum
from typing import Any, ClassVar

from ..text.redaction import spare
from ..text.wording import safe_text


class Fate(Enum):
    """A rule's decision on a name that it does not change."""

    DROPPED = "dropped"
    KEPT = "kept"


Step = Callable[[str], str | Fate | None]
"""Maps one name to its next name or its fate; None if the rule does not hit it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(ABC):  # noqa: B024  # its two kinds of subclasses have different methods
    """One rule for the entries of a file.

    A kind is a subclass: its fields are the rule's settings in a config, and the first one names the kind. Those that
    change names alone derive from `KeyRule`, those that change tensors from `loader.keys.rules.tensors.TensorRule`.
    """

    enabled: bool = True
    """False switches the rule off."""
    optional: bool = False
    """True allows the rule to hit no key."""
    exclusive: ClassVar[bool] = False
    """Whether every name that no exclusive rule keeps is dropped."""
    example: ClassVar[Mapping[str, object]] = {"rename": "encoder.", "to": "backbone."}
    """A rule to offer when one of this kind is invalid."""

    def settings(self) -> dict[str, Any]:
        """Returns the rule as in a config: its own settings first, without defaults."""
        values = {one.name: getattr(self, one.name) for one in self._unlike_default()}
        flags = {"optional": True} if self.optional else {}
        return {**values, **flags} if self.enabled else {**values, **flags, "enabled": False}

    def __str__(self) -> str:
        """Writes the rule as in a config, without defaults and its flags: ``strip: module.``."""
        return ", ".join(f"{one.name}: {_text(getattr(self, one.name))}" for one in self._unlike_default())

    def _unlike_default(self) -> list[Field[Any]]:
        return [one for one in own_fields(self) if getattr(self, one.name) != one.default]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule(Rule):
    """A rule that changes one name at a time and no tensor."""

    @abstractmethod
    def step(self) -> Step:
        """Returns the rule's function for one name; raises ValueError with the reason if it cannot work."""


def own_fields(rule: Rule | type[Rule]) -> list[Field[Any]]:
    """Returns the fields of a kind's own settings, of which the first names it."""
    return _own_fields(rule if isinstance(rule, type) else type(rule))


@functools.cache
def _own_fields(kind: type[Rule]) -> list[Field[Any]]:
    return [one for one in fields(kind) if not one.kw_only]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{safe_text(key)}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return safe_text(value)


spare(list(vars().values()))
