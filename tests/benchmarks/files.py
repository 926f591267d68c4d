"""Makes the checkpoints, once per folder.

Guarantees: a file is there whole or not at all, and is on the disk, so that it can be dropped from the page cache.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from tests.benchmarks.cases import Case
from tests.benchmarks.machine import files_of
from tests.benchmarks.networks import MANY, SIZES, TRANSFORMER, ManyTensors, Transformer

State = dict[str, torch.Tensor]
_SHARDS = 4


def make(case: Case, folder: Path, size: str) -> Path:
    """Makes a case's checkpoint where it is not there yet."""
    path = case.path(folder, size)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"unfinished-{path.name}")
        shutil.rmtree(unfinished, ignore_errors=True)
        _WRITERS[case.file](_model(case, size), unfinished)
        for file in files_of(unfinished):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        unfinished.rename(path)
    return path


def nbytes(case: Case, size: str) -> int:
    """Bytes of the weights that a case wants, as they are in the file."""
    with torch.device("meta"):
        model = _model(case, size)
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _model(case: Case, size: str) -> nn.Module:
    torch.manual_seed(0)
    kind = {TRANSFORMER: Transformer, MANY: ManyTensors}[case.model]
    model: nn.Module = kind(**SIZES[size][case.model])
    return model


def _wrapped(model: nn.Module, path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)


def _flat(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def _safetensors(model: nn.Module, path: Path) -> None:
    save_file(model.state_dict(), path, metadata={"format": "pt"})


def _training(model: nn.Module, path: Path) -> None:
    """The weights between Adam's two states of the same size."""
    moments = {
        index: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.ones_like(p)}
        for index, p in enumerate(model.parameters())
    }
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "params": list(moments)}]}
    torch.save({"optimizer": optimizer, "model": model.state_dict(), "step": 1}, path)


def _sharded(model: nn.Module, path: Path) -> None:
    path.mkdir()
    state: State = model.state_dict()
    keys = list(state)
    places: dict[str, str] = {}
    for index in range(_SHARDS):
        name = f"model-{index + 1:05}-of-{_SHARDS:05}.safetensors"
        own = keys[index * len(keys) // _SHARDS : (index + 1) * len(keys) // _SHARDS]
        save_file({key: state[key] for key in own}, path / name, metadata={"format": "pt"})
        places |= dict.fromkeys(own, name)
    total = sum(value.numel() * value.element_size() for value in state.values())
    index_text = json.dumps({"metadata": {"total_size": total}, "weight_map": places})
    (path / "model.safetensors.index.json").write_text(index_text, encoding="utf-8")


_WRITERS: dict[str, Callable[[nn.Module, Path], None]] = {
    "transformer.pt": _wrapped,
    "transformer.safetensors": _safetensors,
    "transformer": _sharded,
    "training.pt": _training,
    "many.pt": _flat,
    "many.safetensors": _safetensors,
}
