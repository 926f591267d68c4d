"""Weights as torch's quantized modules keep them: script objects of two classes.

Guarantees: an object is made by torch's own packing functions, out of tensors whose types and shapes were checked; what
a file says of any other class is not tried out.
"""

from __future__ import annotations

from typing import Any

import torch

from ...errors import CheckpointError
from ...text.wording import safe_text

_CLASSES = "__torch__.torch.classes."


def packed(name: object, content: Any) -> Any:
    """Makes a script object.

    Args:
        name: Its class, as the file names it.
        content: What the file says it is made of.

    Raises:
        CheckpointError: The class is none of the two, or that is not what it is made of.
    """
    if name == f"{_CLASSES}quantized.LinearPackedParamsBase" and _is_linear(content):
        weight, bias = content
        pack = torch.ops.quantized.linear_prepack if weight.is_quantized else torch.ops.quantized.linear_prepack_fp16
        return pack(weight, bias)
    if name == f"{_CLASSES}rnn.CellParamsBase" and isinstance(content, tuple) and len(content) == 5:
        kind, biases, doubles, flags, layers = content
        if _are_packed(layers) and doubles == []:
            if kind == "quantized_fp16" and biases == [] == flags:
                return torch.ops.quantized.make_quantized_cell_params_fp16(*layers)
            if kind == "quantized_dynamic" and _are_vectors(biases) and flags in ([0], [1]):
                make = torch.ops.quantized.make_quantized_cell_params_dynamic
                return make(*layers, *biases, bool(flags[0]))
    raise CheckpointError(
        f"this file holds a script object of the class {safe_text(name)} that torch's quantized modules do not make",
        "the weights load without it when the model is declared: model._target_=my_pkg.Net",
    )


def _is_linear(content: Any) -> bool:
    if not isinstance(content, tuple) or len(content) != 2 or not isinstance(content[0], torch.Tensor):
        return False
    weight, bias = content
    typed = weight.dtype == (torch.qint8 if weight.is_quantized else torch.float32)
    return typed and weight.dim() == 2 and (bias is None or _is_vector(bias, weight.shape[0]))


def _is_vector(value: object, length: int | None = None) -> bool:
    plain = isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.dim() == 1
    return plain and (length is None or value.shape[0] == length)  # type: ignore[attr-defined]


def _are_vectors(values: object) -> bool:
    return isinstance(values, list) and len(values) == 2 and all(map(_is_vector, values))


def _are_packed(values: object) -> bool:
    return isinstance(values, list) and len(values) == 2 and all(isinstance(v, torch.ScriptObject) for v in values)
