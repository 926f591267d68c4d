"""A model of any keys, and files that rules turn into it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

ROWS = {"l.norm.weight": [4], "l.q.weight": [4, 4], "l.k.weight": [2, 4], "l.v.weight": [2, 4], "out.weight": [3, 4]}
"""An attention with fewer heads for keys and values."""
FUSED: Mapping[str, Any] = {"fused": {"split": r"\.qkv\.", "into": [".q.", ".k.", ".v."]}}


class Shapes(nn.Module):
    """Parameters under dotted keys.

    Args:
        shapes: Their shapes by key.
        dtype: Their dtype.
        others: Other dtypes by key.
    """

    def __init__(
        self, shapes: Mapping[str, Sequence[int]], dtype: str = "float32", others: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        for key, shape in shapes.items():
            *path, name = key.split(".")
            at: nn.Module = self
            for step in path:
                if step not in dict(at.named_children()):
                    at.add_module(step, nn.Module())
                at = at.get_submodule(step)
            kind = getattr(torch, (others or {}).get(key, dtype))
            at.register_parameter(name, nn.Parameter(torch.empty(*shape, dtype=kind).fill_(-1)))


def shapes(keys: Mapping[str, Sequence[int]], dtype: str = "float32", **others: str) -> dict[str, Any]:
    """The node of such a model; other dtypes are given by the last part of a key."""
    node = {"_target_": "tests.derived.Shapes", "shapes": {key: [*of] for key, of in keys.items()}, "dtype": dtype}
    by_key = {key: others[name] for key in keys if (name := key.split(".")[-1]) in others}
    return {**node, "others": by_key} if by_key else node


def numbers(*shape: int, start: float = 0.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor whose elements all differ."""
    return (torch.arange(math.prod(shape), dtype=torch.float32) + start).reshape(shape).to(dtype)


def fused() -> dict[str, torch.Tensor]:
    """A file of `ROWS` with the three projections as one."""
    return {"l.norm.weight": numbers(4), "l.qkv.weight": numbers(8, 4, start=10), "out.weight": numbers(3, 4, start=50)}
