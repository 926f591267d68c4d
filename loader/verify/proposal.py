"""Proposed inputs, from a model's first layer, where the config gives none.

Guarantees: an input is proposed only from a first layer that determines its shape, and the report says so. Sizes that a
convolution leaves open are those of a small image first, then those that the model, its arguments and its error name.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import VerificationError
from ..formats.limits import MOST_PROPOSED
from ..text.lines import Fix, line

_SEQUENCE = 8
_SIDE = 64
_SMALLEST, _LARGEST = 8, 1024
_MOST_TRIES = 8
_SIZES = ("img_size", "image_size", "input_size", "input_resolution", "image_resolution", "resolution", "crop_size")
"""Names that models and their configs use for the size of their images."""
_CONFIGS = ("config", "default_cfg", "pretrained_cfg")
"""Attributes in which models keep a config of their own."""
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Proposal:
    """An input that a model may accept."""

    spec: Mapping[str, Any]
    source: str
    """Its origin: the layer, and for another size the source of that size."""


def propose(model: nn.Module) -> tuple[dict[str, Any], str] | None:
    """Proposes an input from a model's first layer.

    Returns:
        A spec and the layer that it comes from, or None if the first layer does not determine one.
    """
    found = _first_layer(model)
    return None if found is None else (_spec_of(found[0]) or {}, found[1])


def no_proposal(where: str) -> VerificationError:
    """Returns the refusal for a model without a given or proposed input."""
    return VerificationError(
        "the dummy forward pass needs an input, and the model's first layer does not determine its shape",
        line(where, {"shape": [1, 3, 224, 224]}, note="the shape your model takes"),
        Fix("verify.forward=false", "leaves it out"),
    )


def other_sizes(model: nn.Module, arguments: Mapping[str, Any], message: str) -> Iterator[Proposal]:
    """Proposes other sizes for a model whose first layer is a convolution, after the first proposal failed.

    Args:
        model: The model.
        arguments: Its arguments in the config.
        message: The error of its forward pass on the first proposal.
    """
    found = _first_layer(model)
    if found is None or not isinstance(found[0], _CONVOLUTIONS):
        return
    layer, name = found
    spec = _spec_of(layer) or {}
    channels, first = spec["shape"][1], tuple(spec["shape"][2:])
    tried = {first}
    for raw, source in (*_of_model(model, arguments), *_of_message(message, layer, first[0])):
        size = _as_size(raw, len(first))
        bounded = size is not None and channels * math.prod(size) <= MOST_PROPOSED
        if size is not None and bounded and size not in tried and len(tried) <= _MOST_TRIES:
            tried.add(size)
            yield Proposal({**spec, "shape": [1, channels, *size]}, f"{name} with {source}")


def _first_layer(model: nn.Module) -> tuple[nn.Module, str] | None:
    for name, module in model.named_modules():
        if not any(parameter is not None for parameter in module._parameters.values()):
            continue
        if _spec_of(module) is not None:
            return module, f"{name or 'the model'} ({type(module).__name__})"
        if not any(True for _ in module.children()):
            return None
    return None


def _spec_of(module: nn.Module) -> dict[str, Any] | None:
    if isinstance(module, nn.Linear):
        # After loading a lazy layer, only its weight has the size.
        return {"shape": [1, module.in_features or module.weight.shape[-1]]}
    if isinstance(module, nn.Embedding):
        return {"shape": [1, _SEQUENCE], "dtype": "int64", "kind": "randint", "high": module.num_embeddings}
    if isinstance(module, _CONVOLUTIONS):
        channels = module.in_channels or module.weight.shape[1] * module.groups
        # Pictures are numbers from 0 to 1: a model may take roots or logarithms of them.
        picture = {"kind": "uniform"} if isinstance(module, nn.Conv2d) else {}
        dimensions = len(module.kernel_size)
        return {"shape": [1, channels, *[_side(channels, dimensions)] * dimensions], **picture}
    if isinstance(module, nn.RNNBase):
        return {"shape": [1, _SEQUENCE, module.input_size]}
    if isinstance(module, nn.MultiheadAttention):
        return {"shape": [1, _SEQUENCE, module.embed_dim]}
    if isinstance(module, nn.LayerNorm):
        return {"shape": [1, *module.normalized_shape]}
    return None


def _side(channels: int, dimensions: int) -> int:
    """A layer in many groups may have a small weight and a large image."""
    side = _SIDE
    while side > 1 and channels * side**dimensions > MOST_PROPOSED:
        side //= 2
    return side


def _of_model(model: nn.Module, arguments: Mapping[str, Any]) -> Iterator[tuple[object, str]]:
    for name, module in model.named_modules():
        own = vars(module)
        where = f"{name}." if name else ""
        yield from ((own[key], f"{where}{key}") for key in _SIZES if key in own)
        for config in (key for key in _CONFIGS if key in own):
            yield from ((_entry(own[config], key), f"{where}{config}.{key}") for key in _SIZES)
    yield from ((value, f"the argument {key}") for key, value in _arguments(arguments))
    try:
        defaults = inspect.signature(type(model).__init__).parameters
    except (TypeError, ValueError):
        return
    yield from ((defaults[key].default, f"the default of {key}") for key in _SIZES if key in defaults)


def _arguments(config: object) -> Iterator[tuple[str, object]]:
    if isinstance(config, Mapping):
        yield from ((key, config[key]) for key in _SIZES if key in config)
        for value in config.values():
            yield from _arguments(value)
    elif isinstance(config, list | tuple):
        for item in config:
            yield from _arguments(item)


def _entry(config: object, key: str) -> object:
    return config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)


def _of_message(message: str, layer: nn.Module, tried: int) -> Iterator[tuple[object, str]]:
    """Yields sizes that an error names: as they are, or as the number of patches that the first layer makes."""
    numbers = [number for number in dict.fromkeys(map(int, re.findall(r"\d{1,6}", message))) if number != tried]
    step = layer.stride[0] if isinstance(layer.stride, tuple) else 1
    for number in numbers if step > 1 else ():
        for others in range(3):  # next to the patches there may be a token for the class, and one for a teacher
            side = math.isqrt(max(number - others, 0))
            if side > 1 and side * side == number - others:
                yield side * step, "the number of patches that its error names"
    yield from ((number, "a size that its error names") for number in numbers)


def _as_size(raw: object, dimensions: int) -> tuple[int, ...] | None:
    """Returns a size for every dimension; the channels of a shape are left out."""
    sides: list[int] = [raw] * dimensions if isinstance(raw, int) else _shape(raw)
    size = tuple(sides[-dimensions:])
    fits = len(sides) in (dimensions, dimensions + 1) and all(_SMALLEST <= side <= _LARGEST for side in size)
    return size if fits else None


def _shape(raw: object) -> list[int]:
    """Returns the numbers of a list of whole numbers; empty for anything else."""
    listed = list(raw) if isinstance(raw, Sequence) and not isinstance(raw, str) else []
    return listed if all(type(side) is int for side in listed) else []
