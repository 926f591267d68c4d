"""Joins tensors by a dequantizer, without rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from loader.formats.elements import raw
from loader.formats.memory import MemoryCheckpoint
from loader.formats.tree import TensorEntry
from loader.keys.rules.joins import JOINS, Join
from loader.keys.rules.tensors import Context, naming, shown

Members = Mapping[str, Tensor]


def entry_of(join: Join, members: Members, config: Mapping[str, Any] | None = None) -> TensorEntry:
    """The entry that a join makes of tensors by role."""
    return _entry(MemoryCheckpoint(members), join, config or {})


def _entry(memory: MemoryCheckpoint, join: Join, config: Mapping[str, Any]) -> TensorEntry:
    context = Context(lambda entry: bytes(raw(memory.read(entry))), lambda: config)
    members = memory.root.tensors()
    with naming(f"{', '.join(shown(role, entry) for role, entry in members.items())}:"):
        return join.joined(members, context)


def values_of(join: Join, members: Members, config: Mapping[str, Any] | None = None) -> Tensor:
    """The values of that entry, in float32 or float64; the members stay as they are."""
    before = {role: bytes(raw(value.contiguous())) for role, value in members.items()}
    memory = MemoryCheckpoint(members)
    entry = _entry(memory, join, config or {})
    made = memory.read(entry)
    assert made.dtype in (torch.float32, torch.float64)
    assert tuple(made.shape) == entry.shape
    assert before == {role: bytes(raw(value.contiguous())) for role, value in members.items()}
    return made


def join(name: str, **options: Any) -> Join:
    """A join by its name in a config."""
    return JOINS[name](**options)
