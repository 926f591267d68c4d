"""The arguments behind a builder's ``**kwargs``: those of the constructor that they are handed on to.

Guarantees: they are read off one build, with the values that the builder gives them; a name of the model's own class is
no promise that the builder takes it, which the next build shows.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Container, Iterator
from inspect import Parameter
from types import CodeType, FrameType
from typing import Any

from torch import nn

from ...errors import LoaderError
from .knobs import Knob, knobs_of, taking

_MOST_CLASSES = 3
_Calls = dict[tuple[int, CodeType], dict[str, Any]]
"""Module and code of its constructor → the arguments that it got."""


def hands_on(signature: inspect.Signature | None) -> bool:
    """Whether a callable takes arguments that its signature does not name."""
    return signature is not None and any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values())


def behind(build: Callable[[], nn.Module], own: Container[str], takes: Callable[[Knob], bool]) -> list[Knob]:
    """The arguments with defaults that the constructors of what is built have beside the builder's own.

    They are those of the model's own class; where that has none, of the first module inside it whose arguments the
    builder takes.

    Args:
        build: The builder's call.
        own: The names that it has already.
        takes: Whether it can be called with an argument of the value that it gives anyway.
    """
    calls: _Calls = {}
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: _note(calls, frame) if event == "call" else None)
    try:
        module = build()
    except LoaderError:
        return []
    finally:
        sys.setprofile(before)
    found = _free(module, calls, own)
    if found:
        return found
    for inner in _distinct(module, calls)[:_MOST_CLASSES]:
        found = [knob for knob in _free(inner, calls, own) if takes(knob)]
        if found:
            break
    return found


def _note(calls: _Calls, frame: FrameType) -> None:
    code = frame.f_code
    if code.co_name != "__init__" or not code.co_argcount:
        return
    arguments = dict(frame.f_locals)
    made = arguments.get(code.co_varnames[0])
    if isinstance(made, nn.Module):
        calls[id(made), code] = arguments


def _distinct(module: nn.Module, calls: _Calls) -> list[nn.Module]:
    """The modules inside a model, one of each class that is not torch's own, in the order in which they were made."""
    inside = {id(part): part for part in module.modules() if part is not module}
    made = [inside[identity] for identity, _ in calls if identity in inside]
    classes = {type(part): part for part in reversed(made) if not type(part).__module__.startswith("torch.")}
    return list(reversed(classes.values()))


def _free(module: nn.Module, calls: _Calls, own: Container[str]) -> list[Knob]:
    found = (knob for knob in _knobs(module, calls) if knob.name not in own)
    return list({knob.name: knob for knob in found}.values())


def _knobs(module: nn.Module, calls: _Calls) -> Iterator[Knob]:
    for kind in type(module).__mro__:
        init = inspect.unwrap(vars(kind).get("__init__", object.__init__))
        got = calls.get((id(module), getattr(init, "__code__", None)))  # type: ignore[arg-type]
        if got is None:
            continue
        for knob in knobs_of(inspect.signature(init)):
            if not knob.required and knob.name in got:
                yield taking(knob, got[knob.name])
