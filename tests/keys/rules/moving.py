"""State dicts through rules, without a model's keys or with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from loader.formats.memory import MemoryCheckpoint
from loader.formats.tree import TensorEntry
from loader.keys.rules import Rewriting, rewrite
from loader.keys.rules.tensors import Shape
from tests.rules import parse_rules

Tensors = dict[str, torch.Tensor]


def counted(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor of 0, 1, 2 … in a shape."""
    return torch.arange(math.prod(shape)).to(dtype).reshape(shape)


def rewriting(
    state: Mapping[str, Any], rules: Mapping[str, Any], shapes: Mapping[str, Shape | None] | None = None
) -> Rewriting:
    """The entries after named rules."""
    checkpoint = MemoryCheckpoint(state)
    return rewrite(checkpoint.root.children, parse_rules(rules), "the file", shapes)


def moved(
    state: Mapping[str, Any], rule: Mapping[str, Any], shapes: Mapping[str, Shape | None] | None = None
) -> Tensors:
    """The tensors after one rule."""
    checkpoint = MemoryCheckpoint(state)
    made = rewriting(state, {"r": rule}, shapes).made
    found = {name: one.entry for name, one in made.items()}
    assert all(isinstance(entry, TensorEntry) for entry in found.values())
    return {name: checkpoint.read(entry, mmap=False) for name, entry in found.items() if isinstance(entry, TensorEntry)}
