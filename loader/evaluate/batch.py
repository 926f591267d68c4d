"""A batch on its way through the model: onto the device, into the model, out as a prediction and a target.

Guarantees: every tensor of a batch is on the model's device; floating tensors have the model's dtype, except the
target, which keeps its own. A batch that has no obvious input and target is refused with the line that sets
``evaluate.step``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from numbers import Number
from typing import Any

import torch

from ..errors import ConfigError
from ..text.lines import Fix, line
from ..text.wording import listing, safe_text, shape

TARGETS = ("labels", "target")
"""The entries of a mapping that hold the target."""

STEP = "evaluate.step"
OWN_STEP: Fix = line(
    f"{STEP}._target_", "my_pkg.step", note="a function of model and batch that returns prediction and target"
)


def placed(batch: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Returns a batch on a device, its floating tensors in a dtype; a target that can be recognized keeps its own.

    Args:
        batch: Tensors, and tuples, lists and mappings of them; other objects are moved by their own ``to``.
        device: The model's device.
        dtype: The dtype that the model computes in.
    """
    if is_pair(batch):
        parts = [_moved(batch[0], device, dtype), _moved(batch[1], device, None)]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if isinstance(batch, Mapping):
        return _mapped(batch, lambda key, item: _moved(item, device, None if key in TARGETS else dtype))
    return _moved(batch, device, dtype)


def is_pair(batch: object) -> bool:
    """Returns whether a batch is ``(input, target)``."""
    return isinstance(batch, tuple | list) and len(batch) == 2


def _moved(value: Any, device: torch.device, dtype: torch.dtype | None) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, dtype) if dtype is not None and value.is_floating_point() else value.to(device)
    if isinstance(value, Mapping):
        return _mapped(value, lambda _, item: _moved(item, device, dtype))
    if callable(getattr(value, "to", None)):  # a packed sequence, or a batch of a library's own class
        return value.to(device)
    if isinstance(value, tuple | list):
        items = [_moved(item, device, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _mapped(mapping: Mapping[Any, Any], move: Callable[[Any, Any], Any]) -> Any:
    """Returns a mapping of the same class, if it can be copied, with every entry moved."""
    items = {key: move(key, item) for key, item in mapping.items()}
    if type(mapping) is dict or not isinstance(mapping, MutableMapping):
        return items
    try:
        result = copy.copy(mapping)
        result.update(items)
    except Exception:  # noqa: BLE001  # a class of its own that cannot be copied or updated; torch's collate does so too
        return items
    return result


def default_step(batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Returns the positional and the keyword arguments of the model, and the target, of a batch.

    Raises:
        ConfigError: The batch is neither ``(input, target)`` nor a mapping with ``labels`` or ``target``.
    """
    if is_pair(batch):
        return (batch[0],), {}, batch[1]
    if isinstance(batch, Mapping):
        named = [name for name in TARGETS if name in batch]
        inputs = {key: item for key, item in batch.items() if key not in TARGETS}
        if len(named) == 1 and inputs and all(isinstance(key, str) for key in inputs):
            return (), inputs, batch[named[0]]
    raise ConfigError(
        f"evaluate.data yields {described(batch)}, expected (input, target), or a mapping with inputs and one of "
        f"{' and '.join(TARGETS)}",
        OWN_STEP,
    )


def prediction_of(output: Any) -> Any:
    """Returns a model's output if it is a tensor, its ``logits`` if it has them, else its first element.

    Raises:
        ConfigError: It has none of them.
    """
    if isinstance(output, torch.Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if logits is not None:
        return logits
    elements = [item for item in output.values() if item is not None] if isinstance(output, Mapping) else output
    if isinstance(elements, Sequence) and not isinstance(elements, str | bytes) and len(elements):
        return elements[0]
    raise ConfigError(
        f"the model returns {described(output)}, which has no logits and no first element to take as its prediction",
        OWN_STEP,
    )


def samples_in(target: Any, prediction: Any) -> int:
    """Returns the number of samples: the size of the target's first dimension, or of the prediction's."""
    return next((found for found in map(_first_size, (target, prediction)) if found is not None), 1)


def fits(target: Any, prediction: Any) -> bool:
    """Returns whether a target may have the samples of a prediction; if not, an item was probably a single sample."""
    if not isinstance(prediction, torch.Tensor) or not prediction.dim() or target is None:
        return True
    is_scalar = isinstance(target, Number | str | bytes) or getattr(target, "shape", None) == ()
    if is_scalar:
        return prediction.size(0) == 1
    return not isinstance(target, torch.Tensor) or target.size(0) in (1, prediction.size(0))


def _first_size(value: Any) -> int | None:
    if isinstance(value, torch.Tensor):
        return value.size(0) if value.dim() else None
    if hasattr(value, "__array__") and getattr(value, "shape", None):
        return int(value.shape[0])
    if isinstance(value, Mapping):
        return next((found for found in map(_first_size, value.values()) if found is not None), None)
    return len(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else None


def described(value: Any) -> str:
    """Describes a value for a message: ``a tensor [64, 784] float32``, ``a list of 3``, ``a mapping of x, y``."""
    if isinstance(value, torch.Tensor) and value.is_nested:
        return "a nested tensor"
    if isinstance(value, torch.Tensor):
        return f"a tensor {shape(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return f"a mapping of {listing(value) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a value of the type {safe_text(type(value).__name__)}"
