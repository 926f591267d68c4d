"""Which attributes of a TorchScript class are parameters and buffers, by the code that an archive carries.

Guarantees: the code is looked through as text, line by line and in bounded pieces, for the few lines that list names;
it is neither compiled nor parsed as a program, and nothing of it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ...text.wording import safe_text
from ..archives.archived import Records
from ..pickle.records import Global

ROOT = "__torch__"
_MOST_CODE = 256 << 20
"""All code together may not declare more than this; a network of a thousand layers has a few megabytes."""
_LONGEST_LINE = 4 << 20
_TOLD = re.compile(rb"^(?:class (\w+)\(Module\):|(class) |  __(parameters|buffers)__ = \[(.*)\])", re.MULTILINE)
_NAME = re.compile(rb'"([^"]*)"')


@dataclass(slots=True)
class ScriptClass:
    """What the code says of a module's class."""

    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] | None = None
    """None where the code does not list them: until torch 1.5 every tensor that was no parameter was a buffer."""


def script_classes(records: Records, named: Iterable[Global]) -> dict[str, ScriptClass]:
    """Finds the classes of modules among what a pickle names.

    Args:
        records: The archive.
        named: What the pickle names.

    Returns:
        By full name; what is no module's class is left out.

    Raises:
        CheckpointError: The code is damaged, or declares more than code can be.
    """
    modules = sorted({found.module for found in named if found.module.partition(".")[0] == ROOT})
    files = {module: f"code/{module.replace('.', '/')}.py" for module in modules}
    sizes = sum(records.size(name) for name in files.values())
    if sizes > _MOST_CODE:
        raise records.file.damaged(f"its code declares {sizes:,} bytes; at most {_MOST_CODE:,} were expected")
    classes: dict[str, ScriptClass] = {}
    for module, name in files.items():
        if name in records:
            _learn(module, name, records, classes)
    return classes


def _learn(module: str, name: str, records: Records, classes: dict[str, ScriptClass]) -> None:
    current: ScriptClass | None = None
    for text in _whole_lines(records, name):
        for found in _TOLD.finditer(text):
            if found[1]:
                current = classes[f"{module}.{found[1].decode()}"] = ScriptClass()
            elif found[2]:
                current = None  # a class that is no module
            elif current is not None and found[3] == b"parameters":
                current.parameters = _names(found[4], name, records)
            elif current is not None:
                current.buffers = _names(found[4], name, records)


def _whole_lines(records: Records, name: str) -> Iterator[bytes]:
    rest = b""
    for piece in records.pieces(name, "code"):
        text, newline, rest = (rest + piece).rpartition(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise records.file.damaged(f"a line of its code ({safe_text(name)}) is longer than {_LONGEST_LINE:,} bytes")
        yield text + newline
    yield rest


def _names(listed: bytes, file: str, records: Records) -> frozenset[str]:
    try:
        return frozenset(name.decode() for name in _NAME.findall(listed))  # torch escapes nothing in them
    except UnicodeDecodeError as error:
        raise records.file.damaged(f"its code ({safe_text(file)}) lists names that are none") from error
