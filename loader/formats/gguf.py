"""GGUF files, as llama.cpp writes them.

Guarantees: every length and count in the header is compared with what is left of the file before it is followed; lists
are counted, not kept. The tensors lie inside the file, each as large as its type and shape say, and do not overlap.
Plain types are mapped; quantized ones become float32 when they are read, which alone needs the package `gguf`: it sees
the bytes of one tensor and never the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import called, shown_path
from ..text.lines import Fix, typed
from ..text.wording import counted, safe_text
from .limits import (
    LARGEST_ALIGNMENT,
    LARGEST_NUMBER,
    LONGEST_NAME,
    MOST_GGUF_DIMENSIONS,
    MOST_GGUF_LEVELS,
    MOST_GGUF_VALUES,
)
from .opened import OpenedFile
from .pickle.tree import leaf
from .signatures import GGUF as FORMAT
from .tree import ITEMSIZE, Blocks, Container, Details, Leaf, Node, Storage, TensorEntry, contiguous

_ALIGNMENT = "general.alignment"
_PLAIN: Mapping[int, str] = {
    0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16",
}  # fmt: skip
"""torch's name of a type by ggml's number."""


class Gguf(OpenedFile):
    """A GGUF file.

    Args:
        file: The opened file.
        check: Ignored: the format has no checksums, and its structure is always checked.

    Raises:
        CheckpointError: It is cut off, damaged, or quantized and the package `gguf` is not installed.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        header = Header(file)
        alignment = header.notes.get(_ALIGNMENT, 32)
        if type(alignment) is not int or not 0 < alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise file.damaged(f"its alignment is {safe_text(alignment)}; a power of two was expected")
        self._start = -(-header.end // alignment) * alignment
        children: dict[str, Node] = {name: _note(note) for name, note in header.notes.items()}
        children |= {name: self._entry(listed) for name, listed in header.listed.items()}
        self._check_places(children)
        super().__init__(file, FORMAT, Container("dict", FORMAT, children), check)

    def _entry(self, listed: Listed) -> TensorEntry | Leaf:
        shape = tuple(reversed(listed.dimensions))
        count = math.prod(shape)
        if any(size >= LARGEST_NUMBER for size in shape):
            raise self._file.damaged(f"invalid shape of tensor '{safe_text(listed.name)}'")
        plain = _PLAIN.get(listed.type)
        if plain is not None:
            return TensorEntry(plain, shape, contiguous(shape), 0, self._storage(listed, count * ITEMSIZE[plain]))
        kind = quantizations(shown_path(self._file.path), listed.name).get(listed.type)
        if kind is None:
            return Leaf(f"ggml type {listed.type:,}", safe_text(list(shape)))
        name, elements, nbytes = kind
        if not shape or shape[-1] % elements:
            raise self._file.damaged(
                f"the rows of tensor '{safe_text(listed.name)}' are not a multiple of {name}'s {elements} elements"
            )
        storage = self._storage(listed, count // elements * nbytes)
        blocks = TensorEntry("uint8", (storage.nbytes,), (1,), 0, storage)
        details = Details(quantization=Blocks(listed.type, name))
        return TensorEntry("float32", shape, components={"blocks": blocks}, details=details)

    def _storage(self, listed: Listed, nbytes: int) -> Storage:
        start = self._start + listed.offset
        if start + nbytes > self._file.size:
            raise self._file.ends_early(start + nbytes)
        return Storage(listed.name, start, nbytes, file=self._file)

    def _check_places(self, children: Mapping[str, Node]) -> None:
        storages = [s for node in children.values() if isinstance(node, TensorEntry) for s in node.storages()]
        end = self._start
        for storage in sorted(storages, key=lambda storage: (storage.offset, storage.nbytes)):
            if storage.offset < end:
                raise self._file.damaged(f"tensor '{safe_text(storage.key)}' overlaps the tensor before it")
            end = storage.offset + storage.nbytes


def _note(note: object) -> Leaf:
    return Leaf("list", counted(note.count, "value")) if isinstance(note, Values) else leaf(note)


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
    """A list whose values are not kept."""

    count: int


@dataclass(frozen=True, slots=True)
class Listed:
    """The header entry of one tensor."""

    name: str
    dimensions: tuple[int, ...]
    """The fastest dimension first: the reverse of torch's shape."""
    type: int
    """ggml's number of the type."""
    offset: int
    """Its offset from the first tensor."""


class Header:
    """Everything before the tensors.

    Args:
        file: The opened file.

    Raises:
        CheckpointError: It is cut off, damaged, or of an unsupported version.
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
            raise self._file.damaged(f"tensor '{safe_text(name)}' declares {dimensions:,} dimensions")
        sizes = struct.unpack(f"<{dimensions}Q", self._taken(8 * dimensions))
        kind, offset = _INFO.unpack(self._taken(_INFO.size))
        self.listed[name] = Listed(name, sizes, kind, offset)

    def _value(self, kind: int, level: int) -> object:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text(self._number(_U8))
        if kind != _LIST or level > MOST_GGUF_LEVELS:
            raise self._file.damaged(f"invalid type of a value in its header: {kind:,}")
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
        """A range of this length, if the file is long enough for it."""
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
            raise self._file.damaged("a text in its header is not UTF-8") from error

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
            Fix(f"pip install gguf && {turn.line}", "converts the file in place") if turn else Fix(),
        )
    return CheckpointError(
        f"{shown} is a GGUF file of version {version:,}; version 2 or 3 was expected",
        Fix(note="convert it again with the newest llama.cpp"),
    )


def quantizations(path: str, tensor: str) -> Mapping[int, tuple[str, int, int]]:
    """The quantized types by ggml's number: name, elements per block, bytes per block.

    Args:
        path: The file, for messages.
        tensor: A tensor of such a type, for messages.

    Raises:
        CheckpointError: The package `gguf` is not installed.
    """
    try:
        from gguf.constants import GGML_QUANT_SIZES  # noqa: PLC0415  # an extra, and slow to import
    except ImportError as error:
        raise CheckpointError(
            f"{path} holds tensors that ggml has quantized, such as '{safe_text(tensor)}', and the package gguf, which "
            "turns them into float32, is not installed",
            Fix("pip install 'hydra-loader[gguf]'"),
        ) from error
    return {int(kind): (kind.name, *size) for kind, size in GGML_QUANT_SIZES.items()}
