"""Adapters as PEFT, kohya and others write them, made by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

Tensors = Mapping[str, torch.Tensor]


class Net(nn.Module):
    """Two layers of one size, one of another, and names with underscores."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"to_q": nn.Linear(3, 3), "to_k": nn.Linear(3, 3, bias=False)})
        self.out = nn.Linear(3, 2)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Returns values that depend on the seed and the shape alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def base(folder: Path, **changed: torch.Tensor) -> tuple[Path, dict[str, torch.Tensor]]:
    """Writes the weights of a `Net`; returns the file and what is in it."""
    state = {key: normal(*value.shape, seed=at) for at, (key, value) in enumerate(Net().state_dict().items())}
    state |= changed
    torch.save(state, folder / "base.pt")
    return folder / "base.pt", state


def peft(folder: Path, tensors: Tensors, **config: Any) -> Path:
    """Writes a folder as PEFT does; a setting of None is left out."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    kept = {key: value for key, value in settings.items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(kept))
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    return folder


def pair(module: str, out: int = 3, width: int = 3, rank: int = 2, seed: int = 5) -> dict[str, torch.Tensor]:
    """Returns the two matrices of a module, as PEFT names them."""
    name = f"base_model.model.{module}"
    down, up = normal(rank, width, seed=seed), normal(out, rank, seed=seed + 1)
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def change(tensors: Tensors, module: str) -> torch.Tensor:
    """Returns the product of a module's matrices."""
    return tensors[f"base_model.model.{module}.lora_B.weight"] @ tensors[f"base_model.model.{module}.lora_A.weight"]
