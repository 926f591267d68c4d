"""Writes checkpoints in several files, as they should be and as they should not."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

State = Mapping[str, torch.Tensor]


def shard_name(number: int, count: int, ending: str = "safetensors") -> str:
    stem = "pytorch_model" if ending == "bin" else "model"
    return f"{stem}-{number:05}-of-{count:05}.{ending}"


def write_index(folder: Path, places: Any, name: str = "model.safetensors.index.json") -> Path:
    path = folder / name
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}), encoding="utf-8")
    return path


def write_shards(folder: Path, *states: State, ending: str = "safetensors", legacy: bool = False) -> Path:
    """Writes one shard per state dict, and the index; returns the index."""
    folder.mkdir(exist_ok=True)
    places: dict[str, str] = {}
    for number, state in enumerate(states, 1):
        name = shard_name(number, len(states), ending)
        if ending == "bin":
            torch.save(dict(state), folder / name, _use_new_zipfile_serialization=not legacy)
        else:
            save_file(dict(state), folder / name)
        places |= dict.fromkeys(state, name)
    stem = "pytorch_model.bin" if ending == "bin" else "model.safetensors"
    return write_index(folder, places, f"{stem}.index.json")


def write_sparse(folder: Path, shards: int, tensors: int, width: int) -> Path:
    """Writes shards of `tensors` float32 matrices of `width` squared each, whose data are holes; returns the folder.

    The names are those of `torch.nn.Linear` layers in one `torch.nn.Sequential`, without biases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    nbytes = 4 * width * width
    for number in range(shards):
        names = [f"{number * tensors + index}.weight" for index in range(tensors)]
        header = {
            name: {"dtype": "F32", "shape": [width, width], "data_offsets": [index * nbytes, (index + 1) * nbytes]}
            for index, name in enumerate(names)
        }
        raw = json.dumps(header).encode()
        path = folder / shard_name(number + 1, shards)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + tensors * nbytes)
        places |= dict.fromkeys(names, path.name)
    write_index(folder, places)
    return folder
