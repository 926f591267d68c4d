"""The base of the rules that change tensors: each maps groups of named entries to others.

Guarantees: a group is a pure function of names, shapes and dtypes, and of the few bytes that `Context.peek` gives; the
values of tensors are not read. Sizes that only the model knows are left open until all rules have named their results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeVar

from ...formats.tree import TensorEntry
from ...schema import Rule, own_fields
from ...text.lines import Fix
from ...text.wording import phrases, safe_text, shape

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What rules apply to, and where they stand."""

    label: str
    """The owner of the keys, for messages."""
    path: str = "rules"
    """The config path of the rules, for lines to type."""

    def __str__(self) -> str:
        """Returns the label."""
        return self.label


@dataclass(frozen=True, slots=True)
class Mending:
    """A setting of the rule that makes it fit; the engine, which knows the rule's name, writes the line."""

    setting: str
    value: object
    note: str = ""


class Unusable(ValueError):  # noqa: N818  # the engine turns it into a ConfigError
    """Settings of a rule cannot work: why, and the settings that would."""

    def __init__(self, fault: str, *mendings: Mending) -> None:
        super().__init__(fault)
        self.mendings = mendings


class Unfit(Exception):  # noqa: N818  # the engine turns it into a FitError
    """A rule cannot map these entries: its faults, and the fixes for them."""

    def __init__(self, faults: Sequence[str], *fixes: Fix | Mending) -> None:
        super().__init__(phrases(faults))
        self.faults = tuple(faults)
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

    @property
    def reversible(self) -> bool:
        """Whether the entries that it takes follow from those that it makes."""
        return True

    @abstractmethod
    def hits(self, name: str) -> bool:
        """Whether the rule takes an entry of this name."""

    @abstractmethod
    def grouped(self, entries: Mapping[str, TensorEntry], context: Context) -> Iterable[Group]:
        """Returns the groups that the rule takes; entries in no group stay as they are.

        Args:
            entries: All tensors by name, in order.
            context: The file.

        Raises:
            Unfit: Some entries that the rule hits cannot be mapped; it names all of them, with their shapes.
            ValueError: The rule itself cannot work, such as for an invalid expression.
        """

    def without(self, positions: Collection[int]) -> Mending | None:  # noqa: ARG002
        """Returns the setting with which these results of every group are not made; None if there is none."""
        return None

    def follow(self, prefix: str) -> Sequence[str]:
        """Returns the names of a module's prefix after the rule, for ``_metadata``; a prefix ends in a dot."""
        return (prefix,)


def shown(name: str, entry: TensorEntry) -> str:
    """Writes a key with its shape: ``l.0.qkv.weight [24, 8]``."""
    return f"{safe_text(name)} {shape(entry.shape)}"


@contextmanager
def naming(what: str | Callable[[], str]) -> Iterator[None]:
    """Puts what the faults of the block are about in front of each; a function is called only if there are any."""
    try:
        yield
    except Unfit as fault:
        text = what if isinstance(what, str) else what()
        raise Unfit([f"{text} {one}" for one in fault.faults], *fault.fixes) from None


_Task = TypeVar("_Task")
_Made = TypeVar("_Made")


def each(tasks: Iterable[_Task], made: Callable[[_Task], _Made]) -> list[_Made]:
    """Makes the group, or entry, of each task.

    Raises:
        Unfit: With the faults of all tasks that have one.
    """
    results, faults, fixes = list[_Made](), list[str](), list[Fix | Mending]()
    for task in tasks:
        try:
            results.append(made(task))
        except Unfit as fault:
            faults += fault.faults
            fixes += [fix for fix in fault.fixes if fix not in fixes]
    if faults:
        raise Unfit(faults, *fixes)
    return results


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectingRule(TensorRule):
    """A rule that changes each tensor by itself and keeps its name; a glob, its first setting, selects them."""

    def glob(self) -> str:
        """Returns the glob over keys."""
        return str(getattr(self, own_fields(self)[0].name))

    def hits(self, name: str) -> bool:
        """Whether the glob matches the name."""
        return fnmatchcase(name, self.glob())

    def grouped(self, entries: Mapping[str, TensorEntry], context: Context) -> Iterable[Group]:  # noqa: ARG002
        """Returns a group of each tensor that the glob selects."""
        change = self.change()

        def made(name: str) -> Group:
            with naming(shown(name, entries[name])):
                return Group((name,), (Result(name, change(entries[name])),))

        return each(filter(self.hits, entries), made)

    @abstractmethod
    def change(self) -> Callable[[TensorEntry], TensorEntry | Unsettled]:
        """Returns the function of one tensor, which raises Unfit with faults that do not name the key.

        Raises:
            ValueError: The rule itself cannot work.
        """


def no_context() -> Context:
    """Returns the context of names alone."""
    return Context(lambda _: b"", dict)
