"""JSON from files that are not trusted, and the index of a checkpoint in several files.

Guarantees: nothing but JSON passes, bounded in size and nesting, and no name appears twice in a mapping. Every shard
that an index names is a plain path below the index's own folder, written in one way only. What it says of the shards is
a claim that `several` checks.
"""

from __future__ import annotations

import json
import re
from pathlib import PureWindowsPath
from typing import Any, NoReturn

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.lines import Fix
from ..text.wording import counted, phrases, safe_text
from .limits import LARGEST_INDEX, LONGEST_NAME, MOST_CONTAINERS

_HEAD = 4096
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAP = "weight_map"
_NAME = re.compile(r".*\.index(\.[\w-]+)?\.json", re.DOTALL)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_UNSAFE = Fix(note="do not load this checkpoint; ask whoever made it for shards in one folder")


def is_index_name(name: str) -> bool:
    """Whether a name is an index's."""
    return _NAME.fullmatch(name) is not None


def is_index(file: CheckpointFile) -> bool:
    """Whether a file is a JSON text with a map of shards, or with the name of an index."""
    head = file.pread(0, min(_HEAD, file.size)).removeprefix(_BYTE_ORDER_MARK).lstrip()
    return head.startswith(b"{") and (f'"{_MAP}"'.encode() in head or is_index_name(file.path.name))


def read_index(file: CheckpointFile) -> dict[str, str]:
    """Reads the shard of each tensor.

    Args:
        file: The opened index.

    Returns:
        Key → the shard's path, relative to the index's folder.

    Raises:
        CheckpointError: It is too large, not an index, or names a shard that is not a plain path below its folder.
    """
    if file.size > LARGEST_INDEX:
        raise file.damaged(f"an index of {file.size:,} bytes; at most {LARGEST_INDEX:,} are allowed")
    index = _parsed(file, file.pread(0, file.size))
    places = index.get(_MAP)
    if not isinstance(places, dict) or not places:
        what = "is empty" if places == {} else "is missing or not a mapping of tensors to shards"
        raise CheckpointError(
            f"{shown_path(file.path)} is not an index of shards: its '{_MAP}' {what}",
            Fix(note="download it again"),
            Fix("checkpoint.path=FILE", "the checkpoint itself"),
        )
    strange = [key for key, name in places.items() if type(name) is not str]
    if strange:
        raise file.damaged(f"the shard of '{safe_text(strange[0])}' in its '{_MAP}' is not text")
    _refuse_unsafe(file, dict.fromkeys(places.values()))
    return places


def _parsed(file: CheckpointFile, raw: bytes) -> dict[str, Any]:
    if _brackets(raw) > MOST_CONTAINERS and _brackets(_STRING.sub(b"", raw)) > MOST_CONTAINERS:
        raise file.damaged(f"an index with more than {MOST_CONTAINERS:,} lists and mappings; two were expected")
    return read_mapping(file, raw.removeprefix(_BYTE_ORDER_MARK), "it")


def _brackets(raw: bytes) -> int:
    return raw.count(b"[") + raw.count(b"{")


def _refuse_unsafe(file: CheckpointFile, names: dict[str, None]) -> None:
    faults = [f"'{safe_text(name)}' {fault}" for name in names if (fault := fault_of_name(name))]
    if faults:
        raise CheckpointError(
            f"{shown_path(file.path)} names {counted(len(faults), 'shard')} that must not be opened: "
            f"{phrases(faults)}; names of files below its own folder were expected",
            _UNSAFE,
        )


def fault_of_name(name: str) -> str:
    """Why a name is not a plain path below a folder; empty if it is one."""
    if not name:
        return "is empty"
    if len(name) > LONGEST_NAME:
        return f"is {len(name):,} characters long"
    if safe_text(name, len(name)) != name:
        return "contains unprintable characters"
    if "\\" in name:
        return "contains a backslash"
    windows = PureWindowsPath(name)
    if name.startswith("/") or windows.drive or windows.root:
        return "is absolute"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the folder"
    return "has empty path segments" if "" in parts or "." in parts else ""


def read_mapping(file: CheckpointFile, raw: bytes, what: str) -> dict[str, Any]:
    """Reads a mapping of names.

    Args:
        file: The file, for messages.
        raw: The text.
        what: What messages call the text, such as ``its header``.

    Raises:
        CheckpointError: It is not JSON, not a mapping, or has a duplicate name.
    """
    try:
        return parse_mapping(raw)
    except ValueError as error:
        raise file.damaged(f"{what} {error}") from error


def parse_mapping(raw: bytes) -> dict[str, Any]:
    """Reads a mapping of names.

    Raises:
        ValueError: It is not JSON, not a mapping, or has a duplicate name; a sentence without its subject.
    """
    try:
        found = json.loads(raw.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except _TwiceError:
        raise
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({safe_text(error, 120)})") from error
    if not isinstance(found, dict):
        raise ValueError("is not a mapping")
    return found


class _TwiceError(ValueError):
    """A duplicate name in a mapping."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _TwiceError(f"names '{safe_text(twice)}' twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
