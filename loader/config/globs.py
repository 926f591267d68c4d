"""``glob(...)`` over checkpoint files.

Guarantees: it gives its matches once and in natural order (``epoch=9`` before ``epoch=10``), never golden records next
to checkpoints. Files are excluded first; of the others, every N-th is kept, counted from the last one, and then the
last ones. A pattern without a match is refused with the folder that was searched, a mistyped argument with the line
that has it right. Files in packages (``pkg://``) are found without importing the package.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError
from ..files.path import PACKAGE, natural, package_folders
from ..formats.signatures import GOLDEN
from ..text.lines import typed
from ..text.wording import closest, counted, did_you_mean, listing, safe_text
from .elements import items_of, split_arguments, split_elements

_LONGEST = 400
_CALL = re.compile(r"\s*glob\s*\((.*)\)\s*", re.DOTALL)
_COUNTS = ("last", "every")
_ARGUMENTS = ("include", "exclude", *_COUNTS)


def is_glob(value: str) -> bool:
    """Returns whether a value is ``glob(...)``."""
    return _CALL.fullmatch(value) is not None


def expand_glob(key: str, value: str) -> list[str]:
    """Finds the files that ``glob(PATTERN, ..., exclude=PATTERN, last=N, every=N)`` matches.

    Args:
        key: The config key that the value is for.
        value: The call, as typed; ``**`` goes through any number of folders, ``~`` is the home folder, and
            ``pkg://PACKAGE/`` that of an installed package.

    Returns:
        The paths in natural order, relative if the pattern is.

    Raises:
        ConfigError: No file matches, or an argument is invalid.
    """
    asked = _read(key, value)
    found = _files(asked.include)
    if key.endswith(".path") and not any(GOLDEN in pattern for pattern in asked.include):
        found = [path for path in found if not path.endswith(GOLDEN)]
    if not found:
        raise _no_match(key, asked.include)
    kept = sorted((path for path in found if not _is_excluded(path, asked.exclude)), key=natural)
    if not kept:
        shown, without = listing([_quoted(pattern) for pattern in asked.exclude]), ",".join(asked.typed_include)
        raise ConfigError(
            f"exclude={shown} leaves out all of the {counted(len(found), 'file')} for {key}",
            typed(f"{key}=glob({without})", note="all of them"),
        )
    thinned = kept[::-1][:: asked.every][::-1]
    return thinned[-asked.last :] if asked.last else thinned


def refuse_counts(key: str, value: str) -> None:
    """Raises ConfigError if a glob over the options of a config group counts them, which only one over files does."""
    call = _CALL.fullmatch(value)
    arguments = split_arguments(call[1]) if call else []
    others = [one for one in arguments if one.partition("=")[0].strip() not in _COUNTS]
    if len(others) < len(arguments):
        raise ConfigError(
            f"last and every count files, and '{_shown(key, value)}' is over the options of a group",
            typed(f"{key}=glob({','.join(others)})", note="all of them"),
        )


@dataclass(slots=True)
class _Call:
    """The arguments of one ``glob(...)``."""

    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    last: int = 0
    """How many files to keep; 0 keeps all."""
    every: int = 1
    typed_include: list[str] = field(default_factory=list)


def _read(key: str, value: str) -> _Call:
    call = _CALL.fullmatch(value)
    arguments = split_arguments(call[1] if call else value)
    asked = _Call()
    for at, argument in enumerate(arguments):
        name, equals, text = (piece.strip() for piece in argument.partition("="))
        if equals and name in _COUNTS:
            setattr(asked, name, _count(key, value, name, text))
        elif equals and name in ("include", "exclude"):
            getattr(asked, name).extend(_patterns(text))
        elif equals and _is_mistyped(name, argument, first=at == 0):
            raise _no_argument(key, value, name)
        else:
            asked.include += _patterns(argument)
            asked.typed_include.append(argument)
    return asked


def _count(key: str, value: str, name: str, text: str) -> int:
    if text.isascii() and text.isdecimal() and int(text) > 0:
        return int(text)
    raise ConfigError(
        f"'{name}={safe_text(text, _LONGEST)}' in '{_shown(key, value)}' is not a whole number of at least 1",
        typed(f"{key}={_with(value, name, f'{name}=1')}"),
    )


def _is_mistyped(name: str, argument: str, *, first: bool) -> bool:
    """Returns whether ``NAME=VALUE`` is an argument rather than the name of a file with a ``=`` in it."""
    if not name.isidentifier() or _files(_patterns(argument)):
        return False
    return bool(closest(name, _ARGUMENTS, most=1)) or not (first or glob.has_magic(argument))


def _no_argument(key: str, value: str, name: str) -> ConfigError:
    meant = closest(name, _ARGUMENTS, most=1)
    right = _with(value, name, f"{meant[0]}=\\g<value>" if meant else "last=\\g<value>")
    return ConfigError(
        f"glob(...) has no argument '{safe_text(name)}'{did_you_mean(name, _ARGUMENTS)}: '{_shown(key, value)}'; "
        "expected patterns, exclude=PATTERN, last=N, every=N",
        typed(f"{key}={right}"),
    )


def _with(value: str, name: str, instead: str) -> str:
    """Replaces an argument of a call."""
    return re.sub(rf"(?<![\w.]){re.escape(name)}\s*=\s*(?P<value>[^,)]*)", instead, value, count=1)


def _shown(key: str, value: str) -> str:
    return safe_text(f"{key}={value}", _LONGEST)


def _patterns(text: str) -> list[str]:
    # [a,b] is how Hydra's own glob() takes several patterns; [ab] is a pattern.
    items = items_of(text) if "," in text else None
    found = [_unquoted(one) for one in (items or [text]) for one in split_elements(one)]
    return [os.path.expanduser(one) for one in found if one]  # noqa: PTH111  # pathlib would tidy the pattern up


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _files(patterns: Iterable[str]) -> list[str]:
    return list({path for pattern in patterns for path in _matches(pattern)})


def _matches(pattern: str) -> list[str]:
    if not pattern.startswith(PACKAGE):
        return glob.glob(pattern, recursive=True)  # noqa: PTH207  # paths as typed
    package, _, inside = pattern.removeprefix(PACKAGE).partition("/")
    if ".." in inside.split("/") or not inside or inside.startswith("/"):
        return []
    folders = package_folders(package)
    found = (path for folder in folders for path in glob.glob(inside, root_dir=folder, recursive=True))  # noqa: PTH207
    return [f"{PACKAGE}{package}/{path}" for path in found]


def _is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Returns whether a pattern matches the file's name or, if it holds a slash, its path."""
    name = path.rpartition("/")[2] if os.sep == "/" else re.split(r"[/\\]", path)[-1]
    return any(fnmatch.fnmatch(path if "/" in pattern else name, pattern) for pattern in patterns)


def _quoted(pattern: str) -> str:
    return f"'{safe_text(pattern, _LONGEST)}'"


def _no_match(key: str, patterns: list[str]) -> ConfigError:
    shown = listing([_quoted(pattern) for pattern in patterns]) or "glob() without a pattern"
    searched = sorted({str(_folder(pattern)) for pattern in patterns})
    places = " and ".join(safe_text(place, _LONGEST) for place in searched)
    absent = [place for place in searched if not Path(place).is_dir() and not place.startswith(PACKAGE)]
    note = ", which does not exist" if absent and len(searched) == 1 else ""
    where = f" (searched {places}{note})" if places else ""
    return ConfigError(f"no file matches {shown} for {key}{where}", typed(f"{key}=glob(FOLDER/*.pt)"))


def _folder(pattern: str) -> Path | str:
    """Returns the folder that a pattern starts from, before its first wildcard."""
    if pattern.startswith(PACKAGE):
        package = pattern.removeprefix(PACKAGE).partition("/")[0]
        folders = package_folders(package)
        return str(folders[0]) if folders else f"{PACKAGE}{package}, which is not installed"
    plain = Path(pattern)
    while glob.has_magic(str(plain)):
        plain = plain.parent
    return Path.cwd() / (plain.parent if str(plain) == pattern else plain)
