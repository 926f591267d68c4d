"""Whether a model is whole: nothing without data, nothing left as it was found.

Guarantees: looks at every parameter, buffer and tensor attribute by name; a forward pass is no such check, since a
weight on the meta device can give finite garbage.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from types import NoneType

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..apply.place import all_finite
from .castable import can_cast
from .own_keys import own_values
from .slots import Slot, is_own_key, slots

_NO_TENSORS = frozenset((dict, OrderedDict, set, bool, int, float, str, NoneType))
"""What nearly all attributes of a module are; telling it by the type alone halves the time of the walk."""


def without_data(model: nn.Module) -> list[str]:
    """Names every tensor of a model that has no data: on the meta device, or not initialised yet."""
    return [name for name, tensor in tensors(model) if is_lazy(tensor) or tensor.is_meta]


def tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter, buffer and plain tensor attribute of a model with its name, each object once."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        places = (*module._parameters.items(), *module._buffers.items(), *_attributes(module))
        for name, tensor in places:
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"{prefix}.{name}" if prefix else name, tensor


def nonfinite(model: nn.Module) -> list[str]:
    """Names the parameters and buffers that hold inf or nan."""
    # Not by `state_dict`, which is the model's own code: it may take no arguments, or raise.
    return [name for name, slot in slots(model).items() if not _is_finite(_value(slot))]


def _value(slot: Slot) -> object:
    if slot.kind != "extra":
        return slot.tensor
    return own_values(slot.module).get(slot.name) if is_own_key(slot) else None


def _attributes(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in vars(module).items():
        if type(value) in _NO_TENSORS:
            continue
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, list | tuple) and value and not name.startswith("_"):
            yield from ((f"{name}[{i}]", item) for i, item in enumerate(value) if isinstance(item, torch.Tensor))


def _is_finite(tensor: object) -> bool:
    if not isinstance(tensor, torch.Tensor) or is_lazy(tensor) or tensor.is_meta or tensor.is_quantized:
        return True
    if tensor.is_nested:
        return all(map(_is_finite, tensor.detach().unbind()))
    values = tensor.detach()
    if values.layout != torch.strided:
        values = (values.coalesce() if values.layout == torch.sparse_coo else values).values()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if not values.is_floating_point() or not can_cast(values.dtype, torch.float32):
        return True
    return all_finite(values.to(torch.float32) if values.element_size() == 1 else values)
