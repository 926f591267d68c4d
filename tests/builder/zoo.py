"""Models whose constructors do what constructors do, and that must come out of a hollow build exactly right.

`HOLLOW` lists them all, each with inputs for a forward pass, or None where there is none worth making.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize


def linear() -> nn.Module:
    return nn.Linear(4, 3)


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), nn.GroupNorm(2, 2), nn.PReLU()
    )


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)


def attention() -> nn.Module:
    return nn.MultiheadAttention(8, 2, kdim=4, vdim=4, add_bias_kv=True)


def lstm() -> nn.Module:
    return nn.LSTM(4, 5, 2, bidirectional=True)


def gru() -> nn.Module:
    return nn.Sequential(nn.GRU(4, 5))


def embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(6, 4, padding_idx=1), nn.LayerNorm(4), nn.Bilinear(4, 4, 2))


def half_precision() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).to(torch.bfloat16)


def casts_its_halves() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[0].half()
    model[1].double()
    model[2].to(device="cpu", dtype=torch.float16)
    model[3].requires_grad_(False)
    return model


def parametrized() -> nn.Module:
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4)),
        parametrizations.orthogonal(nn.Linear(4, 4), use_trivialization=False, orthogonal_map="householder"),
        parametrizations.orthogonal(nn.Linear(4, 3)),
        parametrizations.orthogonal(nn.Linear(3, 4)),
        parametrizations.spectral_norm(nn.Linear(4, 4)),
    )


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def own_parametrization() -> nn.Module:
    layer = nn.Linear(4, 4)
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2), nn.LazyBatchNorm1d())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.again = nn.ModuleList([self.head, self.embed])
        self.listed = [self.embed.weight]

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.embed(tokens)) + self.listed[0].sum()
        return result


class Containers(nn.Module):
    named: nn.ParameterDict

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.ParameterList([nn.Parameter(torch.randn(2, 4) * 0.02) for _ in range(3)])
        self.named = nn.ParameterDict({"a": nn.Parameter(torch.empty(4).uniform_(-1, 1)), "b": torch.rand(4)})
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
        self.nothing = nn.ParameterList()
        self.register_parameter("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        result: Tensor = x * self.named["a"] + self.stack[0].sum()
        return result


class Copies(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        self.layers = nn.Sequential(*(copy.deepcopy(layer) for _ in range(3)))
        self.last = copy.deepcopy(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.layers(x))
        return result


class Rotary(nn.Module):
    """Buffers of all kinds, none of which depends on a parameter, and plain attributes."""

    inv_freq: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, 4).float() / 4), persistent=False)
        self.register_buffer("scale", torch.full((4,), 3.0))
        self.register_buffer("like", torch.zeros_like(self.inner.weight), persistent=False)
        self.register_buffer("same", self.inner.weight.new_ones(4) * 2, persistent=False)
        self.register_buffer("place", torch.arange(4, device=self.inner.weight.device), persistent=False)
        self.register_buffer("unset", None)
        self.table = torch.linspace(0, 1, 4)
        self.tables: dict[str, Any] = {"a": [torch.eye(4), (torch.ones(4), 3)]}
        self.width = float(torch.tensor(2.5).item()) + self.inner.weight.shape[0] + self.inner.weight.numel()
        self.rates = [x.item() for x in torch.linspace(0, 0.5, 3)]

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) * self.inv_freq + self.table @ self.tables["a"][0] * self.width
        return result


class SavedNoise(nn.Module):
    """Random buffers that a checkpoint overwrites, drawn in every way."""

    drawn: Tensor
    filled: Tensor
    like: Tensor
    derived: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("drawn", torch.randn(4))
        self.register_buffer("filled", torch.empty(4).normal_())
        self.register_buffer("order", torch.randperm(4))
        self.register_buffer("index", torch.randint(0, 4, (4,)))
        self.register_buffer("like", torch.rand_like(self.drawn) + 1)
        self.register_buffer("derived", self.drawn.cumsum(0) @ self.filled.diag())
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) + self.drawn * self.filled + self.like + self.derived
        return result


class Initialised(nn.Module):
    """Initial values set as people set them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.c = nn.Conv1d(4, 4, 3)
        self.old = nn.Parameter(torch.Tensor(4, 4).uniform_(-1, 1))
        self.late = nn.Parameter(torch.empty(4, 4))
        self.gamma = nn.Parameter(1e-6 * torch.ones(4), requires_grad=False)
        self.token = nn.Parameter(torch.zeros(1, 4))
        self.numpy = nn.Parameter(torch.from_numpy(np.random.rand(4).astype(np.float32)))
        self.late.data.normal_(0, 0.02)
        nn.init.trunc_normal_(self.token, std=0.02)
        nn.init.trunc_normal_(self.old, std=5.0)
        nn.init.orthogonal_(self.a.weight)
        nn.init.xavier_normal_(self.b.weight, gain=2.0)
        nn.init.dirac_(self.c.weight)
        nn.init.sparse_(self.late, 0.5)
        nn.init.eye_(self.late)
        nn.init.constant_(self.a.bias, 0.5)
        with torch.no_grad():
            self.b.bias.fill_(-math.log(99))
            self.b.weight *= 0.5
            self.b.weight[0] = torch.arange(4.0)
            self.a.weight.data[:, 0] = 7.0
            self.a.weight.copy_(self.b.weight + torch.eye(4))
            self.c.weight.data = torch.randn(4, 4, 3) / math.sqrt(2)
            if self.c.bias is not None:
                self.c.bias.data = torch.zeros(4)
        self.apply(self._again)

    @torch.no_grad()
    def _again(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=0.02).clamp_(-1, 1)
            if module.bias is not None:
                module.bias.data.zero_()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.a(self.b(x)) @ self.old @ self.late * self.gamma + self.token + self.numpy
        return result


class Quantised(nn.Module):
    qweight: Tensor
    scales: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("qweight", torch.zeros(4, 4, dtype=torch.int8))
        self.register_buffer("scales", torch.ones(4, dtype=torch.float16))
        self.weight = nn.Parameter(torch.randint(-128, 127, (4, 4), dtype=torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x @ (self.qweight.float() * self.scales.float()) @ self.weight.float()


class Marked(nn.Parameter):
    """A class of parameter of one's own, with an attribute."""


class OwnParameter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = Marked(torch.randn(4, 4))
        self.weight.partition = (0, 1)  # type: ignore[attr-defined]
        self.bias = nn.Parameter(torch.zeros(4))
        self.bias.no_decay = True  # type: ignore[attr-defined]
        self.scale = functools.partial(torch.mul, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale(x @ self.weight)


class Chance(nn.Module):
    """Numbers from other generators than torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.rate = random.random()
        self.table = torch.from_numpy(np.random.rand(4).astype(np.float32))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) * self.rate + self.table
        return result


def _tokens() -> tuple[Any, ...]:
    return (torch.tensor([[1, 2, 5]]),)


def _floats(*shape: int) -> tuple[Any, ...]:
    return (torch.linspace(-1, 1, math.prod(shape)).reshape(shape),)


HOLLOW: dict[Callable[[], nn.Module], tuple[Any, ...] | None] = {
    linear: _floats(2, 4),
    convolutions: _floats(2, 3, 8, 8),
    transformer: _floats(1, 3, 8),
    attention: None,
    lstm: _floats(2, 4),
    gru: _floats(2, 4),
    embedding: None,
    half_precision: None,
    casts_its_halves: None,
    parametrized: _floats(2, 4),
    own_parametrization: _floats(2, 4),
    lazy: None,
    Tied: _tokens(),
    Containers: _floats(2, 4),
    Copies: _floats(2, 4),
    Rotary: _floats(2, 4),
    SavedNoise: _floats(2, 4),
    Initialised: _floats(2, 4),
    Quantised: _floats(2, 4),
    OwnParameter: _floats(2, 4),
    Chance: _floats(2, 4),
}
