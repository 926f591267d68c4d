"""The formulas by which `merge` joins several entries to one, such as ``by: {gptq: {bits: 4}}``.

Guarantees: a join is a pure function of shapes and dtypes, and of the few bytes that `Context.peek` gives; it is usable
in a config or refused when it is registered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from ...formats.tree import TensorEntry
from .tensors import Context


@dataclass(frozen=True, slots=True)
class Join(ABC):
    """How the members of a merge group become one tensor; the fields are its options in a config."""

    name: ClassVar[str]
    """Its name after ``by``."""
    roles: ClassVar[tuple[str, ...]] = ()
    """The meaning of each pattern of the merge, in order; empty takes any number of like members."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """The roles that a group may lack."""

    @abstractmethod
    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:
        """Returns the entry made of a group.

        Args:
            members: By role, or by number for a join that takes any number.
            context: The file.

        Raises:
            Unfit: Shapes or dtypes contradict the formula; the faults say which, without the keys.
        """


_Join = TypeVar("_Join", bound=type[Join])
JOINS: dict[str, type[Join]] = {}
"""By name."""


def register_join(kind: _Join) -> _Join:
    """Registers a way to join; also usable as a decorator.

    Raises:
        ValueError: The name is taken.
    """
    if kind.name in JOINS:
        raise ValueError(f"there is already a join called '{kind.name}'")
    JOINS[kind.name] = kind
    return kind
