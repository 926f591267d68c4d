"""The record that bitsandbytes keeps next to a 4-bit tensor, as JSON in a tensor of bytes.

Guarantees: at most `LARGEST_QUANT_STATE` bytes are read; every number is compared with what the format allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...formats.formulas.schemes import Nested
from ...formats.index import parse_mapping
from ...formats.limits import LARGEST_QUANT_STATE
from ...formats.tree import ITEMSIZE, TensorEntry
from ...text.wording import safe_text
from .tensors import Context, Unfit

_DTYPES = ("float16", "bfloat16", "float32")
_MOST_DIMS = 8


@dataclass(frozen=True, slots=True)
class QuantState:
    """What the record says."""

    shape: tuple[int, ...]
    dtype: str
    blocksize: int
    nested: Nested | None


def quant_state(entry: TensorEntry, context: Context, *, nested: bool) -> QuantState:
    """Reads a record.

    Args:
        entry: The tensor of bytes.
        context: Reads it.
        nested: Whether the file has scales of scales.

    Raises:
        Unfit: It is not such a record, or an entry is invalid.
        CheckpointError: Its bytes are damaged.
    """
    held = sum(storage.nbytes for storage in entry.storages() if storage.memory is None)
    size = max(entry.numel * ITEMSIZE[entry.dtype], held)
    if entry.dtype != "uint8" or size > LARGEST_QUANT_STATE:
        limit = f"expected uint8 of at most {LARGEST_QUANT_STATE:,}"
        raise Unfit([f"quant_state is {entry.dtype} of {size:,} bytes ({limit})"])
    raw = context.peek(entry)
    try:
        found = parse_mapping(raw)
        return QuantState(
            _shape(found),
            _one_of(found, "dtype", _DTYPES),
            _size(found, "blocksize"),
            Nested(_size(found, "nested_blocksize"), _offset(found)) if nested else None,
        )
    except ValueError as error:
        raise Unfit([f"quant_state {error}"]) from error


def _shape(found: Mapping[str, Any]) -> tuple[int, ...]:
    shape = found.get("shape")
    if not isinstance(shape, list) or len(shape) > _MOST_DIMS or not all(type(size) is int for size in shape):
        raise ValueError(f"has shape: {safe_text(shape)}, expected a list of sizes")
    if any(not 0 <= size < 1 << 48 for size in shape):
        raise ValueError(f"has shape: {safe_text(shape)}, expected sizes of a tensor")
    return tuple(shape)


def _one_of(found: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = found.get(name)
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"has {name}: {safe_text(value)}, expected {' or '.join(known)}")
    return value


def _size(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name)
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError(f"has {name}: {safe_text(value)}, expected a positive number of elements")
    return value


def _offset(found: Mapping[str, Any]) -> float:
    value = found.get("nested_offset")
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e38:
        raise ValueError(f"has nested_offset: {safe_text(value)}, expected a number")
    return float(value)
