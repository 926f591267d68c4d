"""What configs name as `tests.builder.things.…`: modules that keep what they are given, and ways to fail."""

from __future__ import annotations

import functools
import importlib
import inspect
import os  # noqa: F401  a name through which an alias of a dangerous function is reached
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SIZES = (3, 4)
CALLED: list[str] = []


class Keeps(nn.Module):
    """Keeps its arguments as they came."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.args = args
        self.kwargs = kwargs
        self.inner = nn.Linear(2, 2)


class Net(nn.Module):
    def __init__(self, width: int, depth: int = 2) -> None:
        super().__init__()
        CALLED.append("Net")
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def makes(kind: str = "net") -> object:
    CALLED.append("makes")
    return {"net": nn.Linear(2, 2), "number": 3, "none": None, "class": nn.Linear, "array": np.ones(2)}[kind]


class Raises(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        raise ValueError(f"no net is {width} wide")


class RaisesInTorch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(-1, 2)


class Exits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sys.exit("enough")


class Interrupted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        raise KeyboardInterrupt


class FailsHollow(nn.Module):
    """Looks at its weight, and cannot do without."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        if self.inner.weight.std().item() == 0:
            raise ValueError("a constant weight")


class MutatesItsArguments(nn.Module):
    """Would find its list empty if it were built twice from one list."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.inner = nn.Linear(widths.pop(), widths.pop())
        self.first = self.inner.weight[0, 0].item()


class NoModule:
    def __init__(self) -> None:
        CALLED.append("NoModule")


class DtypeNet(nn.Module):
    def __init__(self, dtype: torch.dtype, device: torch.device, sizes: tuple[int, int], activation: Any) -> None:
        super().__init__()
        self.inner = nn.Linear(sizes[0], sizes[1], dtype=dtype, device=device)
        self.activation = activation()


@functools.cache
def projection(width: int) -> Tensor:
    return torch.randn(width)


class FromCache(nn.Module):
    """Takes a random tensor from a cache, which a build that does not draw must not fill."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.register_buffer("projection", projection(width), persistent=False)


REGISTRY: list[nn.Module] = []


class Registered(nn.Module):
    """Stays known to the world, which does no harm."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        REGISTRY.append(self)


def takes_more(init: Any) -> Any:
    """Decorates a constructor so that it takes what its signature does not show."""

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, num_labels: int = 0, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        self.num_labels = num_labels

    return wrapper


class Wrapped(Keeps):
    @takes_more
    def __init__(self, width: int, deep: bool = False) -> None:
        super().__init__()
        if deep:
            int("a", wrong=1)  # type: ignore[call-overload]
        if width < 0:
            Net(wrong=1)  # type: ignore[call-arg]


class Renaming(type):
    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        kwargs["width"] = kwargs.pop("size", 0) or kwargs["width"]
        return super().__call__(*args, **kwargs)


class Renamed(Keeps, metaclass=Renaming):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


class Signed(Keeps):
    __signature__ = inspect.Signature()

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


class Heads(Keeps):
    def __init__(self, embed_dim: int, num_heads: int = 3) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError("embed_dim must be divisible by num_heads")


class Needs(Keeps):
    def __init__(self) -> None:
        super().__init__()
        importlib.import_module("zz_not_installed.deep")
