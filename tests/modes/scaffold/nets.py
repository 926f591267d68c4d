"""Small networks with constructors as people write them; configs name them as `tests.modes.scaffold.nets.…`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """Its depth and its bias decide which keys there are."""

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        depth: int = 2,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(in_features, hidden, bias=bias)]
        for _ in range(depth - 1):
            layers += [nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden, bias=bias)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(hidden, out_features)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x))
        return result


class Widths(nn.Module):
    """Takes a list."""

    def __init__(self, sizes: Sequence[int], norm: bool = False) -> None:
        super().__init__()
        pairs = pairwise(sizes)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), nn.LayerNorm(b) if norm else nn.Identity()) for a, b in pairs)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result


class ConvNet(nn.Module):
    """Stages of different depth, and a head that only fits images of one size."""

    def __init__(
        self, in_channels: int = 3, width: int = 8, blocks: tuple[int, ...] = (1, 1), kernel: int = 3, classes: int = 10
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, width, kernel)
        self.stages = nn.ModuleList(
            nn.Sequential(*(nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width)) for _ in range(n)))
            for n in blocks
        )
        self.head = nn.Linear(width * (28 - kernel + 1) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        result: Tensor = self.head(x.flatten(1))
        return result


class Transformer(nn.Module):
    """Its number of heads leaves no trace in a file."""

    def __init__(
        self, vocab: int, d_model: int, nhead: int, num_layers: int = 2, max_len: int = 16, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, d_model)
        self.position = nn.Parameter(torch.zeros(1, max_len, d_model))
        layer = nn.TransformerEncoderLayer(d_model, nhead, int(d_model * mlp_ratio), batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.head = nn.Linear(d_model, vocab)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embed(tokens) + self.position[:, : tokens.shape[1]]
        result: Tensor = self.head(self.encoder(hidden))
        return result


class Attention(nn.Module):
    """Two arguments that a file knows only by their product."""

    def __init__(self, dim: int, heads: int = 4, head_dim: int = 8) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.qkv(x)[..., : self.out.in_features])
        return result


class Patches(nn.Module):
    """A size that grows with the square of an argument, in steps."""

    def __init__(self, image: int = 32, patch: int = 8, dim: int = 12) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, dim, patch, patch)
        self.position = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, dim))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.project(x)
        return result


class Wrapping(nn.Module):
    """Needs something that no file tells."""

    def __init__(self, backbone: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(4, classes)


def lightning(network: nn.Module, **hyper_parameters: Any) -> dict[str, Any]:
    """A checkpoint as Lightning writes it."""
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{key}": value for key, value in network.state_dict().items()},
        "hyper_parameters": hyper_parameters,
    }


def ddp(network: nn.Module) -> dict[str, Any]:
    """A training checkpoint of a parallel run."""
    return {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in network.state_dict().items()}}


class Switched(nn.Module):
    """Each switch changes something else: sizes, some names, all names, names alone."""

    def __init__(
        self, width: int = 8, wide: bool = False, deep: bool = False, other: bool = False, flat: bool = False
    ) -> None:
        super().__init__()
        inner = width * 4 if wide else width
        if other:
            self.trunk = nn.ModuleDict({"stem": nn.Linear(5, inner), "top": nn.Linear(inner, 3)})
            return
        first, second, last = nn.Linear(5, width), nn.Linear(width, inner), nn.Linear(inner, 3)
        if flat:
            self.first, self.second, self.last = first, second, last
        else:
            self.layers = nn.Sequential(first, second)
            self.head = last
        if deep:
            self.deep_block = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        else:
            self.block = nn.Linear(width, width)


class Apart(nn.Module):
    """Keeps queries, keys and values apart."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Linear(width, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        inside = self.embed(tokens)
        found: Tensor = self.head(self.q(inside) * self.k(inside) + self.v(inside))
        return found
