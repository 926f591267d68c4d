"""``glob(...)`` over checkpoint files.

Guarantees: it gives its matches once and in natural order (``epoch=9`` before ``epoch=10``), never golden records next
to checkpoints; a pattern without a match is refused with the folder that was searched.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from pathlib import Path

from ..errors import ConfigError
from ..files.path import natural
from ..formats.signatures import GOLDEN
from ..text.lines import typed
from ..text.wording import listing, safe_text
from .grammar import split_elements

_LONGEST = 400

_CALL = re.compile(r"\s*glob\s*\((.*)\)\s*", re.DOTALL)


def is_glob(value: str) -> bool:
    """Returns whether a value is ``glob(...)``."""
    return _CALL.fullmatch(value) is not None


def expand_glob(key: str, value: str) -> list[str]:
    """Finds the files that ``glob(PATTERN, ..., exclude=PATTERN)`` matches.

    Args:
        key: The config key that the value is for.
        value: The call, as typed; ``**`` goes through any number of folders, ``~`` is the home folder.

    Returns:
        The paths in natural order, relative if the pattern is.

    Raises:
        ConfigError: No file matches.
    """
    include, exclude = _patterns(value)
    found = {path for pattern in include for path in glob.glob(pattern, recursive=True)}  # noqa: PTH207  # paths as typed
    kept = [path for path in found if not any(fnmatch.fnmatch(path, pattern) for pattern in exclude)]
    if not any(GOLDEN in pattern for pattern in include):
        kept = [path for path in kept if not path.endswith(GOLDEN)]
    if not kept:
        raise _no_match(key, include)
    return sorted(kept, key=natural)


def _patterns(value: str) -> tuple[list[str], list[str]]:
    call = _CALL.fullmatch(value)
    include, _, exclude = (call[1] if call else value).partition("exclude=")
    return _pattern_list(include), _pattern_list(exclude)


def _pattern_list(text: str) -> list[str]:
    outer = split_elements(text)
    inner = [_unquoted(one) for argument in outer for one in split_elements(_unwrapped(argument.strip()))]
    return [os.path.expanduser(one) for one in inner if one]  # noqa: PTH111  # pathlib would tidy the pattern up


def _unwrapped(text: str) -> str:
    # [a,b] is how Hydra's own glob() takes several patterns; [ab] is a pattern.
    return text[1:-1] if text.startswith("[") and text.endswith("]") and "," in text else text


def _unquoted(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _no_match(key: str, patterns: list[str]) -> ConfigError:
    shown = listing([f"'{safe_text(pattern, _LONGEST)}'" for pattern in patterns]) or "glob() without a pattern"
    searched = sorted({str(_folder(pattern)) for pattern in patterns})
    places = " and ".join(safe_text(place, _LONGEST) for place in searched)
    absent = [place for place in searched if not Path(place).is_dir()]
    note = ", which does not exist" if absent and len(searched) == 1 else ""
    where = f" (searched {places}{note})" if places else ""
    return ConfigError(f"no file matches {shown} for {key}{where}", typed(f"{key}=glob(FOLDER/*.pt)"))


def _folder(pattern: str) -> Path:
    """Returns the folder that a pattern starts from, before its first wildcard."""
    plain = Path(pattern)
    while glob.has_magic(str(plain)):
        plain = plain.parent
    return Path.cwd() / (plain.parent if str(plain) == pattern else plain)
