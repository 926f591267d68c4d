"""What ggml has quantised, turned into float32 by the package `gguf`.

Guarantees: the package sees no file, only the bytes of one tensor, as many as its shape needs, and writes to none of
them; where it is not installed, or does not know a type, the refusal says what to install.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import CheckpointError
from ...text.wording import safe_text
from ..tree import TensorEntry

if TYPE_CHECKING:
    import torch


def quantisations(path: str, tensor: str) -> Mapping[int, tuple[str, int, int]]:
    """The quantised types by ggml's number: their name, and how many elements a block holds in how many bytes.

    Args:
        path: The file that has them, for messages.
        tensor: A tensor that has one.

    Raises:
        CheckpointError: The package `gguf` is not installed.
    """
    try:
        from gguf.constants import GGML_QUANT_SIZES  # noqa: PLC0415  # an extra, and slow to import
    except ImportError as error:
        raise CheckpointError(
            f"{path} holds tensors that ggml has quantised, such as '{safe_text(tensor)}', and the package gguf, which "
            "turns them into float32, is not installed",
            "pip install 'hydra-loader[gguf]'",
        ) from error
    return {int(kind): (kind.name, *size) for kind, size in GGML_QUANT_SIZES.items()}


def dequantised(entry: TensorEntry, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Makes float32 out of ggml's blocks.

    Raises:
        CheckpointError: The package `gguf` does not know how.
    """
    import numpy  # noqa: PLC0415, ICN001  # needed here alone
    import torch  # noqa: PLC0415  # an index alone needs no torch

    if not entry.numel:
        return torch.empty(entry.shape)
    blocks: Any = parts["blocks"].numpy()
    blocks.flags.writeable = False  # it may be a mapping that others look into
    with numpy.errstate(all="ignore"):  # scales out of a file may be anything
        try:
            values = _dequantise()(blocks.reshape(*entry.shape[:-1], -1), entry.details["type"])
        except NotImplementedError as error:
            raise CheckpointError(
                f"a tensor of this file is quantised as {entry.details['quantised']}, which the package gguf cannot "
                "turn into float32",
                "pip install --upgrade gguf",
            ) from error
    return torch.from_numpy(values).reshape(entry.shape)


def _dequantise() -> Callable[[Any, Any], Any]:
    from gguf.constants import GGMLQuantizationType  # noqa: PLC0415  # an extra, and slow to import
    from gguf.quants import dequantize  # noqa: PLC0415

    return lambda blocks, kind: dequantize(blocks, GGMLQuantizationType(kind))
