"""From a tensor's entry to the tensor.

Guarantees: the tensor equals the saved one in dtype, shape, strides and bytes; it is a view of the file's private
mapping or owns its memory, as requested; sparse indices and quantization parameters are checked before torch uses
them; a tensor in several pieces is assembled in memory of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..errors import CheckpointError
from ..text.lines import Fix
from ..text.wording import safe_text
from .boxes import extent, mapped
from .pickle.objects import WHOLE, withheld
from .tree import ITEMSIZE, Bits, Piece, Storage, TensorEntry, contiguous

if TYPE_CHECKING:
    from .formulas.records import Formula

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in ITEMSIZE if hasattr(torch, name)}
"""By torch's name; an older torch lacks the newest ones."""
_HERE_BIG = sys.byteorder == "big"
_QUANTIZED = frozenset({"qint8", "quint8", "qint32"})
_CARRIERS = {1: torch.uint8, 4: torch.int32}
Unpack = Callable[[Storage], bytes]
"""Reads a whole deflated storage."""


def tensor_of(entry: TensorEntry, unpack: Unpack, *, mmap: bool) -> torch.Tensor:
    """Makes the tensor of an entry.

    Args:
        entry: The entry in the index.
        unpack: Reads a whole deflated storage.
        mmap: Whether it may be a view of the file's mapping.

    Raises:
        CheckpointError: Its data is not in the file, or invalid for its layout.
    """
    if entry.formula is not None:
        return _computed(entry, entry.formula, unpack, mmap=mmap)
    if entry.pieces:
        return _joined(entry, unpack, mmap=mmap)
    if "blocks" in entry.components:
        from .formulas.ggml import dequantized  # noqa: PLC0415  # few files need it

        return dequantized(entry, tensor_of(entry.components["blocks"], unpack, mmap=mmap))
    if entry.layout == "strided":
        return _dense(entry, unpack, mmap=mmap)
    parts = {role: tensor_of(part, unpack, mmap=mmap) for role, part in entry.components.items()}
    try:
        return _ASSEMBLERS[entry.layout](entry, parts)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"invalid {entry.layout} tensor: {safe_text(reason, 200)}",
            Fix(note="do not load this file; save it again"),
        ) from error


def _dense(entry: TensorEntry, unpack: Unpack, *, mmap: bool) -> torch.Tensor:
    dtype = torch_dtype(entry)
    if entry.storage is None:
        return _without_data(entry, dtype)
    shape, stride = entry.shape, entry.stride
    compact = stride == contiguous(shape)
    if entry.storage.made is not None:
        shared = entry.storage.whole
        whole = tensor_of(entry.storage.made, unpack, mmap=mmap) if shared is None else shared()
        whole = whole.resolve_conj().resolve_neg().contiguous()
        if compact and shared is None and entry.numel == whole.numel():
            return whole.view(shape)
        part = whole.as_strided(shape, stride, whole.storage_offset() + entry.offset)
        return torch.empty(shape, dtype=whole.dtype).copy_(part)  # a view would keep all of it in memory
    count = entry.numel if compact else extent(shape, stride)
    width = ITEMSIZE[entry.dtype]
    carrier = _CARRIERS[width] if entry.dtype in _QUANTIZED else dtype
    flat = _flat(entry.storage, entry.offset * width, count, carrier, unpack, mmap=mmap)
    # The size stays: resize_ only sets the shape, and unlike view() it makes no view.
    made = flat.resize_(shape) if compact else flat.set_(flat.untyped_storage(), flat.storage_offset(), shape, stride)
    return made if entry.details.bits is None else _with_bits(made, entry.details.bits)


def _joined(entry: TensorEntry, unpack: Unpack, *, mmap: bool) -> torch.Tensor:
    """A tensor in several pieces; one piece is returned as it is."""
    if len(entry.pieces) == 1:
        return tensor_of(entry.pieces[0].entry, unpack, mmap=mmap).reshape(entry.shape)
    whole = torch.empty(entry.shape, dtype=_value_dtype(entry))
    for piece in entry.pieces:
        box(whole, piece).copy_(tensor_of(piece.entry, unpack, mmap=mmap))
        _forget(piece.entry)
    return whole


def box(whole: torch.Tensor, piece: Piece) -> torch.Tensor:
    """Returns the place of a piece in a compact tensor, as a view."""
    place = whole if len(piece.start) == whole.dim() else whole.view(-1)
    for dimension, (start, length) in enumerate(zip(piece.start, piece.entry.shape, strict=True)):
        place = place.narrow(dimension, start, length)
    return place


def _computed(entry: TensorEntry, formula: Formula, unpack: Unpack, *, mmap: bool) -> torch.Tensor:
    from .formulas.compute import compute  # noqa: PLC0415  # few files need it

    read: list[TensorEntry] = []

    def next_one(one: TensorEntry) -> torch.Tensor:
        while read:
            _forget(read.pop())
        read.append(one)
        return tensor_of(one, unpack, mmap=mmap).cpu()

    values = compute(formula, [partial(next_one, one) for one in entry.inputs]).reshape(entry.shape)
    while read:
        _forget(read.pop())
    return values


def _value_dtype(entry: TensorEntry) -> torch.dtype:
    """The dtype of the values that an entry gives, which arithmetic widens."""
    wide = torch.float64 if entry.dtype == "float64" else torch.float32
    return wide if entry.is_computed else torch_dtype(entry)


def _forget(entry: TensorEntry) -> None:
    """Drops the cached pages of a tensor that was copied."""
    for file, start, length in mapped(entry):
        file.release(start, length)


def torch_dtype(entry: TensorEntry) -> torch.dtype:
    """The dtype of an entry; raises CheckpointError if this torch does not have it."""
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise CheckpointError(
            f"unsupported dtype {entry.dtype}: torch {torch.__version__} does not have it",
            Fix("pip install --upgrade torch"),
        )
    return dtype


def _flat(storage: Storage, start: int, count: int, dtype: torch.dtype, unpack: Unpack, *, mmap: bool) -> torch.Tensor:
    """A one-dimensional tensor of the elements from a byte offset inside a storage on."""
    memory = storage.memory if storage.fetch is None else storage.fetch()
    if not count:
        return torch.empty(0, dtype=dtype)
    if memory is not None:
        flat = torch.empty(0, dtype=dtype, device=memory.device).set_(memory, start // dtype.itemsize, (count,), (1,))
    elif storage.data is not None or storage.packed is not None:
        whole = storage.data if storage.data is not None else unpack(storage)
        flat = torch.frombuffer(bytearray(whole), dtype=dtype, count=count, offset=start)
    elif storage.file is None:
        raise CheckpointError(f"the storage '{safe_text(storage.key)}' has no file", Fix(note="load it again"))
    elif mmap:
        flat = _mapped(storage.file.mapping, storage.offset + start, count, dtype)
    else:
        flat = torch.empty(count, dtype=dtype)
        storage.file.read_into(flat, storage.offset + start)
    return _swapped(flat) if storage.big_endian != _HERE_BIG and dtype.itemsize > 1 else flat


def _mapped(mapping: object, offset: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    if offset % dtype.itemsize:
        # A processor may need its elements aligned, and torch relies on it.
        raw = torch.frombuffer(mapping, dtype=torch.uint8, count=count * dtype.itemsize, offset=offset)
        owned = torch.empty(count, dtype=dtype)
        owned.untyped_storage().copy_(raw.untyped_storage())
        return owned
    return torch.frombuffer(mapping, dtype=dtype, count=count, offset=offset)


def _swapped(flat: torch.Tensor) -> torch.Tensor:
    owned = flat.clone()
    owned.untyped_storage().byteswap(flat.dtype)  # type: ignore[no-untyped-call]
    return owned


def _without_data(entry: TensorEntry, dtype: torch.dtype) -> torch.Tensor:
    if why := withheld(entry):
        raise CheckpointError(f"a tensor of this file is {why}", WHOLE)
    return torch.empty_strided(entry.shape, entry.stride, dtype=dtype, device="meta")


def _with_bits(made: torch.Tensor, bits: Bits) -> torch.Tensor:
    if bits.conj:
        made = made.conj()
    if bits.neg:
        made = torch._neg_view(made)  # noqa: SLF001  # torch has no public way to set the bit that its own files carry
    return made


def _sparse_coo(entry: TensorEntry, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.sparse_coo_tensor(
        parts["indices"],
        parts["values"],
        entry.shape,
        check_invariants=True,
        is_coalesced=entry.details.coalesced,
    )


def _sparse_compressed(entry: TensorEntry, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.sparse_compressed_tensor(
        parts["compressed_indices"],
        parts["plain_indices"],
        parts["values"],
        entry.shape,
        layout=getattr(torch, entry.layout),
        check_invariants=True,
    )


def _quantized(entry: TensorEntry, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    # torch's public functions would quantize again; these private ones take the values as they are.
    how: Any = entry.details.quantization
    dtype = DTYPES[entry.dtype]
    if how.scheme == "per_tensor_affine":
        empty = torch._empty_affine_quantized(  # noqa: SLF001
            entry.shape, scale=how.scale, zero_point=how.zero_point, dtype=dtype
        )
    else:
        empty = torch._empty_per_channel_affine_quantized(  # noqa: SLF001
            entry.shape, scales=parts["scales"], zero_points=parts["zero_points"], axis=how.axis, dtype=dtype
        )
    data = parts["data"]
    return empty.set_(data.untyped_storage(), data.storage_offset(), entry.shape, entry.stride)


def _nested(_entry: TensorEntry, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    buffer, sizes, strides, offsets = (parts[role] for role in ("buffer", "sizes", "strides", "offsets"))
    _check_nested(buffer, sizes, strides, offsets)
    # torch's public constructors copy into a layout of their own; its own files name this function.
    return torch._nested_view_from_buffer(buffer, sizes, strides, offsets)  # noqa: SLF001


def _check_nested(buffer: torch.Tensor, sizes: torch.Tensor, strides: torch.Tensor, offsets: torch.Tensor) -> None:
    """Refuses parts outside the buffer, which torch does not check."""
    if any(part.dtype != torch.int64 for part in (sizes, strides, offsets)):
        raise ValueError("sizes, strides and offsets must be integers")
    if sizes.dim() != 2 or sizes.shape != strides.shape or offsets.shape != sizes.shape[:1] or buffer.dim() != 1:
        raise ValueError("sizes, strides and offsets have incompatible shapes")
    for size, stride, offset in zip(sizes.tolist(), strides.tolist(), offsets.tolist(), strict=True):
        if min([offset, *size, *stride]) < 0 or offset + extent(tuple(size), tuple(stride)) > buffer.numel():
            raise ValueError("a part lies outside the buffer")


_ASSEMBLERS: dict[str, Callable[[TensorEntry, dict[str, torch.Tensor]], torch.Tensor]] = {
    "sparse_coo": _sparse_coo,
    "sparse_csr": _sparse_compressed,
    "sparse_csc": _sparse_compressed,
    "sparse_bsr": _sparse_compressed,
    "sparse_bsc": _sparse_compressed,
    "quantized": _quantized,
    "nested": _nested,
}


def dtype_name(dtype: torch.dtype) -> str:
    """Names a dtype as torch does, without its package: ``float32``."""
    return str(dtype).removeprefix("torch.")


def is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor is one of torch's own classes, and no wrapper around others."""
    return type(tensor) in _PLAIN


_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
