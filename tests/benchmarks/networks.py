"""The models that are loaded, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

TRANSFORMER = "tests.benchmarks.networks.Transformer"
SEPARATE = "tests.benchmarks.networks.Separate"
MANY = "tests.benchmarks.networks.ManyTensors"
SIZES: Mapping[str, Mapping[str, Mapping[str, int]]] = MappingProxyType(
    {
        "small": {
            TRANSFORMER: {"width": 512, "layers": 6, "vocabulary": 4096},
            MANY: {"tensors": 5_000},
        },
        # 1.48 GB of float32 in 293 tensors, and 100 000 tensors of 144 bytes on average.
        "full": {
            TRANSFORMER: {"width": 1024, "layers": 24, "vocabulary": 32_768},
            MANY: {"tensors": 100_000},
        },
    }
)
"""Constructor arguments by size and model."""


class Transformer(nn.Module):
    """A language model of torch's own layers, initialized as its constructor does by default."""

    def __init__(self, width: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        add_layers(self, width, layers, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return run_layers(self, tokens)

    @staticmethod
    def example() -> torch.Tensor:
        """One short sequence."""
        return torch.arange(16).unsqueeze(0)


class Separate(nn.Module):
    """The same language model with a projection each for queries, keys and values."""

    def __init__(self, width: int, layers: int, vocabulary: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(_SeparateLayer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return run_layers(self, tokens)


class _SeparateLayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            self.self_attn.add_module(name, nn.Linear(width, width))
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the projections cost is not measured."""
        result: torch.Tensor = self.linear2(torch.relu(self.linear1(self.norm2(self.norm1(hidden)))))
        return hidden + result


class ManyTensors(nn.Module):
    """Many small layers, in blocks of fifty."""

    def __init__(self, tensors: int) -> None:
        super().__init__()
        blocks = [nn.Sequential(*(nn.Linear(8, 8) for _ in range(25))) for _ in range(tensors // 50)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        first: torch.Tensor = self.blocks[0](values)
        return first

    @staticmethod
    def example() -> torch.Tensor:
        """One row."""
        return torch.ones(1, 8)


def add_layers(model: Any, width: int, layers: int, vocabulary: int) -> None:
    """Gives a module the transformer's layers; a peer's base class can be given them as well."""
    model.embedding = nn.Embedding(vocabulary, width)
    layer = [
        nn.TransformerEncoderLayer(width, 8, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        for _ in range(layers)
    ]
    model.layers = nn.ModuleList(layer)
    model.norm = nn.LayerNorm(width)
    model.head = nn.Linear(width, vocabulary)


def run_layers(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """The forward pass over `add_layers`' layers."""
    hidden = model.embedding(tokens)
    for layer in model.layers:
        hidden = layer(hidden)
    logits: torch.Tensor = model.head(model.norm(hidden))
    return logits
