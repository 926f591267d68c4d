"""Models that a hollow build would get wrong, and that must be noticed.

`PLAIN` lists them all, each with what is said about it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import spectral_norm, weight_norm


class OldWeightNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = weight_norm(nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        return result


class OldSpectralNorm(OldWeightNorm):
    def __init__(self) -> None:
        super().__init__()
        self.inner = spectral_norm(nn.Linear(4, 4)).eval()


class UnsavedNoise(nn.Module):
    noise: Tensor

    def __init__(self, *, persistent: bool = False) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.register_buffer("noise", torch.randn(4), persistent=persistent)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x) + self.noise
        return result


class AttributeNoise(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.deep = {"here": [(torch.rand(3) * 2).half()]}


class NumberOfChance(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.number = torch.rand(()).item()


class NumberOfWeight(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.number = float(self.inner.weight.detach().abs().max())


class SwallowsTheError(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.number: Any = -1.0
        try:
            self.number = self.inner.weight.sum().tolist()
        except Exception:  # noqa: BLE001
            self.failed = True


class DecidesByWeight(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.number = 1 if (self.inner.weight > 0).any() else 2


class AsNumpy(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.array = self.inner.weight.detach().numpy().copy()


class PartOfAWeight(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.row = self.inner.weight.data[0]


class ViewOfConstant(UnsavedNoise):
    """Shares memory with a parameter that was never random."""

    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.gamma = nn.Parameter(torch.ones(4))
        self.view = self.gamma.data

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.gamma


class BufferFromWeight(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.register_buffer("norm", self.inner.weight.norm(), persistent=False)


class WrittenFromWeight(UnsavedNoise):
    kept: Tensor

    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.register_buffer("kept", torch.zeros(4), persistent=False)
        self.kept[:2] = self.inner.weight.detach()[0, :2]


class OutFromWeight(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.kept = torch.zeros(4, 4)
        torch.mul(self.inner.weight.detach(), 2, out=self.kept)


class InAClosure(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        first = self.inner.weight.detach().clone()

        def distance() -> Tensor:
            return torch.dist(self.inner.weight, first)

        self.distance = distance


class HiddenModule(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.teacher = [nn.Linear(4, 4)]


class SharedMemory(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.other = nn.Parameter(self.inner.weight.data)


class Seeds(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        torch.manual_seed(7)
        self.table = torch.rand(3)


class OwnGenerator(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.table = torch.rand(3, generator=torch.Generator().manual_seed(3))


class DropsOut(UnsavedNoise):
    """Draws by a function that is not a factory."""

    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.table = torch.bernoulli(torch.full((8,), 0.5))


class Sparse(UnsavedNoise):
    def __init__(self) -> None:
        super().__init__(persistent=True)
        self.holes = nn.Parameter(torch.eye(3).to_sparse())


PLAIN: dict[Callable[[], nn.Module], str] = {
    OldWeightNorm: "outside its state dict",
    OldSpectralNorm: "outside its state dict",
    UnsavedNoise: "outside its state dict",
    AttributeNoise: "outside its state dict",
    NumberOfChance: "reads values of its parameters or of random tensors (item)",
    NumberOfWeight: "reads values of its parameters or of random tensors (__float__)",
    SwallowsTheError: "reads values of its parameters or of random tensors (tolist)",
    DecidesByWeight: "reads values of its parameters or of random tensors (__bool__)",
    AsNumpy: "reads values of its parameters or of random tensors (numpy)",
    PartOfAWeight: "outside its state dict",
    ViewOfConstant: "outside its state dict",
    BufferFromWeight: "outside its state dict",
    WrittenFromWeight: "outside its state dict",
    OutFromWeight: "outside its state dict",
    InAClosure: "outside its state dict",
    HiddenModule: "outside its state dict",
    SharedMemory: "share memory",
    Seeds: "its constructor seeds",
    OwnGenerator: "outside its state dict",
    DropsOut: "draws numbers",
    Sparse: "share memory without being tied, or one has no memory of its own",
}
