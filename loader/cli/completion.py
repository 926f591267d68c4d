"""Values for the shell's completion, beside the groups and keys that Hydra completes.

Guarantees: reads names of files and of configs, opens none of them, and imports no torch; where it has nothing to add
it says nothing, and Hydra answers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from ..config.argv import parse_arguments, rewrite
from ..config.layers import conf_dir
from ..config.parse import CHECKS, MODES
from ..errors import LoaderError
from ..formats.names import FORMATS
from ..schema import JobConfig

FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--info", "--multirun", "--config-dir", "--json"),
    *("--shell-completion", "--resolve", "--package"),
)
_AFTER = {
    "--cfg": ("job", "hydra", "all"),
    "-c": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
    "-i": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}
_DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps", "xpu", "meta")
_DTYPES = ("null", "checkpoint", "float32", "float16", "bfloat16", "float64")
_FILE = re.compile(r"(checkpoint|parts\.[^.]+|convert|scaffold|verify\.input(\..+)?)\.path|verify\.golden")
_SAFE = re.compile(r"[\w./=+@%,:~\[\]-]+")
"""What a shell takes as it is: bash expands what it is offered, so that a file's name could be a command."""
_LIST = re.compile(r"\[((?:[\w.-]+,)*)[\w.-]*", re.ASCII)
_PART = re.compile(r"parts\.[^.]+\.")


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words after the program's name may become; empty where only Hydra knows.

    Args:
        words: As typed; the last one is empty where a new one begins.
    """
    word, before = words[-1], words[:-1]
    if before and before[-1] in _AFTER:
        return _starting(word, _AFTER[before[-1]])
    if word.startswith("-"):
        return _starting(word, FLAGS)
    key, equals, value = word.partition("=")
    if not equals:
        return []
    return _starting(word, (f"{key}={found}" for found in _values(key.lstrip("+"), value, before)))


def for_hydra(words: Sequence[str]) -> str:
    """The words as a line for Hydra: what it would refuse to read, or has no need of, is left out."""
    before = parse_arguments([word for word in words[:-1] if word != "--json"])
    return " ".join([*before.flags, *filter(_is_plain, before.typed), words[-1]])


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
        known = {"mode": MODES, "device": _DEVICES, "dtype": _DTYPES, "checkpoint.check": CHECKS}
        flag = ("true", "false") if setting in _flags(JobConfig, "") else ()
        yield from known.get(setting, flag)


def _rules(value: str, before: Sequence[str]) -> Iterator[str]:
    """A list of ready-made rules with one more, and the end of a list."""
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
    """The files that a path may become; folders end in a slash."""
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
    """The keys that are true or false."""
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
