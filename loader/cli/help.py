"""Output of the command line without a run: the help page, the version, JSON Schemas, completions for a shell.

Guarantees: imports no torch; lines fit 80 columns. Completion reads names of files and configs and opens no checkpoint;
it adds values to the groups and keys that Hydra completes, and leaves everything else to Hydra.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import re
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args, get_type_hints

from hydra.plugins.completion_plugin import CompletionPlugin

from .. import __version__
from ..config.argv import Arguments, parse_arguments, without_note
from ..config.rewrite import rewrite
from ..errors import LoaderError
from ..files.path import conf_dir
from ..formats.sniff import FORMATS
from ..schema import CHECKS, MODES, EvaluateConfig, Floating, JobConfig
from . import schema

_WIDTH = 80
_HELP = ("--help", "-h")
_VERSION = "--version"
_INFO = ("--info", "-i")
_LINE = "COMP_LINE"
_STANDS_ON = ("hydra-core", "torch")


def shown(arguments: Arguments) -> bool:
    """Shows the version or a schema, which need no Hydra; returns whether nothing else was asked for."""
    named = schema.asked(arguments.flags)
    if named is not None:
        sys.stdout.write(schema.schema(named))
        return True
    if _VERSION in arguments.flags:
        sys.stdout.write(f"{version()}\n")
        return True
    if arguments.flags and arguments.flags[-1] in _INFO:
        sys.stdout.write(f"{version()}\n")
        arguments.flags.append("config")  # plugins and the time to find them are only shown by `all`
    return False


def version() -> str:
    """Returns the relevant versions on one line."""
    versions = ", ".join(f"{name} {_version_of(name)}" for name in _STANDS_ON)
    return f"hydra-loader {__version__} ({versions}, Python {platform.python_version()})"


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed)"


@contextlib.contextmanager
def fitted(arguments: Arguments) -> Iterator[None]:
    """Wraps the lines of a help page, whose lists of options may be long."""
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
    """Wraps lines at 80 columns."""
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        fitting = textwrap.wrap(
            line, _WIDTH, subsequent_indent=f"{indent}    ", break_long_words=False, break_on_hyphens=False
        )
        yield from fitting if len(line) > _WIDTH else [line]


@contextlib.contextmanager
def completing(arguments: Arguments) -> Iterator[bool]:
    """Answers a shell's request for completions; yields False if Hydra should answer, for a line that it can read."""
    shell = next((word.removeprefix("query=") for word in arguments.typed if word.startswith("query=")), "")
    line = os.environ.get(_LINE)
    if not (arguments.completion and shell) or line is None:
        yield False
        return
    words = _words(CompletionPlugin.strip_python_or_app_name(line))
    if without_note(words) != words:
        yield True
        return
    found = candidates(words)
    if found:
        sys.stdout.write(("\n" if shell == "fish" else " ").join(found) + "\n")
    os.environ[_LINE] = f"hydra-loader {line_for_hydra(words)}"
    try:
        yield bool(found)
    except LoaderError:
        pass  # an unfinished line may be invalid, and a shell would show the message as a completion
    finally:
        os.environ[_LINE] = line


def _words(line: str) -> list[str]:
    """Splits a line into words as the shell does; the last is the one being typed."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is still open
        words = line.split()
    return [*words, *([""] if not line or line[-1].isspace() else [])]


FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--info", "--multirun", "--config-dir", "--json"),
    *("--shell-completion", "--resolve", "--package", schema.FLAG),
)
_AFTER = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    schema.FLAG: schema.NAMES,
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps", "xpu", "meta")
DTYPES = ("null", "checkpoint", *get_args(Floating))
_FILE = re.compile(
    r"(checkpoint|compare|parts\.[^.]+|convert|scaffold|replay|verify\.input(\..+)?)\.path|verify\.golden"
    r"|(parts\.[^.]+\.)?adapters\.[^.]+\.(path|minus)"
)
_BELOW_NULL = [
    f"evaluate.{field.name}{'.' if field.type in ('Any', 'dict[str, Any]') else '='}"
    for field in fields(EvaluateConfig)
]
"""Keys that Hydra does not know while the node above them is null."""
_SAFE = re.compile(r"[\w./=+@%,:~\[\]-]+")
"""Text that no shell expands: bash expands completions, so a file's name could be a command."""
_LIST = re.compile(r"\[((?:[\w.-]+,)*)[\w.-]*", re.ASCII)
_PART = re.compile(r"(parts\.[^.]+|compare)\.")


def candidates(words: Sequence[str]) -> list[str]:
    """Completes the last of the words after the program's name; empty if only Hydra can.

    Args:
        words: As typed; the last one is empty if a new one begins.
    """
    word, before = words[-1], words[:-1]
    if before and before[-1] in _AFTER:
        return _starting(word, _AFTER[before[-1]])
    if word.startswith("-"):
        return _starting(word, FLAGS)
    key, equals, value = word.partition("=")
    if not equals:
        return _starting(word, _BELOW_NULL) if word.startswith("evaluate.") else []
    return _starting(word, (f"{key}={found}" for found in _values(key.lstrip("+"), value, before)))


def line_for_hydra(words: Sequence[str]) -> str:
    """Joins the words to a line for Hydra, without those that it would refuse or does not need."""
    typed = parse_arguments([word for word in words[:-1] if word != "--json"])
    return " ".join([*typed.flags, *filter(_is_plain, typed.typed), words[-1]])


def _is_plain(word: str) -> bool:
    try:
        return rewrite([word]) == [word] and not re.search(r"\s", word)
    except LoaderError:
        return False


def _values(key: str, value: str, before: Sequence[str]) -> Iterator[str]:
    setting = f"checkpoint.{key[found.end() :]}" if (found := _PART.match(key)) else key
    if key == "rules" and value.startswith("["):
        yield from _rules(value, before)
    elif _FILE.fullmatch(key):
        yield from _files(value)
    elif setting == "checkpoint.format":
        yield from ("auto", *FORMATS)
    else:
        known = {"mode": MODES, "device": DEVICES, "dtype": DTYPES, "checkpoint.check": CHECKS}
        flag = ("true", "false") if setting in _flags(JobConfig, "") else ()
        yield from known.get(setting, flag)


def _rules(value: str, before: Sequence[str]) -> Iterator[str]:
    """Completes a list of ready-made rules by one more, with and without the end of the list."""
    match = _LIST.fullmatch(value)
    if match is None:
        return
    taken = match[1].split(",")
    folders = [conf_dir(), *_own_folders(before)]
    names = {path.stem for folder in folders for path in (folder / "rules").glob("*.yaml")} - {"auto", *taken}
    for name in sorted(names):
        yield f"[{match[1]}{name}]"
        yield f"[{match[1]}{name},"


def _own_folders(before: Sequence[str]) -> list[Path]:
    flags = parse_arguments([word for word in before if word != "--json"]).flags
    return [Path(value) for flag, value in pairwise(flags) if flag in ("--config-dir", "-cd")]


def _files(value: str) -> Iterator[str]:
    """Completes a path; folders end in a slash."""
    folder, _, start = value.rpartition("/")
    place = f"{folder}/" if "/" in value else ""
    try:
        with os.scandir(os.path.expanduser(place) or ".") as found:  # noqa: PTH111  # the slash at the end counts
            names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in found)
    except OSError:
        return
    hidden = start.startswith(".")
    yield from (f"{place}{name}" for name in names if hidden or not name.startswith("."))


def _flags(record: Any, where: str) -> set[str]:
    """Returns the boolean keys."""
    found = set()
    for name, hint in get_type_hints(record).items():
        place = f"{where}.{name}" if where else name
        if hint is bool:
            found.add(place)
        elif is_dataclass(hint) and fields(hint):
            found |= _flags(hint, place)
    return found


def _starting(word: str, found: Sequence[str] | Iterator[str]) -> list[str]:
    return [candidate for candidate in found if candidate.startswith(word) and _SAFE.fullmatch(candidate)]
