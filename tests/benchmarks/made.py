"""The files and models of `derived`: fused and separate projections, five steps, an adapter, and many experts.

Guarantees: a file is there whole or not at all, and is on the disk, so that it can be dropped from the page cache.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tests.benchmarks.networks import SIZES, TRANSFORMER, Separate, Transformer
from tests.libraries import library

FILES = tuple(f"step{number}.safetensors" for number in range(5))
RANK = 8
TARGETS = ("linear1", "linear2", "self_attn.out_proj")
"""The layers that the adapter changes."""
EXPERTS = (100, 100)
"""Layers, and experts in each."""
_WIDTH = 64
State = dict[str, torch.Tensor]


class Stacked(nn.Module):
    """Layers whose experts are one tensor."""

    def __init__(self, layers: int, experts: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_Experts(experts) for _ in range(layers))


class _Experts(nn.Module):
    def __init__(self, experts: int) -> None:
        super().__init__()
        self.experts = nn.Module()
        self.experts.w1 = nn.Parameter(torch.empty(experts, _WIDTH, _WIDTH))


def made(folder: Path, size: str) -> None:
    """Makes the files that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FILES):
        _once(folder / name, lambda path, seed=number: save_file(_step(size, seed), path))  # type: ignore[misc]
        pickle = folder / name.replace(".safetensors", ".pt")
        _once(pickle, lambda path, seed=number: torch.save(_step(size, seed), path))  # type: ignore[misc]
    _once(folder / "separate.safetensors", lambda path: save_file(separated(_step(size, 0)), path))
    _once(folder / "lora", lambda path: _adapter(path, _step(size, 0)))
    _once(folder / "experts.safetensors", _many)


def separated(state: Mapping[str, torch.Tensor]) -> State:
    """Cuts torch's fused projections."""
    found: State = {}
    for key, value in state.items():
        prefix, fused, kind = key.partition("in_proj_")
        if fused:
            found |= {
                f"{prefix}{name}_proj.{kind}": one.clone() for name, one in zip("qkv", value.chunk(3), strict=True)
            }
        else:
            found[key] = value
    return found


def separate_class(folder: Path, arguments: Mapping[str, int]) -> Callable[[], Any]:
    """Returns the load of `step0` by transformers, whose converter cuts the projections."""
    transformers: Any = library("transformers")
    mapping: Any = import_module("transformers.conversion_mapping")
    loading: Any = import_module("transformers.core_model_loading")

    class Config(transformers.PretrainedConfig):  # type: ignore[misc]  # it is untyped
        """The sizes."""

        model_type = "benchmark_separate"

        def __init__(self, width: int = 8, layers: int = 1, vocabulary: int = 8, **rest: Any) -> None:
            super().__init__(**rest)
            self.width, self.layers, self.vocabulary = width, layers, vocabulary

    class Model(transformers.PreTrainedModel):  # type: ignore[misc]  # it is untyped
        """The same layers."""

        config_class = Config

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            for name, child in Separate(config.width, config.layers, config.vocabulary).named_children():
                self.add_module(name, child)
            self.post_init()

        forward = Separate.forward

    converters = [
        loading.WeightConverter(
            f"self_attn.in_proj_{kind}",
            [f"self_attn.{name}_proj.{kind}" for name in "qkv"],
            operations=[loading.Chunk(dim=0)],
        )
        for kind in ("weight", "bias")
    ]
    mapping.register_checkpoint_conversion_mapping(Config.model_type, converters)
    home = folder / "transformers"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    os.link(folder / FILES[0], home / "model.safetensors")
    Config(**arguments).save_pretrained(home)
    return lambda: Model.from_pretrained(home, local_files_only=True, dtype="auto")


def _step(size: str, seed: int) -> State:
    torch.manual_seed(seed)
    model = Transformer(**SIZES[size][TRANSFORMER])
    return {key: value.detach() + 1e-3 * seed for key, value in model.state_dict().items()}


def _adapter(path: Path, state: State) -> None:
    path.mkdir()
    low: State = {}
    for key, value in state.items():
        name = key.removesuffix(".weight")
        if key.endswith(".weight") and name.endswith(TARGETS):
            low[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, value.shape[1]) / 50
            low[f"base_model.model.{name}.lora_B.weight"] = torch.randn(value.shape[0], RANK) / 50
    save_file(low, path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": list(TARGETS), "bias": "none"}
    (path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _many(path: Path) -> None:
    """A file with a hole for its data."""
    nbytes = 4 * _WIDTH * _WIDTH
    names = [f"layers.{layer}.experts.{one}.w1.weight" for layer in range(EXPERTS[0]) for one in range(EXPERTS[1])]
    header = {
        name: {"dtype": "F32", "shape": [_WIDTH, _WIDTH], "data_offsets": [at * nbytes, (at + 1) * nbytes]}
        for at, name in enumerate(names)
    }
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + len(names) * nbytes)


def _once(path: Path, write: Callable[[Path], object]) -> None:
    if path.exists():
        return
    unfinished = path.with_name(f"unfinished-{path.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.unlink(missing_ok=True)
    write(unfinished)
    for file in [unfinished] if unfinished.is_file() else unfinished.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    unfinished.rename(path)
