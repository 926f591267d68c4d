"""Errors in a model's own code: never mistaken for a bug of the loader, and never the end of the process.

Guarantees: an exception that leaves a method of a model becomes a refusal that names the method, the exception and the
place; so does an attempt to exit. An interruption by the user passes, and the loader's own exceptions are unchanged.
User code does not see the loader's command line.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType

from ..errors import ConfigError
from ..runtime import PACKAGE, is_termination
from ..text.wording import safe_text, text_of

_TORCHS = frozenset({("torch.nn.modules.module", "Module"), ("torch", "Tensor")})
_lock = threading.Lock()
_aside: list[list[str]] = []
"""The arguments of the process, one entry for each time that they were put aside."""


@contextmanager
def bare_arguments() -> Iterator[None]:
    """Reduces `sys.argv` to the program's name: modules that parse arguments on import expect others."""
    with _lock:
        _aside.append(_aside[0] if _aside else sys.argv)
        sys.argv = _aside[0][:1]
    try:
        yield
    finally:
        with _lock:
            before = _aside.pop()
            sys.argv = before if not _aside else before[:1]


@contextmanager
def own_code_refused() -> Iterator[None]:
    """Turns what a model's own code raises, or its exit, into a refusal.

    Raises:
        ConfigError: The model's own code raised, or called `sys.exit`.
    """
    try:
        yield
    except BaseException as error:
        method = _method(error) if is_foreign(error) else ""
        if not method:
            raise
        module, _, name = method.partition(":")
        verb = "exited:" if isinstance(error, SystemExit) else "raised"
        raise ConfigError(f"{safe_text(name)}, the model's own code, {verb} {in_one_line(error, module)}") from error


def is_foreign(error: BaseException) -> bool:
    """Whether user code may have raised this; the loader's own signals and interruptions pass."""
    own = isinstance(error, KeyboardInterrupt) or type(error).__module__.partition(".")[0] == PACKAGE
    return not (own or is_termination(error))


def _method(error: BaseException) -> str:
    """Returns the model's method, after its module, that the loader called when this was raised; empty if none."""
    found = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, code = str(frame.f_globals.get("__name__")), frame.f_code
        top = module.partition(".")[0]
        owner = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if top == PACKAGE:
            found = ""
        elif not found and top != "torch" and _is_method(owner, code):
            found = f"{module}:{code.co_qualname}"
    return found


def _is_method(owner: object, code: CodeType) -> bool:
    """Whether a function is a method of a module or tensor; without torch there are none."""
    names = [(kind.__module__, kind.__qualname__) for kind in type(owner).__mro__]
    home = code.co_qualname.rpartition(".")[0]
    return not _TORCHS.isdisjoint(names) and any(name == home for _, name in names)


def in_one_line(error: BaseException, home: str) -> str:
    """Describes an exception of user code: its type, its message, and the deepest place in the named package."""
    if isinstance(error, SystemExit):
        text = f"it called sys.exit({'' if error.code is None else safe_text(repr(error.code), 200)})"
    else:
        text = f"{type(error).__name__}: {safe_text(' '.join(text_of(error).split()), 400)}"
    place = _place(error, home.partition(".")[0])
    return f"{text} ({place})" if place else text


def _place(error: BaseException, package: str) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{safe_text(error.filename, 200)}:{error.lineno}"
    frames = [
        (frame.f_globals.get("__name__", ""), frame.f_code.co_filename, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if not frame.f_code.co_filename.startswith("<frozen") and frame.f_globals.get("__name__") != "importlib"
    ]
    foreign = [f for f in frames if not f[0].startswith((f"{PACKAGE}.builder", f"{PACKAGE}.evaluate"))]
    own = [f for f in foreign if f[0].partition(".")[0] == package] or foreign
    return f"{safe_text(own[-1][1], 200)}:{own[-1][2]}" if own else ""
