"""Storages and sizes as a pickle gives them, and tensors that look into a storage.

Guarantees: a view lies inside its storage, and a tensor without values is one that a memory could hold, by arithmetic
that cannot overflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ...errors import CheckpointError
from ...text.wording import safe_text
from ..tree import ITEMSIZE, Storage, TensorEntry
from .records import Global, Reduced

_MOST_DIMENSIONS = 64
_LARGEST = 1 << 63
PLAIN: Mapping[str, TensorEntry] = MappingProxyType({})
"""The components of a tensor that is one run of bytes."""
NO_DETAILS: Mapping[str, object] = MappingProxyType({})

STORAGE_DTYPES: Mapping[str, str] = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "UntypedStorage": "uint8", "_UntypedStorage": "uint8",
}  # fmt: skip
"""dtype by the name of the class that a pickle names."""


@dataclass(frozen=True, slots=True)
class TypedStorage:
    """A storage as a pickle refers to it."""

    storage: Storage
    dtype: str
    location: str


def storage_dtype(storage_type: object) -> str | None:
    """The element type of a storage class that a pickle names; None where it is not known."""
    if not isinstance(storage_type, Global) or storage_type.module.partition(".")[0] != "torch":
        return None
    return STORAGE_DTYPES.get(storage_type.name)


def dtype_name(dtype: object) -> str | None:
    """The name torch gives a pickled dtype; None where it is not one that can be read."""
    if isinstance(dtype, Global) and dtype.module == "torch" and dtype.name in ITEMSIZE:
        return dtype.name
    return None


def shape_of(size: object) -> tuple[int, ...]:
    """A tuple of sane sizes out of a pickled tuple, list or ``torch.Size``."""
    if isinstance(size, Reduced) and size.type == "torch.Size" and isinstance(size.args, tuple) and len(size.args) == 1:
        size = size.args[0]
    if not isinstance(size, tuple | list) or len(size) > _MOST_DIMENSIONS:
        raise malformed("its shape is no list of sizes")
    for dimension in size:
        if type(dimension) is not int or not 0 <= dimension < _LARGEST:
            raise malformed("its shape or strides are no sizes")
    return tuple(size)


def malformed(what: str) -> CheckpointError:
    """What to raise where a tensor is described by what torch does not write."""
    return CheckpointError(
        f"a tensor of this file is not what torch writes: {what}",
        "do not load this file; ask whoever made it for a safetensors file",
    )


def viewed(
    typed: TypedStorage,
    dtype: str,
    offset: object,
    size: object,
    stride: object,
    details: Mapping[str, object] = NO_DETAILS,
) -> TensorEntry:
    """A dense tensor that looks into a storage.

    Raises:
        CheckpointError: It reaches outside the storage, or is described by what are no sizes.
    """
    if type(size) is not tuple or type(stride) is not tuple:
        size, stride = shape_of(size), shape_of(stride)
    if type(offset) is not int or not 0 <= offset < _LARGEST or not len(size) == len(stride) <= _MOST_DIMENSIONS:
        raise malformed("its offset, shape and strides do not belong together")
    count, last = 1, offset
    for dimension, step in zip(size, stride, strict=True):
        if (
            type(dimension) is not int
            or type(step) is not int
            or not (0 <= dimension < _LARGEST and 0 <= step < _LARGEST)
        ):
            raise malformed("its shape or strides are no sizes")
        count *= dimension
        last += (dimension - 1) * step
        if count >= _LARGEST:
            raise malformed("its shape is beyond any memory")
    storage = typed.storage
    if count and (last + 1) * ITEMSIZE[dtype] > storage.nbytes:
        raise malformed(
            f"a view of {safe_text(list(size))} elements lies outside its storage '{safe_text(storage.key)}' "
            f"of {storage.nbytes:,} bytes"
        )
    return TensorEntry(dtype, size, stride, offset, storage, typed.location, "strided", PLAIN, details)


def outline(
    dtype: str, size: object, stride: object, location: str = "cpu", details: Mapping[str, object] = NO_DETAILS
) -> TensorEntry:
    """A tensor without values.

    Raises:
        CheckpointError: No memory could hold it, or it is described by what are no sizes.
    """
    made = TensorEntry(dtype, shape_of(size), shape_of(stride), 0, None, location, "strided", PLAIN, details)
    if len(made.shape) != len(made.stride) or made.nbytes >= _LARGEST:
        raise malformed("its shape is beyond any memory, or does not belong to its strides")
    return made
