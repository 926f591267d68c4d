"""Compares a call with its callable's signature, before it is made.

Guarantees: all errors of a call are reported at once, with the signature as its author wrote it; a callable without a
known signature is not checked.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Iterable, Mapping
from inspect import Parameter
from types import FunctionType
from typing import Any, Protocol

from ..text.lines import Fix, blank, line, override, removal, together, typed, under
from ..text.wording import closest, did_you_mean, safe_text, text_of

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_LONGEST_SIGNATURE = 300
_LONGEST_LINE = 100
_MOST_NAMED = 3
_OPEN = object()


class Called(Protocol):
    """A call, as `calls.Call` holds it."""

    @property
    def where(self) -> str:
        """Its place in the config."""

    @property
    def target(self) -> Any:
        """The callable."""

    @property
    def named(self) -> Mapping[str, Any]:
        """Its arguments by name."""


def signature_of(target: Any) -> inspect.Signature | None:
    """Returns a callable's signature, or None if Python does not know it."""
    try:
        return inspect.signature(target)
    except (ValueError, TypeError):
        return None


def is_binding(target: Any) -> bool:
    """Returns whether Python itself enforces the signature.

    A metaclass, a `__new__`, a decorator or a `__signature__` may accept other arguments than the signature says.
    """
    if isinstance(target, type):
        kind: Any = target
        made_plainly = type(kind).__call__ is type.__call__ and kind.__new__ is object.__new__
        if not made_plainly or hasattr(kind, "__signature__"):
            return False
    function = _function(target)
    plain = isinstance(function, FunctionType)
    return plain and not hasattr(function, "__wrapped__") and not hasattr(function, "__signature__")


def _function(target: Any) -> Any:
    return getattr(target, "__init__") if isinstance(target, type) else target  # noqa: B009  # not an instance's


def refused(target: Any, error: TypeError) -> bool:
    """Returns whether a call failed because of its arguments, and not inside the callable."""
    steps = list(traceback.walk_tb(error.__traceback__))
    if len(steps) == 1:
        return True
    inner = inspect.unwrap(_function(target))
    code = getattr(inner, "__code__", None)
    name = text_of(error).partition("()")[0]
    return all(frame.f_code is not code for frame, _ in steps) and name == getattr(inner, "__qualname__", "")


def mends(call: Called, error: BaseException) -> Fix:
    """Returns the fix for a callable that raised: a package to install, or the arguments that its message names."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return typed("pip", "install", error.name.partition(".")[0])
    signature = signature_of(call.target)
    names = [*call.named, *(signature.parameters if signature is not None else ())]
    found = text_of(error).partition("but expected one of")[0]  # torch lists signatures of its own behind that
    words = set(re.findall(r"[^\W\d]\w*", found))
    named = [name for name in dict.fromkeys(names) if name in words and len(name) > 1][:_MOST_NAMED]
    return together(_given(call.where, name, sign="" if name in call.named else "+") for name in named)


def written(name: str, signature: inspect.Signature) -> str:
    """Writes a signature as in ``Net(width: int, depth: int = 2)``."""
    bare = [p.replace(annotation=_Bare(p.annotation)) if _is_text(p) else p for p in signature.parameters.values()]
    shown = signature.replace(parameters=bare, return_annotation=inspect.Signature.empty)
    return safe_text(f"{name.rpartition('.')[2]}{shown}", _LONGEST_SIGNATURE)


class _Bare(str):
    """An annotation that is text, because its evaluation is postponed; shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _is_text(parameter: Parameter) -> bool:
    return isinstance(parameter.annotation, str)


def problems(
    signature: inspect.Signature, positional: int, named: Mapping[str, object], partial: bool, where: str
) -> tuple[list[str], list[Fix]]:
    """Returns the errors of a call, and the overrides that fix them.

    Args:
        signature: The callable's signature.
        positional: How many positional arguments the config gives.
        named: The keyword arguments that the config gives.
        partial: Whether arguments may be missing.
        where: The call's place in the config.
    """
    parameters = list(signature.parameters.values())
    found, fixes = list[str](), list[Fix]()
    slots = [p for p in parameters if p.kind in _POSITIONAL]
    if positional > len(slots) and not _has(parameters, Parameter.VAR_POSITIONAL):
        found.append(f"{positional} positional arguments, expected at most {len(slots)}")
    filled = {p.name for p in slots[:positional] if p.kind is Parameter.POSITIONAL_OR_KEYWORD}
    if twice := sorted(filled & named.keys()):
        found.append(f"given twice, in _args_ and by name: {', '.join(twice)}")
    missing = [] if partial else [p.name for p in _missing(parameters, slots[positional:], named)]
    if missing:
        found.append(f"missing {', '.join(missing)}")
    known = [p.name for p in parameters if p.kind in _NAMED]
    unexpected = [] if _has(parameters, Parameter.VAR_KEYWORD) else [key for key in named if key not in known]
    free = [name for name in known if name not in named and name not in filled]
    if "target" in unexpected and isinstance(named["target"], str):
        fix = typed(override(under(where, "_target_"), named["target"]), removal(under(where, "target")))
        return [*found, "unexpected target (did you mean '_target_'?)"], [fix] if fix else []
    for key in unexpected:
        found.append(f"unexpected {safe_text(key)}{did_you_mean(key, free)}")
        near = closest(key, free, most=1)
        fixes += [typed(removal(under(where, key))), *(_given(where, name, named[key]) for name in near)]
        missing = [name for name in missing if name not in near]
    return found, [fix for fix in (*fixes, *(_given(where, name) for name in missing)) if fix]


def _has(parameters: Iterable[Parameter], kind: Any) -> bool:
    return any(p.kind is kind for p in parameters)


def _missing(parameters: list[Parameter], unfilled: list[Parameter], named: Mapping[str, object]) -> list[Parameter]:
    wanted = unfilled + [p for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    required = [p for p in wanted if p.default is Parameter.empty]
    return [p for p in required if p.kind is Parameter.POSITIONAL_ONLY or p.name not in named]


def _given(where: str, name: str, value: object = _OPEN, sign: str = "+") -> Fix:
    """Returns the override that gives an argument; … in place of a value that is unknown or cannot be typed."""
    path = under(where, name)
    known = Fix() if value is _OPEN else line(path, value, sign)
    return known if 0 < len(known.line) <= _LONGEST_LINE else blank(path, sign)
