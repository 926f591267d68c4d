"""Models whose constructors reach outside, and builders that hand arguments on; configs name them by their modules."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import torch
from torch import nn

CALLS: list[dict[str, Any]] = []
"""The arguments of every `Recording` that was built."""
PORT = [0]
"""Where `Fetching` asks for its weights."""


class Recording(nn.Module):
    """Keeps what it was called with; a real one would fetch, write and publish."""

    def __init__(
        self,
        width: int = 8,
        depth: int = 2,
        pretrained: bool = False,
        weights: bool = False,
        force_download: bool = False,
        push_to_hub: bool = False,
        retries_of_url: int = 3,
        bias: bool = True,
    ) -> None:
        CALLS.append({name: value for name, value in locals().items() if name not in ("self", "__class__")})
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=bias) for _ in range(depth))


class Fetching(nn.Module):
    """Fetches its weights unless it is kept from it; one fallback hides what went wrong."""

    def __init__(self, width: int = 8, pretrained: bool = True, logs: str | None = None) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        if logs is not None:
            Path(logs).open("a").close()
        if pretrained:
            try:
                socket.create_connection(("127.0.0.1", PORT[0])).close()
            except Exception:  # noqa: BLE001  # as such constructors do
                self.layer = nn.Linear(width, 1)


class Base(nn.Module):
    """Arguments of every kind that can be varied."""

    def __init__(
        self, blocks: Any, width: int = 4, classes: int = 3, scale: float = 2.0, wide: bool = False, act: Any = nn.ReLU
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*(nn.Linear(width, width) for _ in range(number))) for number in blocks
        )
        self.inner = nn.Linear(width, int(width * scale))
        self.outer = nn.Linear(2 * width if wide else width, width)
        self.act = act()
        self.head = nn.Linear(width, classes)


class Derived(Base):
    """Names nothing of its base's arguments."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__([1, 2], **kwargs)


def built(act: Any = nn.ReLU, **kwargs: Any) -> nn.Module:
    """Sets a width of its own, which nobody may set otherwise, and hands the rest on."""
    if kwargs.setdefault("width", 6) != 6:
        raise ValueError("the width is 6")
    return Base([1, 2], act=act, **kwargs)


class Holding(nn.Module):
    """Hands what it does not know on to what it holds."""

    def __init__(self, rate: float = 0.1, **kwargs: Any) -> None:
        super().__init__()
        self.rate = rate
        self.net = nn.Sequential(nn.ReLU(), Base([1, 2], **kwargs))


def picky(**kwargs: Any) -> nn.Module:
    """Takes one argument and keeps the others to itself."""
    if kwargs.keys() - {"classes"}:
        raise TypeError("classes alone")
    return Base([1, 2], **kwargs)


class Odd(nn.Module):
    """Takes anything."""

    def __init__(self, width: int = 4, odd: Any = 1.0) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.odd = odd


class Defaults(nn.Module):
    """Defaults of which `==` says nothing."""

    def __init__(
        self,
        width: int = 4,
        mean: torch.Tensor = torch.zeros(3),  # noqa: B008
        sizes: tuple[int, ...] = (2, 2),
        pairs: Any = (torch.zeros(2), torch.ones(2)),  # noqa: B008
        rate: float = float("inf"),
    ) -> None:
        super().__init__()
        self.layer = nn.Linear(width, sum(sizes))
        self.other = nn.Linear(sizes[0], sizes[1])
        self.settings = (mean, pairs, rate)
