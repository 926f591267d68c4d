"""The formulas by which `merge` joins several entries to one, such as ``by: {gptq: {bits: 4}}``.

Guarantees: a join is a pure function of shapes and dtypes, and of the few bytes that `Context.peek` gives; it is usable
in a config or refused when it is registered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from ...formats.tree import TensorEntry
from ...text.wording import closest, did_you_mean, safe_text
from .tensors import Context, Mending, Unusable


@dataclass(frozen=True, slots=True)
class Join(ABC):
    """How the members of a merge group become one tensor; the fields are its options in a config."""

    name: ClassVar[str]
    """Its name after ``by``."""
    roles: ClassVar[tuple[str, ...]] = ()
    """The meaning of each pattern of the merge, in order; empty takes any number of like members."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """The roles that a group may lack."""

    def concerns(self, members: Mapping[str, TensorEntry]) -> bool:
        """Whether a group is of this kind, complete or not; one that only has names in common with it is left as it is.

        Args:
            members: By role.
        """
        del members
        return True

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


def join_of(by: str | Mapping[str, Any]) -> Join:
    """Returns the formula that a config names, ``sum`` or ``{gptq: {bits: 4}}``.

    Raises:
        ValueError: There is no such formula or option, or an option has an invalid value.
    """
    if not isinstance(by, str) and len(by) != 1:
        first = [Mending("by", name) for name in by][:1]
        raise Unusable(f"'by' names {len(by)} formulas, expected one, as in {{NAME: {{OPTION: VALUE}}}}", *first)
    name, options = (by, {}) if isinstance(by, str) else next(iter(by.items()))
    kind = JOINS.get(name)
    if kind is None:
        near = [Mending("by", found) for found in closest(name, JOINS, most=1)]
        raise Unusable(f"'by' is {safe_text(name)!r}{did_you_mean(name, JOINS)}, expected {' or '.join(JOINS)}", *near)
    if not isinstance(options or {}, Mapping):
        raise Unusable(f"'by.{name}' is {safe_text(options)!r}, expected a mapping of options", Mending("by", name))
    known = {one.name: get_type_hints(kind)[one.name] for one in fields(kind)}
    for option, value in (options or {}).items():
        others = {one: other for one, other in options.items() if one != option}
        if option not in known:
            meant = dict.fromkeys(closest(str(option), known, most=1), value)
            expected = f"expected {', '.join(known)}" if known else "which has no options"
            fault = f"'by.{name}' has '{safe_text(option)}'{did_you_mean(str(option), known)}, {expected}"
            raise Unusable(fault, Mending("by", {name: {**others, **meant}} if others or meant else name))
        if not _is_of(value, known[option]):
            fault = f"'by.{name}.{option}' is {safe_text(value)!r}, expected {_said(known[option])}"
            raise Unusable(fault, Mending("by", {name: others} if others else name))
    return kind(**(options or {}))


def _is_of(value: object, hint: Any) -> bool:
    if isinstance(value, list):
        return list[int] in get_args(hint) and all(type(one) is int for one in value)
    kinds = get_args(hint) or (hint,)
    return type(value) in kinds or (type(value) is int and float in kinds)


def _said(hint: Any) -> str:
    kinds = get_args(hint) or (hint,)
    return " or ".join("null" if kind is NoneType else _WORDS.get(kind, kind.__name__) for kind in kinds)


_WORDS: Mapping[object, str] = {
    int: "a whole number",
    list[int]: "a list of whole numbers",
    float: "a number",
    str: "text",
    bool: "true or false",
}
