"""Writes folders of torch.distributed.checkpoint as several processes would, with torch's own classes."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

Box = tuple[tuple[int, ...], tuple[int, ...]]


def halves(tensor: torch.Tensor, dimension: int = 0) -> list[Box]:
    """The boxes that two processes hold of a tensor which is split along one dimension."""
    pieces, at = [], 0
    for piece in tensor.chunk(2, dimension):
        start = [0] * tensor.dim()
        start[dimension] = at
        pieces.append((tuple(start), tuple(piece.shape)))
        at += piece.shape[dimension]
    return pieces


def grid(tensor: torch.Tensor) -> list[Box]:
    """The four boxes of a matrix that is split along both dimensions."""
    rows, columns = halves(tensor, 0), halves(tensor, 1)
    return [((r[0][0], c[0][1]), (r[1][0], c[1][1])) for r in rows for c in columns]


def box_of(tensor: torch.Tensor, box: Box) -> torch.Tensor:
    for dimension, (start, length) in enumerate(zip(*box, strict=True)):
        tensor = tensor.narrow(dimension, start, length)
    return tensor.clone()


class Writer:
    """Collects items, and writes the folder."""

    def __init__(self, files: int = 2) -> None:
        self.streams = [io.BytesIO() for _ in range(files)]
        self.names = [f"__{rank}_0.distcp" for rank in range(files)]
        self.metadata = Metadata(state_dict_metadata={}, planner_data={}, storage_data={})

    def add(self, path: Sequence[str | int], tensor: torch.Tensor, boxes: Sequence[Box] | None = None) -> None:
        boxes = [((0,) * tensor.dim(), tuple(tensor.shape))] if boxes is None else boxes
        chunks = []
        name = self._name(path)
        for rank, box in enumerate(boxes):
            start, shape = box
            chunks.append(ChunkStorageMetadata(torch.Size(start), torch.Size(shape)))
            self._item(MetadataIndex(name, torch.Size(start), rank), box_of(tensor, box), rank)
        self.metadata.state_dict_metadata[name] = TensorStorageMetadata(
            TensorProperties(dtype=tensor.dtype), tensor.size(), chunks
        )

    def add_object(self, path: Sequence[str | int], value: Any) -> None:
        name = self._name(path)
        self._item(MetadataIndex(name), value, 0)
        self.metadata.state_dict_metadata[name] = BytesStorageMetadata()

    def _name(self, path: Sequence[str | int]) -> str:
        name = ".".join(map(str, path))
        self.metadata.planner_data[name] = tuple(path)
        return name

    def _item(self, index: MetadataIndex, value: Any, rank: int) -> None:
        rank %= len(self.streams)
        stream, item = self.streams[rank], io.BytesIO()
        torch.save(value, item)
        place = _StorageInfo(self.names[rank], stream.tell(), len(item.getvalue()))
        stream.write(item.getvalue())
        self.metadata.storage_data[index] = place

    def write(self, folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        for name, stream in zip(self.names, self.streams, strict=True):
            (folder / name).write_bytes(stream.getvalue())
        (folder / ".metadata").write_bytes(pickle.dumps(self.metadata))
        return folder


def write_distributed(folder: Path, state: Mapping[str, torch.Tensor], key: str = "model") -> Path:
    """Writes a state dict under a nested key, every tensor in two halves where it has two."""
    writer = Writer()
    for name, tensor in state.items():
        splits = tensor.dim() > 0 and tensor.shape[0] > 1
        writer.add((key, name), tensor, halves(tensor) if splits else None)
    return writer.write(folder)
