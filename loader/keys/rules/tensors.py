"""The base of the rules that change tensors: each maps groups of named entries to others.

Guarantees: a group is a pure function of names, shapes and dtypes, and of the few bytes that `Context.peek` gives; the
values of tensors are not read. Sizes that only the model knows are left open until all rules have named their results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...formats.tree import TensorEntry
from ...schema import Rule
from ...text.lines import Fix
from ...text.wording import phrases

Shape = tuple[int, ...]


class Unfit(Exception):  # noqa: N818  # the engine turns it into a FitError
    """A rule cannot map these entries: its faults, and the fixes for them."""

    def __init__(self, faults: Sequence[str], *fixes: Fix) -> None:
        super().__init__(phrases(faults))
        self.fixes = fixes


class Pending(ABC):
    """Entries whose sizes come from the model."""

    @abstractmethod
    def settled(self, names: Sequence[str | None], shapes: Sequence[Shape | None]) -> Sequence[TensorEntry]:
        """Returns the entries, one for each result of the group.

        Args:
            names: The final names of the group's results, in order; None for one that was dropped.
            shapes: The shape of each name's model key; None where the model has no such key, or no shape for it.

        Raises:
            Unfit: The sizes do not fit.
        """


@dataclass(frozen=True, slots=True)
class Unsettled:
    """One result of a group whose sizes come from the model."""

    pending: Pending
    """Shared by all results of the group."""
    index: int
    """Its position among them."""


@dataclass(frozen=True, slots=True)
class Result:
    """One entry that a rule makes."""

    name: str | None
    """None drops it."""
    entry: TensorEntry | Unsettled


@dataclass(frozen=True, slots=True)
class Group:
    """The entries that a rule takes together, and those that it makes of them."""

    members: tuple[str, ...]
    """Names; each counts as a hit."""
    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Context:
    """What a rule may know of a file besides names, shapes and dtypes."""

    peek: Callable[[TensorEntry], bytes]
    """Reads the bytes of a small tensor; its checksum is compared first."""
    quantization: Callable[[], Mapping[str, Any]]
    """The ``quantization_config`` of a ``config.json`` next to the file; empty if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRule(Rule):
    """A rule that makes entries of other entries."""

    @abstractmethod
    def hits(self, name: str) -> bool:
        """Whether the rule takes an entry of this name."""

    @abstractmethod
    def groups(self, entries: Mapping[str, TensorEntry], context: Context) -> Iterator[Group]:
        """Yields the groups that the rule takes; entries in no group stay as they are.

        Args:
            entries: All tensors by name, in order.
            context: The file.

        Raises:
            Unfit: Some entries that the rule hits cannot be mapped; it names all of them, with their shapes.
            ValueError: The rule itself cannot work, such as for an invalid expression.
        """

    def follow(self, prefix: str) -> Sequence[str]:
        """Returns the names of a module's prefix after the rule, for ``_metadata``; a prefix ends in a dot."""
        return (prefix,)


def no_context() -> Context:
    """Returns the context of names alone."""
    return Context(lambda _: b"", dict)
