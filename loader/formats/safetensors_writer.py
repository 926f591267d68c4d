"""Makes the bytes of a safetensors file out of tensors.

Guarantees: one tensor at a time is made compact and brought to the CPU, so that writing costs no more memory than the
largest of them; what the format cannot hold has a reason in words.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping

import torch

from .materialise import dtype_name, is_plain
from .safetensors import DTYPES

NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""The format's own name of a dtype, by torch's."""
METADATA = "__metadata__"
"""Where a header keeps its notes: no tensor can be called so."""

_LENGTH = struct.Struct("<Q")
_ALIGNMENT = 8


def fault(key: str, value: torch.Tensor) -> str:
    """Says why a tensor cannot be written; empty where it can."""
    if key == METADATA or any("\ud800" <= character <= "\udfff" for character in key):
        return "its name is one that the format cannot hold"
    if value.is_meta:
        return "it has no data"
    if value.is_quantized or value.is_nested:
        return f"it is {'quantized' if value.is_quantized else 'nested'}"
    if value.layout != torch.strided:
        return f"its layout is {str(value.layout).removeprefix('torch.')}"
    if not is_plain(value):
        return f"it is a {type(value).__module__}.{type(value).__qualname__}"
    return "" if dtype_name(value.dtype) in NAMES else f"its dtype is {dtype_name(value.dtype)}"


def pieces(tensors: Mapping[str, torch.Tensor], notes: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The content of a safetensors file, piece by piece.

    Args:
        tensors: By name; each has a dtype of `NAMES` and is dense, on any device, with any strides.
        notes: Text that goes into the header.
    """
    # The widest elements first: without gaps between them, which the format forbids, each tensor is aligned.
    ordered = sorted(tensors, key=lambda name: -tensors[name].element_size())
    places, end = {}, 0
    for name in ordered:
        places[name] = (end, end := end + nbytes(tensors[name]))
    header = {METADATA: dict(notes)} | {
        name: {"dtype": NAMES[dtype_name(tensor.dtype)], "shape": list(tensor.shape), "data_offsets": places[name]}
        for name, tensor in tensors.items()
    }
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % _ALIGNMENT)
    yield _LENGTH.pack(len(raw)) + raw
    for name in ordered:
        if tensors[name].numel():
            yield _elements(tensors[name])


def nbytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's elements when it is compact."""
    return tensor.numel() * tensor.element_size()


def _elements(tensor: torch.Tensor) -> memoryview:
    compact = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
    return compact.reshape(-1).view(torch.uint8).numpy().data
