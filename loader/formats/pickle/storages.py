"""Storages, shapes, views and NumPy arrays, as a pickle describes them.

Guarantees: a view lies inside its storage, and a tensor without values could fit in memory, by arithmetic that cannot
overflow. NumPy is neither imported nor called: an array is read from the record of the call that would make it, and
only if type, shape and bytes match.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ...errors import CheckpointError
from ...text.lines import Fix
from ...text.wording import safe_text
from ..limits import LARGEST_NUMBER, MOST_DIMENSIONS
from ..tree import ITEMSIZE, NO_DETAILS, Details, Pickled, Storage, TensorEntry, contiguous
from .records import Global, Reduced

_NO_COMPONENTS: Mapping[str, TensorEntry] = MappingProxyType({})

STORAGE_DTYPES: Mapping[str, str] = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "UntypedStorage": "uint8", "_UntypedStorage": "uint8",
}  # fmt: skip
"""Name of a storage class → dtype."""

UNEXPECTED_ID = 'unexpected persistent id (expected ("storage", type, key, location, elements))'
_PLACES = ("numpy.core", "numpy._core")
_ARRAYS = frozenset(f"{place}.multiarray._reconstruct" for place in _PLACES)
_SCALARS = frozenset(f"{place}.multiarray.scalar" for place in _PLACES)
_BUFFERS = frozenset(f"{place}.numeric._frombuffer" for place in _PLACES)
"""The function of protocol 5, with the arguments bytes, type, shape and order."""
_FORMATS: Mapping[str, str] = MappingProxyType(
    {"bool": "?", "float16": "e", "float32": "f", "float64": "d"}
    | {"int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q"}
)
"""dtype → its `struct` format."""
NUMPY_DTYPES: Mapping[str, str] = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip

_OF_NUMPY = Details(pickled=Pickled(array=True))


@dataclass(frozen=True, slots=True)
class TypedStorage:
    """A storage with the dtype and location that the pickle gives it."""

    storage: Storage
    dtype: str
    location: str


def storage_dtype(storage_type: object) -> str | None:
    """Returns the dtype of a pickled storage class; None if it is unknown."""
    if not isinstance(storage_type, Global) or storage_type.module.partition(".")[0] != "torch":
        return None
    return STORAGE_DTYPES.get(storage_type.name)


def dtype_name(dtype: object) -> str | None:
    """Returns torch's name of a pickled dtype; None if it is unsupported."""
    if isinstance(dtype, Global) and dtype.module == "torch" and dtype.name in ITEMSIZE:
        return dtype.name
    return None


def shape_of(size: object) -> tuple[int, ...]:
    """Returns the shape that a pickled tuple, list or ``torch.Size`` holds.

    Raises:
        CheckpointError: It holds anything but non-negative integers, or too many of them.
    """
    if isinstance(size, Reduced) and size.type == "torch.Size" and isinstance(size.args, tuple) and len(size.args) == 1:
        size = size.args[0]
    if not isinstance(size, tuple | list) or len(size) > MOST_DIMENSIONS:
        raise malformed("its shape is not a list of sizes")
    for dimension in size:
        if type(dimension) is not int or not 0 <= dimension < LARGEST_NUMBER:
            raise malformed("shape and stride must be non-negative integers")
    return tuple(size)


def malformed(what: str) -> CheckpointError:
    """Returns the refusal of a tensor that is described in a way torch does not write."""
    return CheckpointError(
        f"invalid tensor: {what}",
        Fix(note="do not load this file; ask whoever made it for a safetensors file"),
    )


def viewed(
    typed: TypedStorage,
    dtype: str,
    offset: object,
    size: object,
    stride: object,
    details: Details = NO_DETAILS,
) -> TensorEntry:
    """Returns a dense tensor that is a view of a storage.

    Raises:
        CheckpointError: It exceeds the storage, or its offset, shape and stride are invalid.
    """
    if type(size) is not tuple or type(stride) is not tuple:
        size, stride = shape_of(size), shape_of(stride)
    if type(offset) is not int or not 0 <= offset < LARGEST_NUMBER or not len(size) == len(stride) <= MOST_DIMENSIONS:
        raise malformed("offset, shape and stride do not match")
    count, last = 1, offset
    for dimension, step in zip(size, stride, strict=True):
        if (
            type(dimension) is not int
            or type(step) is not int
            or not (0 <= dimension < LARGEST_NUMBER and 0 <= step < LARGEST_NUMBER)
        ):
            raise malformed("shape and stride must be non-negative integers")
        count *= dimension
        last += (dimension - 1) * step
        if count >= LARGEST_NUMBER:
            raise malformed("its shape is too large for any memory")
    storage = typed.storage
    if count and (last + 1) * ITEMSIZE[dtype] > storage.nbytes:
        raise malformed(
            f"a view of {safe_text(list(size))} elements exceeds its storage '{safe_text(storage.key)}' "
            f"of {storage.nbytes:,} bytes"
        )
    return TensorEntry(dtype, size, stride, offset, storage, typed.location, "strided", _NO_COMPONENTS, details)


def outline(
    dtype: str, size: object, stride: object, location: str = "cpu", details: Details = NO_DETAILS
) -> TensorEntry:
    """Returns a tensor without values.

    Raises:
        CheckpointError: It is too large for any memory, or its shape and stride are invalid.
    """
    made = TensorEntry(dtype, shape_of(size), shape_of(stride), 0, None, location, "strided", _NO_COMPONENTS, details)
    if len(made.shape) != len(made.stride) or made.nbytes >= LARGEST_NUMBER:
        raise malformed("its shape is too large for any memory, or does not match its stride")
    return made


@dataclass(frozen=True, slots=True)
class PickledArray:
    """A NumPy array as a pickle describes it."""

    dtype: str
    """torch's name of it."""
    shape: tuple[int, ...]
    fortran: bool
    data: bytes | bytearray
    big_endian: bool

    def entry(self) -> TensorEntry:
        """Returns it as a tensor."""
        stride = contiguous(self.shape)
        if self.fortran:
            stride = tuple(reversed(contiguous(self.shape[::-1])))
        storage = Storage("an array in the pickle", 0, len(self.data), big_endian=self.big_endian, data=self.data)
        return TensorEntry(self.dtype, self.shape, stride, 0, storage, details=_OF_NUMPY)


def is_array(record: object) -> bool:
    """Returns whether a record is an array, of any type."""
    return isinstance(record, Reduced) and (record.type in _ARRAYS or record.type in _BUFFERS)


def pickled_array(record: object) -> PickledArray | None:
    """Reads an array of numbers; None if the record is something else."""
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
    """Reads a NumPy scalar (``np.float64(2.5)``) as a Python number; None if the record is something else."""
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
    """Returns an object array's number of dimensions and its items; None if the record is something else."""
    parts = _parts(record)
    if parts is None or not isinstance(parts[3], list) or not _is_shape(parts[0]):
        return None
    return len(parts[0]), parts[3]


def device_tensor_from_array(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_device_tensor_from_numpy``: array, dtype, device, requires_grad (written for TPU tensors)."""
    array = pickled_array(args[0]) if len(args) == 4 else None
    dtype = args[1] if len(args) == 4 else None
    if array is None or not isinstance(dtype, Global) or dtype.full_name != f"torch.{array.dtype}":
        return Reduced(function, args)
    made = array.entry()
    location = args[2] if isinstance(args[2], str) else "cpu"
    details = Details(pickled=Pickled(requires_grad=True)) if args[3] is True else NO_DETAILS
    return TensorEntry(made.dtype, made.shape, made.stride, 0, made.storage, location, details=details)


def _parts(record: object) -> tuple[tuple[int, ...], object, bool, object] | None:
    """Shape, type, whether the order is Fortran's, and the content."""
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
    return len(shape) <= MOST_DIMENSIONS and all(type(size) is int and 0 <= size < LARGEST_NUMBER for size in shape)


def _dtype(kind: object) -> tuple[str, bool] | None:
    if not isinstance(kind, Reduced) or kind.type != "numpy.dtype" or not isinstance(kind.args, tuple):
        return None
    name = kind.args[0] if kind.args else None
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else None
    found = NUMPY_DTYPES.get(name) if isinstance(name, str) else None
    return None if found is None else (found, order == ">")


def _bytes(raw: object) -> bytes | bytearray | None:
    """The bytes, also where protocol 2 writes them as text."""
    if isinstance(raw, Reduced) and raw.type == "_codecs.encode" and isinstance(raw.args, tuple) and raw.args:
        text = raw.args[0]
        try:
            return text.encode("latin1") if isinstance(text, str) else None
        except UnicodeEncodeError:
            return None
    if isinstance(raw, Reduced) and raw.type == "builtins.bytes" and raw.args == ():
        return b""
    return raw if isinstance(raw, bytes | bytearray) else None
