"""The arguments of a constructor that can be varied, also those behind a builder's ``**kwargs``.

Guarantees: an argument is never varied if its default, its annotation and hints leave its kind of value unknown, or if
its name says that it fetches, reads, writes or sends something. The arguments behind ``**kwargs`` come from one build,
with the values that the builder passes on; the next build shows whether the builder takes them.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from types import CodeType, FrameType
from typing import Any, Literal, get_args, get_origin

from torch import nn

from ...errors import LoaderError

REQUIRED = Parameter.empty
"""The default of a required argument."""

INT, FLOAT, CHOICE, SIZES = "int", "float", "choice", "sizes"
"""Kinds of values: whole numbers, numbers, a choice of a few, and lists of whole numbers."""

_PLAIN = (int, float, str, types.NoneType)
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_LISTS = re.compile(
    r"(builtins\.)?(typing\.)?(collections\.abc\.)?(list|tuple|Sequence|Iterable)\[int\b.*\]", re.IGNORECASE
)
_WORDS: Mapping[str, str] = {"int": INT, "float": FLOAT, "bool": CHOICE, "torch.dtype": ""}


@dataclass(frozen=True, slots=True)
class Knob:
    """One argument of a constructor."""

    name: str
    kind: str
    """`INT`, `FLOAT`, `CHOICE` or `SIZES`; empty if its values are unknown, or must not be tried."""
    default: Any = field(default=REQUIRED, hash=False)
    choices: tuple[Any, ...] = field(default=(), hash=False)

    @property
    def required(self) -> bool:
        """Whether the argument is required."""
        return self.default is REQUIRED

    def is_default(self, value: object) -> bool:
        """Whether a value is the default, which may be a tensor or anything else."""
        return value is self.default or same(value, self.default)


def same(one: object, other: object) -> bool:
    """Whether two plain values are equal; other objects are never compared, as their `__eq__` may do anything."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(a is b or same(a, b) for a, b in zip(one, other, strict=True))
    plain = isinstance(one, _PLAIN) and isinstance(other, _PLAIN)
    return plain and one == other


def knobs_of(signature: inspect.Signature) -> list[Knob]:
    """Returns the named arguments of a callable, in its order."""
    return [_knob(parameter) for parameter in signature.parameters.values() if parameter.kind in _NAMED]


def kind_of(value: object) -> str:
    """Returns the kind of a value; empty if it has none."""
    if isinstance(value, bool):
        return CHOICE
    if isinstance(value, int):
        return INT
    if isinstance(value, float):
        return FLOAT
    whole = isinstance(value, list | tuple) and bool(value)
    return SIZES if whole and all(type(item) is int for item in value) else ""  # type: ignore[attr-defined]


def taking(knob: Knob, value: Any) -> Knob:
    """Returns the argument with another default, and that default's kind if it has none of its own."""
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
    """Returns the kind for an annotation in text form, as postponed evaluation leaves it."""
    options = [word.strip() for word in re.sub(r"^(typing\.)?Optional\[(.*)\]$", r"\2", annotation).split("|")]
    for option in options:
        if option in _WORDS:
            return _WORDS[option]
        if _LISTS.fullmatch(option):
            return SIZES
    return ""


_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

_REACHING = frozenset(
    (
        "pretrained", "pretrain", "download", "downloads", "downloaded", "fetch", "pull", "push", "upload", "publish",
        "weights", "checkpoint", "checkpoints", "ckpt", "snapshot", "resume", "restore", "load", "save", "dump",
        "export", "overwrite", "delete", "install", "path", "paths", "file", "files", "filename", "dir", "dirs",
        "directory", "folder", "root", "cache", "cached", "url", "urls", "uri", "endpoint", "http", "https", "proxy",
        "proxies", "host", "port", "mirror", "hub", "repo", "repository", "revision", "remote", "online", "offline",
        "auth", "credentials", "password", "secret", "api", "force", "wandb", "mlflow", "tensorboard", "logging",
        "telemetry", "distributed", "world", "sync", "implementation",
    )
)  # fmt: skip
_STRUCTURAL = frozenset(("tie", "tied", "untie", "share", "shared", "drop", "dropout", "skip"))
"""Words that make a name mean a part of the network: tied weights, dropped paths."""
_TOKEN = frozenset(("use", "auth", "hf", "hub", "access", "api", "bearer"))
"""Words before a token that is a secret; networks have tokens of another kind."""


def reaches_outside(name: str) -> bool:
    """Whether an argument's dotted name says that it fetches, reads, writes or sends something."""
    return any(_reaches([word.lower() for word in _WORD.findall(part)]) for part in name.split("."))


def _reaches(words: list[str]) -> bool:
    if not _STRUCTURAL.isdisjoint(words):
        return False
    if words[-1:] == ["token"]:
        return _TOKEN.issuperset(words[:-1])
    return not _REACHING.isdisjoint(words)


_MOST_CLASSES = 3
_Calls = dict[tuple[int, CodeType], dict[str, Any]]
"""Module and code of its constructor → the arguments of the call."""


def hands_on(signature: inspect.Signature | None) -> bool:
    """Whether a callable has ``**kwargs``."""
    return signature is not None and any(p.kind is Parameter.VAR_KEYWORD for p in signature.parameters.values())


def behind(build: Callable[[], nn.Module], own: Container[str], takes: Callable[[Knob], bool]) -> list[Knob]:
    """Returns the arguments with defaults that the built modules' constructors have in addition to the builder's.

    They are those of the model's own class, or else of the first module inside it whose arguments the builder takes.

    Args:
        build: Calls the builder.
        own: The names of the builder's arguments.
        takes: Whether the builder can be called with an argument and the value that it passes on anyway.
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
    """Returns the modules inside a model, one of each class that is not torch's own, in order of construction."""
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
