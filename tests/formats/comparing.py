"""How two tensors are compared bit by bit, and a file with what torch makes of it."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st

from loader.errors import CheckpointError
from loader.formats.safetensors import pieces
from loader.formats.tree import Container, TensorEntry
from loader.parts.open import open_checkpoint


def raw(tensor: torch.Tensor) -> list[bytes]:
    """The bytes of a tensor's elements, in order, whatever its layout."""
    if tensor.layout is torch.sparse_coo:
        return raw(tensor._indices()) + raw(tensor._values())
    if tensor.layout in {torch.sparse_csr, torch.sparse_bsr}:
        return raw(tensor.crow_indices()) + raw(tensor.col_indices()) + raw(tensor.values())
    if tensor.layout in {torch.sparse_csc, torch.sparse_bsc}:
        return raw(tensor.ccol_indices()) + raw(tensor.row_indices()) + raw(tensor.values())
    if tensor.is_nested:
        return [b for part in tensor.unbind() for b in raw(part)]
    if tensor.is_quantized:
        return raw(tensor.int_repr())
    dense = tensor.detach().resolve_conj().resolve_neg().contiguous()
    flat = torch.empty(dense.numel(), dtype=dense.dtype).copy_(dense.reshape(-1))
    return [bytes(flat.view(torch.uint8).tolist())]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal in dtype, shape, layout, strides and bytes."""
    assert ours.dtype == theirs.dtype
    assert ours.layout == theirs.layout
    assert ours.is_quantized == theirs.is_quantized
    if not theirs.is_nested:
        assert ours.shape == theirs.shape
    if theirs.layout is torch.strided and not theirs.is_nested:
        assert ours.stride() == theirs.stride()
        assert (ours.is_conj(), ours.is_neg()) == (theirs.is_conj(), theirs.is_neg())
    if theirs.is_quantized:
        assert ours.qscheme() == theirs.qscheme()
        assert torch.equal(ours.dequantize(), theirs.dequantize())
    if theirs.device.type == "meta":
        assert ours.device.type == "meta"
        return
    assert raw(ours) == raw(theirs)


def tensors_below(found: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor inside dicts, lists and tuples, by dotted key."""
    if isinstance(found, torch.Tensor):
        return {prefix: found}
    pairs: Any = ()
    if isinstance(found, dict):
        pairs = found.items()
    elif isinstance(found, list | tuple):
        pairs = enumerate(found)
    joined: dict[str, torch.Tensor] = {}
    for key, value in pairs:
        joined |= tensors_below(value, f"{prefix}.{key}" if prefix else str(key))
    return joined


def entries_below(root: Container) -> dict[str, TensorEntry]:
    """Every tensor's entry of a file, by dotted key."""
    return {
        f"{prefix}.{key}" if prefix and key else prefix + key: entry
        for prefix, container in root.walk()
        for key, entry in container.tensors().items()
    }


def assert_loads_like_torch(path: Path, found: Any = None) -> None:
    """Compares every tensor of a file with what torch makes of it, read in both ways.

    Args:
        path: The file.
        found: What was saved, where torch's own safe reader cannot load what torch saves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch thinks of its own formats
        theirs = tensors_below(torch.load(path, weights_only=True, map_location="cpu") if found is None else found)
    with open_checkpoint(path) as checkpoint:
        entries = entries_below(checkpoint.root)
        assert set(entries) == set(theirs)
        checkpoint.verify(entries.values())
        for key, entry in entries.items():
            assert entry.dtype == str(theirs[key].dtype).removeprefix("torch.")
            for mmap in (True, False):
                assert_same(checkpoint.read(entry, mmap=mmap), theirs[key])
        checkpoint.check_unchanged()


def assert_read_or_refused(path: Path, data: st.DataObject) -> None:
    """Changes a few bytes of a file: all its tensors are read then, or it is refused, and nothing else happens."""
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        with open_checkpoint(path) as checkpoint:
            for entry in entries_below(checkpoint.root).values():
                checkpoint.read(entry)
    except CheckpointError as error:
        assert error.message  # noqa: PT017  # either way is right


@functools.cache
def knows(dtype: str) -> bool:
    """Whether this torch and the safetensors that is installed have a dtype; their first versions lack some."""
    try:
        file = b"".join(bytes(piece) for piece in pieces({"a": torch.zeros(1, dtype=getattr(torch, dtype))}, {}))
        return "a" in safetensors.torch.load(file)
    except (AttributeError, KeyError, safetensors.SafetensorError):
        return False
