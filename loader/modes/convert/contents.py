"""The tensors of a model that go into a file, under the model's own names.

Guarantees: they are those of the model's state dict, each stored once, under its first name; entries that the format
cannot hold are refused by name, all at once; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from ...errors import ConfigError
from ...formats.safetensors import fault, nbytes
from ...module.slots import identity
from ...text.lines import Fix
from ...text.wording import counted, phrases, safe_text


@dataclass(slots=True)
class Contents:
    """The tensors of a model by name, and what is not among them."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    """Second name of a tied tensor → the name under which it is stored."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Extra state that is not a tensor: key → type."""
    absent: list[str] = field(default_factory=list)
    """Tensors of the file that the model does not hold, where the file's names are written."""
    read: Callable[[str], torch.Tensor] | None = None
    """Gives the values of a tensor, if `tensors` are only their shapes and dtypes."""


def contents(module: nn.Module) -> Contents:
    """Collects what is to be written.

    Raises:
        ConfigError: The format cannot hold some of it.
    """
    found = Contents()
    firsts: dict[object, str] = {}
    refused = []
    for key, value in module.state_dict().items():
        if not isinstance(value, torch.Tensor):
            found.left_out[key] = type(value).__name__
        elif why := fault(key, value):
            refused.append(f"{safe_text(key)} ({why})")
        elif (first := firsts.setdefault(identity(value), key)) != key:
            found.aliases[key] = first
        else:
            found.tensors[key] = value
    if refused:
        raise ConfigError(
            f"safetensors cannot hold {counted(len(refused), 'entry', 'entries')} of the model: {phrases(refused)}",
            Fix("mode=load", "such a model stays in the file that it is in"),
        )
    return found


def shards(tensors: dict[str, torch.Tensor], most: int) -> Iterator[dict[str, torch.Tensor]]:
    """Cuts tensors, in their order, into files of at most so many bytes; a larger tensor has one to itself."""
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for key, tensor in tensors.items():
        if shard and size + nbytes(tensor) > most:
            yield shard
            shard, size = {}, 0
        shard[key] = tensor
        size += nbytes(tensor)
    yield shard
