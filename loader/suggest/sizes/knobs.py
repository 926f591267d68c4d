"""The arguments of a constructor that can be varied.

Guarantees: pure; an argument whose values cannot be told from its default, its annotation or a hint is no knob, and
stays as it is; neither is one that reaches outside the process.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any, Literal, get_args, get_origin

from .outside import reaches_outside

REQUIRED = Parameter.empty
"""The default of an argument that has none."""

INT, FLOAT, CHOICE, SIZES = "int", "float", "choice", "sizes"
"""What a knob's values are: whole numbers, numbers, one of a few, and lists of whole numbers."""

_PLAIN = (int, float, str, types.NoneType)
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_LISTS = re.compile(
    r"(builtins\.)?(typing\.)?(collections\.abc\.)?(list|tuple|Sequence|Iterable)\[int\b.*\]", re.IGNORECASE
)
_WORDS: Mapping[str, str] = {"int": INT, "float": FLOAT, "bool": CHOICE, "torch.dtype": ""}


@dataclass(frozen=True, slots=True)
class Knob:
    """One argument."""

    name: str
    kind: str
    """`INT`, `FLOAT`, `CHOICE` or `SIZES`; empty where nothing is known of its values, or where they are not to be
    tried."""
    default: Any = field(default=REQUIRED, hash=False)
    choices: tuple[Any, ...] = field(default=(), hash=False)

    @property
    def required(self) -> bool:
        """Whether it has to be given."""
        return self.default is REQUIRED

    def is_default(self, value: object) -> bool:
        """Whether a value is the argument's default, which may be a tensor or anything else."""
        return value is self.default or same(value, self.default)


def same(one: object, other: object) -> bool:
    """Whether two plain values are equal; other objects are compared with nothing, as they may not even answer."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(a is b or same(a, b) for a, b in zip(one, other, strict=True))
    plain = isinstance(one, _PLAIN) and isinstance(other, _PLAIN)
    return plain and one == other


def knobs_of(signature: inspect.Signature) -> list[Knob]:
    """The named arguments of a callable, in its order."""
    return [_knob(parameter) for parameter in signature.parameters.values() if parameter.kind in _NAMED]


def kind_of(value: object) -> str:
    """The kind of knob that a value belongs to."""
    if isinstance(value, bool):
        return CHOICE
    if isinstance(value, int):
        return INT
    if isinstance(value, float):
        return FLOAT
    whole = isinstance(value, list | tuple) and bool(value)
    return SIZES if whole and all(type(item) is int for item in value) else ""  # type: ignore[attr-defined]


def taking(knob: Knob, value: Any) -> Knob:
    """The argument with another default, whose kind it has where it says nothing of its own."""
    kind = kind_of(value)
    if not kind or knob.choices or reaches_outside(knob.name) or (knob.kind, kind) == (FLOAT, INT):
        kind = knob.kind
    return Knob(knob.name, kind, value, knob.choices or ((False, True) if kind == CHOICE else ()))


def _knob(parameter: Parameter) -> Knob:
    default, name = parameter.default, parameter.name
    if reaches_outside(name):
        return Knob(name, "", default)
    kind, choices = _annotated(parameter.annotation)
    kind = (kind_of(default) if default is not REQUIRED else "") or kind
    if default is REQUIRED and parameter.annotation is REQUIRED:
        kind = INT
    if kind == CHOICE and not choices:
        choices = (False, True)
    return Knob(name, kind, default, choices)


def _annotated(annotation: Any) -> tuple[str, tuple[Any, ...]]:
    if isinstance(annotation, str):
        return _written(annotation), ()
    if get_origin(annotation) is Literal:
        return CHOICE, get_args(annotation)
    if get_origin(annotation) in (typing.Union, types.UnionType):
        found = [_annotated(option) for option in get_args(annotation) if option is not type(None)]
        return next((pair for pair in found if pair[0]), ("", ()))
    if isinstance(annotation, type) and not get_args(annotation):
        return _WORDS.get(annotation.__name__, ""), ()
    return _written(str(annotation)), ()


def _written(annotation: str) -> str:
    """The kind behind an annotation that is text, as postponed evaluation leaves it."""
    options = [word.strip() for word in re.sub(r"^(typing\.)?Optional\[(.*)\]$", r"\2", annotation).split("|")]
    for option in options:
        if option in _WORDS:
            return _WORDS[option]
        if _LISTS.fullmatch(option):
            return SIZES
    return ""
