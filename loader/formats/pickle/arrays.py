"""NumPy arrays inside a pickle.

Guarantees: NumPy is neither imported nor called: an array is read off the record of what a pickle would hand to it,
and only where type, shape and bytes belong together.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ..tree import ITEMSIZE, Storage, TensorEntry, contiguous
from .records import Global, Reduced

_PLACES = ("numpy.core", "numpy._core")
_ARRAYS = frozenset(f"{place}.multiarray._reconstruct" for place in _PLACES)
_SCALARS = frozenset(f"{place}.multiarray.scalar" for place in _PLACES)
_BUFFERS = frozenset(f"{place}.numeric._frombuffer" for place in _PLACES)
"""What protocol 5 calls: with the bytes, type, shape and order."""
ARRAY = "array"
"""The detail of a tensor that was an array of NumPy's."""
_MOST_DIMENSIONS = 64
_FORMATS: Mapping[str, str] = MappingProxyType(
    {"bool": "?", "float16": "e", "float32": "f", "float64": "d"}
    | {"int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q"}
)
"""How `struct` calls NumPy's dtypes."""
NUMPY_DTYPES: Mapping[str, str] = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip

_OF_NUMPY: Mapping[str, object] = MappingProxyType({ARRAY: True})


@dataclass(frozen=True, slots=True)
class PickledArray:
    """What a pickle says of an array."""

    dtype: str
    """torch's name."""
    shape: tuple[int, ...]
    fortran: bool
    data: bytes | bytearray
    big_endian: bool

    def entry(self) -> TensorEntry:
        """The tensor that it is."""
        stride = contiguous(self.shape)
        if self.fortran:
            stride = tuple(reversed(contiguous(self.shape[::-1])))
        storage = Storage("an array in the pickle", 0, len(self.data), big_endian=self.big_endian, data=self.data)
        return TensorEntry(self.dtype, self.shape, stride, 0, storage, details=_OF_NUMPY)


def is_array(record: object) -> bool:
    """Whether a record is an array, of whatever type."""
    return isinstance(record, Reduced) and (record.type in _ARRAYS or record.type in _BUFFERS)


def pickled_array(record: object) -> PickledArray | None:
    """Reads an array of numbers; None where the record is something else."""
    parts = _parts(record)
    if parts is None:
        return None
    shape, kind, fortran, raw = parts
    dtype, data = _dtype(kind), _bytes(raw)
    if dtype is None or data is None or not _is_shape(shape):
        return None
    count = 1
    for size in shape:
        count *= size
    if count * ITEMSIZE[dtype[0]] != len(data):
        return None
    return PickledArray(dtype[0], shape, fortran, data, dtype[1])


def pickled_number(record: object) -> bool | int | float | None:
    """Reads a scalar of NumPy's (``np.float64(2.5)``) as Python's number; None where the record is something else."""
    if not isinstance(record, Reduced) or record.type not in _SCALARS or not isinstance(record.args, tuple):
        return None
    kind, raw = record.args if len(record.args) == 2 else (None, None)
    dtype, data = _dtype(kind), _bytes(raw)
    code = _FORMATS.get(dtype[0]) if dtype else None
    if dtype is None or code is None or data is None or len(data) != ITEMSIZE[dtype[0]]:
        return None
    number: bool | int | float = struct.unpack(f"{'>' if dtype[1] else '<'}{code}", data)[0]
    return number


def objects_of(record: object) -> tuple[int, Sequence[object]] | None:
    """The dimensions of an array of Python objects and what it holds; None where the record is something else."""
    parts = _parts(record)
    if parts is None or not isinstance(parts[3], list) or not _is_shape(parts[0]):
        return None
    return len(parts[0]), parts[3]


def device_tensor_from_array(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_device_tensor_from_numpy``: array, dtype, device, requires_grad; so were tensors of a TPU saved."""
    array = pickled_array(args[0]) if len(args) == 4 else None
    dtype = args[1] if len(args) == 4 else None
    if array is None or not isinstance(dtype, Global) or dtype.full_name != f"torch.{array.dtype}":
        return Reduced(function, args)
    made = array.entry()
    location = args[2] if isinstance(args[2], str) else "cpu"
    details = {"requires_grad": True} if args[3] is True else {}
    return TensorEntry(made.dtype, made.shape, made.stride, 0, made.storage, location, details=details)


def _parts(record: object) -> tuple[tuple[int, ...], object, bool, object] | None:
    """Shape, type, whether the first dimension runs fastest, and the content."""
    if not isinstance(record, Reduced):
        return None
    if record.type in _ARRAYS:
        state = record.state
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[1], tuple):
            return None
        return (state[1], state[2], state[3] is True, state[4]) if type(state[3]) is bool else None
    if record.type in _BUFFERS and isinstance(record.args, tuple) and len(record.args) == 4:
        raw, kind, shape, order = record.args
        return (shape, kind, order == "F", raw) if isinstance(shape, tuple) and order in ("C", "F") else None
    return None


def _is_shape(shape: tuple[object, ...]) -> bool:
    return len(shape) <= _MOST_DIMENSIONS and all(type(size) is int and 0 <= size < 1 << 63 for size in shape)


def _dtype(kind: object) -> tuple[str, bool] | None:
    if not isinstance(kind, Reduced) or kind.type != "numpy.dtype" or not isinstance(kind.args, tuple):
        return None
    name = kind.args[0] if kind.args else None
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else None
    found = NUMPY_DTYPES.get(name) if isinstance(name, str) else None
    return None if found is None else (found, order == ">")


def _bytes(raw: object) -> bytes | bytearray | None:
    """The bytes themselves, or the text that protocol 2 writes them as."""
    if isinstance(raw, Reduced) and raw.type == "_codecs.encode" and isinstance(raw.args, tuple) and raw.args:
        text = raw.args[0]
        try:
            return text.encode("latin1") if isinstance(text, str) else None
        except UnicodeEncodeError:
            return None
    if isinstance(raw, Reduced) and raw.type == "builtins.bytes" and raw.args == ():
        return b""
    return raw if isinstance(raw, bytes | bytearray) else None
