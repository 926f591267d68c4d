"""Reads a report that was written earlier, by this process or by anyone.

Guarantees: a report is data that may be hostile: nothing but JSON passes, bounded in size, number and nesting; only a
regular file is opened, and opening never hangs. Every field has its declared type, or the report is refused; fields
that this version does not know are left out. Nothing that a report names is imported, opened or resolved.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import ConfigError
from ..files.descriptors import SAFE_FLAGS
from ..formats.index import parse_mapping
from ..formats.limits import LARGEST_REPORT, MOST_REPORT_LEVELS, MOST_REPORT_NODES
from ..text.lines import Fix
from ..text.wording import safe_text
from .data import SCHEMA, Report

_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LONGEST = 400
_NAMELESS = '""'
"""Stands for the key of the part at the root, in the place of a field."""


def read_report(path: Path, *fixes: Fix) -> Report:
    """Reads a report.

    Args:
        path: The file.
        fixes: What a refusal offers.

    Raises:
        ConfigError: It cannot be read, is not a report, or is one of another version.
    """
    try:
        content = read_content(path)
        if "schema" not in content or "status" not in content or "config" not in content:
            raise ValueError("is not a report of the loader: it has no 'schema', 'status' and 'config'")
        version = _value(int, content["schema"], "schema")
        if version != SCHEMA:
            raise ValueError(f"has schema {version}; this version of the loader reads schema {SCHEMA}")
        return _made(Report, content, "")  # type: ignore[no-any-return]
    except OSError as error:
        raise ConfigError(f"{safe_text(path, _LONGEST)} cannot be read: {error.strerror}", *fixes) from error
    except ValueError as error:
        raise ConfigError(f"{safe_text(path, _LONGEST)} {error}", *fixes) from error


def read_content(path: Path) -> dict[str, Any]:
    """Reads the JSON of a report, or of a summary, whatever is in it.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not a regular file, too large, or not a mapping in JSON; a sentence without its subject.
    """
    return parse_mapping(_bounded(_bytes(path)))


def _bytes(path: Path) -> bytes:
    number = os.open(path, os.O_RDONLY | SAFE_FLAGS)
    with open(number, "rb") as file:  # noqa: PTH123  # a descriptor
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a regular file (expected a report)")
        if found.st_size > LARGEST_REPORT:
            raise ValueError(f"has {found.st_size:,} bytes; a report has at most {LARGEST_REPORT:,}")
        return file.read(LARGEST_REPORT)


def _bounded(raw: bytes) -> bytes:
    """Refuses a text with too many brackets, or too many inside each other, before it is parsed."""
    bare = _STRING.sub(b"", raw)
    if bare.count(b"[") + bare.count(b"{") > MOST_REPORT_NODES:
        raise ValueError(f"has more than {MOST_REPORT_NODES:,} lists and mappings")
    depth = deepest = 0
    for bracket in re.finditer(rb"[][{}]", bare):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > MOST_REPORT_LEVELS:
        raise ValueError(f"has more than {MOST_REPORT_LEVELS} lists and mappings inside each other")
    return raw


def _made(record: type, content: Any, where: str) -> Any:
    """Makes a record of a mapping; fields that it lacks keep their defaults."""
    if not isinstance(content, dict):
        raise ValueError(f"is damaged: '{where}' is {_shown(content)}, expected a mapping")
    values = {}
    for name, (hint, required) in _fields(record).items():
        place = f"{where}.{name}" if where else name
        if name in content:
            values[name] = _value(hint, content[name], place)
        elif required:
            raise ValueError(f"is damaged: it has no '{safe_text(place, _LONGEST)}'")
    return record(**values)


@functools.cache
def _fields(record: type) -> Mapping[str, tuple[Any, bool]]:
    """Returns the fields of a record with their types, and whether they have no default."""
    hints, missing = get_type_hints(record), dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(record)
    }


def _value(hint: Any, content: Any, where: str) -> Any:
    """Returns a value if it has a type; makes records of mappings where the type is one."""
    if hint is Any:
        return content
    origin, inner = get_origin(hint), get_args(hint)
    if isinstance(hint, UnionType):
        if content is None and type(None) in inner:
            return None
        return _value(next(one for one in inner if one is not type(None)), content, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _made(hint, content, where)
    if origin is list and isinstance(content, list):
        return [_value(inner[0], item, f"{where}[{number}]") for number, item in enumerate(content)]
    if origin is dict and isinstance(content, dict):
        return {key: _value(inner[1], item, f"{where}.{key or _NAMELESS}") for key, item in content.items()}
    fits = content in inner if origin is Literal else _is_a(content, hint) if origin is None else False
    if not fits:
        raise ValueError(f"is damaged: '{safe_text(where, _LONGEST)}' is {_shown(content)}, expected {_name(hint)}")
    return content


def _is_a(content: Any, hint: type) -> bool:
    if hint is float:
        return isinstance(content, int | float) and not isinstance(content, bool)
    return type(content) is hint


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    return names.get(hint, "a list" if get_origin(hint) is list else "a mapping")


def _shown(content: Any) -> str:
    if isinstance(content, dict | list):
        return "a mapping" if isinstance(content, dict) else "a list"
    return repr(safe_text(content)) if isinstance(content, str) else safe_text(json.dumps(content))
