"""Safetensors files: a JSON header of names, types, shapes and places, then the bytes.

Guarantees: the header is bounded, no name stands twice in it, and the places it declares cover the rest of the file
exactly, without overlap or gap, each as large as its type and shape say.
"""

from __future__ import annotations

import struct
from types import MappingProxyType
from typing import Any

from ..files.file import CheckpointFile
from ..text.wording import safe_text
from .limits import LARGEST_HEADER, LARGEST_NUMBER, MOST_DIMENSIONS
from .names import SAFETENSORS as FORMAT
from .opened import OpenedFile
from .strict_json import read_mapping
from .tree import ITEMSIZE, Container, Leaf, Node, Storage, TensorEntry

_LENGTH = struct.Struct("<Q")
_METADATA = "__metadata__"
_EMPTY: MappingProxyType[str, Any] = MappingProxyType({})

DTYPES: dict[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""The name torch has for it, by the format's own."""


class SafeTensors(OpenedFile):
    """A safetensors file.

    Args:
        file: The opened file.
        check: Its bytes carry no checksum: all that can be checked, the structure, always is.

    Raises:
        CheckpointError: It is cut off, or its header contradicts itself or the file.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        length = _LENGTH.unpack(file.pread(0, _LENGTH.size))[0]
        if length > LARGEST_HEADER:
            raise file.damaged(f"its header declares {length:,} bytes; at most {LARGEST_HEADER:,} are allowed")
        header = read_mapping(file, file.pread(_LENGTH.size, length), "its header")
        notes = self._notes(header.pop(_METADATA, {}))
        children = self._children(header, _LENGTH.size + length)
        super().__init__(file, FORMAT, Container("dict", FORMAT, children, record=notes), check)

    def _notes(self, notes: Any) -> dict[str, str]:
        texts = isinstance(notes, dict) and all(type(note) is str for note in notes.values())
        if not texts:
            raise self._file.damaged("the metadata in its header is no mapping of text to text")
        return dict(notes)

    def _children(self, header: dict[str, Any], start: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        places: list[tuple[int, int, str]] = []
        for name, declared in header.items():
            try:
                kind, shape = declared["dtype"], tuple(declared["shape"])
                begin, end = declared["data_offsets"]
            except (TypeError, KeyError, ValueError) as error:
                raise self._file.damaged(f"its header does not say where '{safe_text(name)}' is, or what") from error
            if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
                raise self._file.damaged(f"its header gives '{safe_text(name)}' a place that is none")
            places.append((begin, end, name))
            storage = Storage(name, start + begin, end - begin, None, None, self._file)
            children[name] = self._entry(name, kind, shape, storage)
        self._check_places(places, start)
        return children

    def _entry(self, name: str, kind: Any, shape: tuple[Any, ...], storage: Storage) -> TensorEntry | Leaf:
        stride, count = [], 1
        for dimension in reversed(shape):
            if type(dimension) is not int or not 0 <= dimension < LARGEST_NUMBER:
                raise self._file.damaged(f"its header gives '{safe_text(name)}' a shape that is none")
            stride.append(count)
            count *= dimension or 1
        dtype = DTYPES.get(kind) if type(kind) is str else None
        if len(shape) > MOST_DIMENSIONS or type(kind) is not str:
            raise self._file.damaged(f"its header gives '{safe_text(name)}' a shape or type that is none")
        if dtype is None:
            return Leaf(f"safetensors {safe_text(kind, 20)}", safe_text(list(shape)))
        size = 0 if 0 in shape else count * ITEMSIZE[dtype]
        if size != storage.nbytes:
            raise self._file.damaged(
                f"its header gives '{safe_text(name)}' {storage.nbytes:,} bytes; {kind} {safe_text(list(shape))} needs "
                f"{safe_text(size)}"
            )
        return TensorEntry(dtype, shape, tuple(reversed(stride)), 0, storage, "cpu", "strided", _EMPTY, _EMPTY)

    def _check_places(self, places: list[tuple[int, int, str]], start: int) -> None:
        """The tensors must fill the file from the header to its end, without overlap or gap."""
        at = 0
        for begin, end, name in sorted(places):
            if begin != at:
                what = "overlaps what stands before it" if begin < at else "leaves a gap before it"
                raise self._file.damaged(f"'{safe_text(name)}' {what} (bytes {begin:,} to {end:,})")
            at = end
        if start + at > self._file.size:
            raise self._file.ends_early(start + at)
        if start + at < self._file.size:
            raise self._file.damaged(f"{self._file.size - start - at:,} bytes follow its last tensor")
