"""What the command line shows instead of running: the help page, the version, completions.

Guarantees: imports no torch; text is for a person or a shell, one screen wide.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib import metadata

from hydra.plugins.completion_plugin import CompletionPlugin

from ..config.argv import Arguments
from ..errors import LoaderError
from .completion import candidates, for_hydra

_WIDTH = 80
_HELP = ("--help", "-h")
_VERSION = "--version"
_INFO = ("--info", "-i")
_LINE = "COMP_LINE"
_PACKAGES = ("hydra-loader", "hydra-core", "torch")


def shown(arguments: Arguments) -> bool:
    """Shows what needs no Hydra; whether that was all that was asked for."""
    if _VERSION in arguments.flags:
        sys.stdout.write(f"{version()}\n")
        return True
    if arguments.flags and arguments.flags[-1] in _INFO:
        sys.stdout.write(f"{version()}\n")
        arguments.flags.append("config")  # plugins and how long it took to find them are for who asks for `all`
    return False


def version() -> str:
    """The versions that matter, on one line."""
    told = [f"{name} {_version_of(name)}" for name in _PACKAGES]
    return f"{told[0]} ({', '.join(told[1:])}, Python {platform.python_version()})"


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


@contextlib.contextmanager
def fitted(arguments: Arguments) -> Iterator[None]:
    """Breaks the lines of a help page, whose lists of options are as long as there are options."""
    if not any(flag in _HELP for flag in arguments.flags):
        yield
        return
    page = io.StringIO()
    try:
        with contextlib.redirect_stdout(page):
            yield
    finally:
        if page.getvalue():
            sys.stdout.write("\n".join(wrapped(page.getvalue().rstrip().split("\n"))) + "\n")


def wrapped(lines: Sequence[str]) -> Iterator[str]:
    """Lines that fit."""
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        fitting = textwrap.wrap(
            line, _WIDTH, subsequent_indent=f"{indent}    ", break_long_words=False, break_on_hyphens=False
        )
        yield from fitting if len(line) > _WIDTH else [line]


@contextlib.contextmanager
def completing(arguments: Arguments) -> Iterator[bool]:
    """Answers a shell that asks for completions; False where Hydra is to answer, with a line that it can read."""
    shell = next((word.removeprefix("query=") for word in arguments.typed if word.startswith("query=")), "")
    line = os.environ.get(_LINE)
    if not (arguments.completion and shell) or line is None:
        yield False
        return
    words = _words(CompletionPlugin.strip_python_or_app_name(line))
    found = candidates(words)
    if found:
        sys.stdout.write(("\n" if shell == "fish" else " ").join(found) + "\n")
    os.environ[_LINE] = f"hydra-loader {for_hydra(words)}"
    try:
        yield bool(found)
    except LoaderError:
        pass  # a line that is not finished may well be wrong, and a shell shows what is said among its own words
    finally:
        os.environ[_LINE] = line


def _words(line: str) -> list[str]:
    """A line's words as the shell makes them, the one that is being written last."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is still open
        words = line.split()
    return [*words, *([""] if not line or line[-1].isspace() else [])]
