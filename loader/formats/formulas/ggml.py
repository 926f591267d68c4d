"""Turns ggml's quantized blocks into numbers, with the package `gguf`.

Guarantees: the package sees the bytes of one tensor and never the file.
"""

from __future__ import annotations

from typing import Any

import torch

from ...errors import CheckpointError
from ...text.lines import Fix
from ..tree import TensorEntry


def dequantized(entry: TensorEntry, raw: torch.Tensor) -> torch.Tensor:
    """The values of a quantized tensor as float32, in memory of their own.

    Args:
        entry: The tensor.
        raw: The bytes of its blocks.

    Raises:
        CheckpointError: The package `gguf` does not know the type.
    """
    import numpy  # noqa: PLC0415, ICN001  # needed here alone
    from gguf.constants import GGMLQuantizationType  # noqa: PLC0415  # an extra, and slow to import
    from gguf.quants import dequantize  # noqa: PLC0415

    if not entry.numel:
        return torch.empty(entry.shape)
    blocks: Any = raw.numpy()
    blocks.flags.writeable = False  # it may be a mapping that other tensors share
    kind: Any = entry.details.quantization
    with numpy.errstate(all="ignore"):  # scales from a file may be anything
        try:
            values = dequantize(blocks.reshape(*entry.shape[:-1], -1), GGMLQuantizationType(kind.type))
        except NotImplementedError as error:
            raise CheckpointError(
                f"unsupported quantization {kind.quantised}: the package gguf cannot dequantize it",
                Fix("pip install --upgrade gguf"),
            ) from error
    return torch.from_numpy(values).reshape(entry.shape)
