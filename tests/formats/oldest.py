"""Writes what `torch.save` wrote before torch 0.1.10, which no torch that can be installed today does."""

from __future__ import annotations

import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import torch

_NAMES = {
    torch.float32: "Float", torch.float64: "Double", torch.float16: "Half", torch.int64: "Long", torch.int32: "Int",
    torch.int16: "Short", torch.int8: "Char", torch.uint8: "Byte",
}  # fmt: skip


class _Pickler(pickle.Pickler):
    """Tensors are numbers, as their addresses were; what they are is written beside."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, 2)
        self.tensors: dict[int, torch.Tensor] = {}

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, torch.Tensor):
            return None
        self.tensors[id(obj)] = obj
        return str(id(obj))


def listed(pickles: list[tuple[Any, bytes]], last: bytes = b"") -> bytes:
    """A number of pickles, each with the bytes behind it."""
    return pickle.dumps(len(pickles), 2) + b"".join(pickle.dumps(key, 2) + raw for key, raw in pickles) + last


def kind_of(tensor: torch.Tensor) -> Any:
    """The class of a tensor's storage."""
    return getattr(torch, f"{_NAMES[tensor.dtype]}Storage")


def layout_of(tensor: torch.Tensor) -> bytes:
    """Dimensions, sizes, strides and offset."""
    numbers = [tensor.dim(), *tensor.size(), *tensor.stride(), tensor.storage_offset()]
    return struct.pack(f"<{len(numbers)}q", *numbers)


def raw_storage(tensor: torch.Tensor) -> bytes:
    """The number of elements, and the elements."""
    storage = tensor.untyped_storage()
    return struct.pack("<q", storage.nbytes() // tensor.element_size()) + bytes(list(storage))


def members_of(found: Any) -> dict[str, bytes]:
    """The four members of such a file."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(found)
    tensors, storages = [], {}
    for key, tensor in pickler.tensors.items():
        address, kind = tensor.untyped_storage().data_ptr(), kind_of(tensor)
        storages[address] = ((address, "cpu", kind), raw_storage(tensor))
        tensors.append(((key, address, kind), layout_of(tensor)))
    return {
        "sys_info": pickle.dumps({"protocol_version": 1000, "little_endian": True}, 2),
        "pickle": stream.getvalue(),
        "tensors": listed(tensors),
        "storages": listed(list(storages.values()), pickle.dumps([], 2)),
    }


def save_tar(found: Any, path: Path, **replaced: bytes) -> Path:
    """Writes such a file.

    Args:
        found: What is saved; its tensors may be nested anywhere.
        path: Where.
        replaced: Members that are to have another content.
    """
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in {**members_of(found), **replaced}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mtime = 1.5e9 + 0.25  # a fraction, as of real files: it needs an extension
            archive.addfile(member, io.BytesIO(content))
    return path
