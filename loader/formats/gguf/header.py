"""What stands before the tensors of a GGUF file: notes by name, and a list of the tensors.

Guarantees: every length and count is compared with what is left of the file before it is followed; lists of values are
counted, not kept; time and memory are proportional to the header's real size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckpointError
from ...files.file import CheckpointFile
from ...files.path import called, shown_path
from ...text.lines import typed
from ...text.wording import safe_text
from ..limits import LONGEST_NAME, MOST_GGUF_DIMENSIONS, MOST_GGUF_LEVELS, MOST_GGUF_VALUES

_VERSIONS = (2, 3)
_START = struct.Struct("<4sIQQ")
_U4, _U8, _INFO = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<IQ")
_NUMBERS = {
    0: struct.Struct("<B"), 1: struct.Struct("<b"), 2: struct.Struct("<H"), 3: struct.Struct("<h"),
    4: struct.Struct("<I"), 5: struct.Struct("<i"), 6: struct.Struct("<f"), 7: struct.Struct("<?"),
    10: struct.Struct("<Q"), 11: struct.Struct("<q"), 12: struct.Struct("<d"),
}  # fmt: skip
_TEXT, _LIST = 8, 9


@dataclass(frozen=True, slots=True)
class Values:
    """A list, of which only the length is kept."""

    count: int


@dataclass(frozen=True, slots=True)
class Listed:
    """What a file says of one tensor."""

    name: str
    dimensions: tuple[int, ...]
    """The fastest first: the reverse of torch's shape."""
    type: int
    """ggml's number of the type."""
    offset: int
    """Where it begins, counted from where the tensors begin."""


class Header:
    """Everything before the tensors.

    Args:
        file: The opened file.

    Raises:
        CheckpointError: It is cut off or damaged, or of a version that is not read.
    """

    def __init__(self, file: CheckpointFile) -> None:
        self._file = file
        self._data = file.mapping
        self._walked = 0
        _, version, tensors, notes = _START.unpack(file.pread(0, _START.size))
        if version not in _VERSIONS:
            raise _other_version(file.path, version)
        self.end = _START.size
        """The position after it."""
        self.notes: dict[str, object] = {}
        """The values by name: numbers, texts and `Values`."""
        self.listed: dict[str, Listed] = {}
        """The tensors by name."""
        for _ in self._times(notes, 8 + 4 + 1, "notes"):
            self._read_note()
        for _ in self._times(tensors, 8 + 4 + _INFO.size, "tensors"):
            self._read_listed()

    def _read_note(self) -> None:
        name = self._name()
        self.notes[name] = self._value(self._number(_U4), 0)

    def _read_listed(self) -> None:
        name = self._name()
        dimensions = self._number(_U4)
        if dimensions > MOST_GGUF_DIMENSIONS:
            raise self._file.damaged(f"its tensor '{safe_text(name)}' declares {dimensions:,} dimensions")
        sizes = struct.unpack(f"<{dimensions}Q", self._taken(8 * dimensions))
        kind, offset = _INFO.unpack(self._taken(_INFO.size))
        self.listed[name] = Listed(name, sizes, kind, offset)

    def _value(self, kind: int, level: int) -> object:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text(self._number(_U8))
        if kind != _LIST or level > MOST_GGUF_LEVELS:
            raise self._file.damaged(f"a note in its header is of a type that is none ({kind:,})")
        item, count = self._number(_U4), self._number(_U8)
        self._pass_over(item, count, level)
        return Values(count)

    def _pass_over(self, kind: int, count: int, level: int) -> None:
        if kind in _NUMBERS:
            self._taken_over(count * _NUMBERS[kind].size)
            return
        self._walked += count
        if self._walked > MOST_GGUF_VALUES:
            raise self._file.damaged(f"a list in its header declares {count:,} values")
        for _ in self._times(count, 8, "values in a list"):
            if kind == _TEXT:
                self._taken_over(self._number(_U8))
            else:
                self._value(kind, level + 1)

    def _times(self, count: int, least: int, what: str) -> range:
        """So many times, where the file is long enough for it."""
        if count * least > self._file.size - self.end:
            raise self._file.damaged(f"its header declares {count:,} {what}; {self._file.size:,} bytes are there")
        return range(count)

    def _name(self) -> str:
        length = self._number(_U8)
        if length > LONGEST_NAME:
            raise self._file.damaged(f"a name in its header declares {length:,} bytes")
        name = self._text(length)
        if name in self.notes or name in self.listed:
            raise self._file.damaged(f"its header names '{safe_text(name)}' twice")
        return name

    def _text(self, length: int) -> str:
        try:
            return str(self._taken(length), "utf-8")
        except UnicodeDecodeError as error:
            raise self._file.damaged("a text in its header is no UTF-8") from error

    def _number(self, form: struct.Struct) -> int:
        number: int = form.unpack(self._taken(form.size))[0]
        return number

    def _taken(self, length: int) -> bytes:
        start = self.end
        self._taken_over(length)
        return self._data[start : self.end]

    def _taken_over(self, length: int) -> None:
        if self.end + length > self._file.size:
            raise self._file.ends_early(self.end + length)
        self.end += length


def _other_version(path: Path, version: int) -> CheckpointError:
    shown, turn = shown_path(path), typed("gguf-convert-endian", called(path), "little")
    if version & 0xFFFF == 0:
        return CheckpointError(
            f"{shown} is a GGUF file for big-endian machines; one for little-endian machines was expected",
            f"pip install gguf && {turn}   # turns the file itself round" if turn else "",
        )
    return CheckpointError(
        f"{shown} is a GGUF file of version {version:,}; version 2 or 3 was expected",
        "convert it again with the newest llama.cpp",
    )
