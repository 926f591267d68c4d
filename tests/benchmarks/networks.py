"""The models that are loaded, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

TRANSFORMER = "tests.benchmarks.networks.Transformer"
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
