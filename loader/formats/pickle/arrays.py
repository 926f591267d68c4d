"""NumPy arrays inside a pickle.

Guarantees: NumPy is neither imported nor called: an array is read off the record of what a pickle would hand to it,
and only where type, shape and bytes belong together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loader.formats.base import ITEMSIZE, Storage, TensorEntry
from loader.formats.pickle.records import Global, Reduced

_ARRAYS = frozenset({"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"})
NUMPY_DTYPES: Mapping[str, str] = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64",
    "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64",
    "f2": "float16", "f4": "float32", "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PickledArray:
    """What a pickle says of an array."""

    dtype: str
    """torch's name."""
    shape: tuple[int, ...]
    data: bytes
    big_endian: bool


def pickled_array(record: object) -> PickledArray | None:
    """Reads a C-ordered array of numbers; None where the record is something else."""
    if not isinstance(record, Reduced) or record.type not in _ARRAYS:
        return None
    state = record.state
    if not isinstance(state, tuple) or len(state) != 5 or state[3] is not False:
        return None
    _, shape, kind, _, raw = state
    dtype, data = _dtype(kind), _bytes(raw)
    if not isinstance(shape, tuple) or not all(type(size) is int and size >= 0 for size in shape):
        return None
    count = 1
    for size in shape:
        count *= size
    if dtype is None or data is None or count * ITEMSIZE[dtype[0]] != len(data):
        return None
    return PickledArray(dtype[0], shape, data, dtype[1])


def device_tensor_from_array(function: Global, args: tuple[object, ...]) -> object:
    """``_rebuild_device_tensor_from_numpy``: array, dtype, device, requires_grad; so were tensors of a TPU saved."""
    array = pickled_array(args[0]) if len(args) == 4 else None
    dtype = args[1] if len(args) == 4 else None
    if array is None or not isinstance(dtype, Global) or dtype.full_name != f"torch.{array.dtype}":
        return Reduced(function, args)
    strides, step = [], 1
    for size in reversed(array.shape):
        strides.append(step)
        step *= max(size, 1)
    storage = Storage("an array in the pickle", 0, len(array.data), big_endian=array.big_endian, data=array.data)
    location = args[2] if isinstance(args[2], str) else "cpu"
    details = {"requires_grad": True} if args[3] is True else {}
    return TensorEntry(array.dtype, array.shape, tuple(reversed(strides)), 0, storage, location, details=details)


def _dtype(kind: object) -> tuple[str, bool] | None:
    if not isinstance(kind, Reduced) or kind.type != "numpy.dtype" or not isinstance(kind.args, tuple):
        return None
    name = kind.args[0] if kind.args else None
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else None
    found = NUMPY_DTYPES.get(name) if isinstance(name, str) else None
    return None if found is None else (found, order == ">")


def _bytes(raw: object) -> bytes | None:
    """The bytes themselves, or the text that protocol 2 writes them as."""
    if isinstance(raw, Reduced) and raw.type == "_codecs.encode" and isinstance(raw.args, tuple) and raw.args:
        text = raw.args[0]
        try:
            return text.encode("latin1") if isinstance(text, str) else None
        except UnicodeEncodeError:
            return None
    if isinstance(raw, Reduced) and raw.type == "builtins.bytes" and raw.args == ():
        return b""
    return raw if isinstance(raw, bytes) else None
