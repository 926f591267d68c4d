"""Safetensors files: a JSON header of names, types, shapes and offsets, then the bytes.

Guarantees: the header is bounded, no name appears twice in it, and the offsets it declares cover the rest of the file
exactly, without overlap or gap, each range as large as its type and shape say. Writing makes one tensor at a time
compact, so that it costs no more memory than the largest; what the format cannot hold has a reason in words.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..files.file import CheckpointFile
from ..text.wording import safe_text
from .index import read_mapping
from .limits import LARGEST_HEADER, LARGEST_NUMBER, MOST_DIMENSIONS
from .opened import OpenedFile
from .signatures import SAFETENSORS as FORMAT
from .tree import ITEMSIZE, Container, Leaf, Node, Storage, TensorEntry, contiguous

if TYPE_CHECKING:
    import torch

_LENGTH = struct.Struct("<Q")
METADATA = "__metadata__"
"""The header's key for notes, which no tensor can have as its name."""
_ALIGNMENT = 8
_EMPTY: MappingProxyType[str, Any] = MappingProxyType({})

DTYPES: dict[str, str] = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
"""Torch's name of a dtype, by the format's own."""
NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The format's own name of a dtype, by torch's."""


class SafeTensors(OpenedFile):
    """A safetensors file.

    Args:
        file: The opened file.
        check: Ignored: the format has no checksums, and its structure is always checked.

    Raises:
        CheckpointError: It is cut off, or its header contradicts itself or the file.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        length = _LENGTH.unpack(file.pread(0, _LENGTH.size))[0]
        if length > LARGEST_HEADER:
            raise file.damaged(f"its header declares {length:,} bytes; at most {LARGEST_HEADER:,} are allowed")
        header = read_mapping(file, file.pread(_LENGTH.size, length), "its header")
        notes = self._notes(header.pop(METADATA, {}))
        children = self._children(header, _LENGTH.size + length)
        super().__init__(file, FORMAT, Container("dict", FORMAT, children, record=notes), check)

    def _notes(self, notes: Any) -> dict[str, str]:
        texts = isinstance(notes, dict) and all(type(note) is str for note in notes.values())
        if not texts:
            raise self._file.damaged("invalid __metadata__ in its header: expected a mapping of text to text")
        return dict(notes)

    def _children(self, header: dict[str, Any], start: int) -> dict[str, Node]:
        children: dict[str, Node] = {}
        places: list[tuple[int, int, str]] = []
        for name, declared in header.items():
            try:
                kind, shape = declared["dtype"], tuple(declared["shape"])
                begin, end = declared["data_offsets"]
            except (TypeError, KeyError, ValueError) as error:
                raise self._file.damaged(
                    f"invalid header entry for tensor '{safe_text(name)}': expected dtype, shape and data_offsets"
                ) from error
            if type(begin) is not int or type(end) is not int or not 0 <= begin <= end:
                raise self._file.damaged(
                    f"invalid data_offsets for tensor '{safe_text(name)}': {safe_text([begin, end])}"
                )
            places.append((begin, end, name))
            storage = Storage(name, start + begin, end - begin, None, None, self._file)
            children[name] = self._entry(name, kind, shape, storage)
        self._check_places(places, start)
        return children

    def _entry(self, name: str, kind: Any, shape: tuple[Any, ...], storage: Storage) -> TensorEntry | Leaf:
        for dimension in shape:
            if type(dimension) is not int or not 0 <= dimension < LARGEST_NUMBER:
                raise self._file.damaged(f"invalid shape for tensor '{safe_text(name)}': {safe_text(list(shape))}")
        dtype = DTYPES.get(kind) if type(kind) is str else None
        if len(shape) > MOST_DIMENSIONS or type(kind) is not str:
            raise self._file.damaged(f"invalid shape or dtype for tensor '{safe_text(name)}'")
        if dtype is None:
            return Leaf(f"safetensors {safe_text(kind, 20)}", safe_text(list(shape)))
        size = math.prod(shape) * ITEMSIZE[dtype]
        if size != storage.nbytes:
            raise self._file.damaged(
                f"tensor '{safe_text(name)}' has {storage.nbytes:,} bytes; {kind} {safe_text(list(shape))} needs "
                f"{safe_text(size)}"
            )
        return TensorEntry(dtype, shape, contiguous(shape), 0, storage, "cpu", "strided", _EMPTY)

    def _check_places(self, places: list[tuple[int, int, str]], start: int) -> None:
        """The tensors must fill the file from the header to its end, without overlap or gap."""
        at = 0
        for begin, end, name in sorted(places):
            if begin != at:
                what = "overlaps the tensor before it" if begin < at else "leaves a gap before it"
                raise self._file.damaged(f"'{safe_text(name)}' {what} (bytes {begin:,} to {end:,})")
            at = end
        if start + at > self._file.size:
            raise self._file.ends_early(start + at)
        if start + at < self._file.size:
            raise self._file.damaged(f"{self._file.size - start - at:,} bytes follow its last tensor")


def fault(key: str, value: torch.Tensor) -> str:
    """Why a tensor cannot be written; empty if it can."""
    from .tensor import dtype_name, is_plain  # noqa: PLC0415  # reading a header needs no torch

    if key == METADATA or any("\ud800" <= character <= "\udfff" for character in key):
        return "the format cannot store its name"
    if value.is_meta:
        return "it has no data"
    if value.is_quantized or value.is_nested:
        return f"it is {'quantized' if value.is_quantized else 'nested'}"
    if (layout := str(value.layout).removeprefix("torch.")) != "strided":
        return f"its layout is {layout}"
    if not is_plain(value):
        return f"it is a {type(value).__module__}.{type(value).__qualname__}"
    return "" if dtype_name(value.dtype) in NAMES else f"its dtype is {dtype_name(value.dtype)}"


def pieces(
    tensors: Mapping[str, torch.Tensor],
    notes: Mapping[str, str],
    read: Callable[[str], torch.Tensor] | None = None,
) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file, piece by piece.

    Args:
        tensors: By name; each has a dtype of `NAMES` and is dense, on any device, with any strides.
        notes: Text for the header.
        read: Gives the values by name, one tensor at a time, if `tensors` are only their shapes and dtypes.
    """
    from .elements import raw  # noqa: PLC0415  # reading a header needs no torch
    from .tensor import dtype_name  # noqa: PLC0415  # likewise

    # The widest elements first: without gaps between them, which the format forbids, each tensor is aligned.
    ordered = sorted(tensors, key=lambda name: -tensors[name].element_size())
    places, end = {}, 0
    for name in ordered:
        places[name] = (end, end := end + nbytes(tensors[name]))
    header = {METADATA: dict(notes)} | {
        name: {"dtype": NAMES[dtype_name(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": places[name]}
        for name, tensor in tensors.items()
    }
    written = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    written += b" " * (-len(written) % _ALIGNMENT)
    yield _LENGTH.pack(len(written)) + written
    for name in ordered:
        if tensors[name].numel():
            yield raw(tensors[name] if read is None else read(name))


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements when it is compact."""
    return tensor.numel() * tensor.element_size()
