"""The outputs of a forward pass as plain data.

Guarantees: nested outputs (tuples, lists, mappings) are flattened in a fixed order; statistics are null for an output
without values.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..formats.elements import raw
from ..formats.tensor import dtype_name


@dataclass(frozen=True, slots=True)
class OutputStats:
    """One output tensor."""

    name: str
    shape: list[int]
    dtype: str
    device: str
    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    finite: bool | None
    sha256: str | None
    """Of its compact little-endian bytes. It depends on the processor, its threads and the libraries."""


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the tensors of a nested output with dotted names, dense; a single tensor is called ``0``."""
    if isinstance(value, torch.Tensor):
        if value.is_nested:
            yield from flatten(value.unbind(), name)
        else:
            yield name or "0", _dense(value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, item in enumerate(value):
            yield from flatten(item, f"{name}.{index}" if name else str(index))


def statistics(name: str, output: torch.Tensor) -> OutputStats:
    """Describes one output; statistics are taken in float64."""
    place, digest = (list(output.shape), dtype_name(output.dtype), str(output.device)), _digest(output)
    if output.is_meta or output.numel() == 0 or output.is_complex():
        return OutputStats(name, *place, None, None, None, None, None, digest)
    wide = output.detach().to("cpu", torch.float64)
    finite = bool(torch.isfinite(wide).all())
    least, most, mean, deviation = (
        _number(float(number)) for number in (wide.min(), wide.max(), wide.mean(), wide.std(unbiased=False))
    )
    return OutputStats(name, *place, least, most, mean, deviation, finite, digest)


def _digest(output: torch.Tensor) -> str | None:
    return None if output.is_meta else hashlib.sha256(raw(output)).hexdigest()


def _dense(output: torch.Tensor) -> torch.Tensor:
    """Returns an output as a plain dense tensor."""
    if output.is_quantized:
        return output.dequantize()
    dense = output if output.layout == torch.strided else output.to_dense()
    return dense.resolve_conj().resolve_neg()


def _number(value: float) -> float | None:
    """JSON has no inf and no nan."""
    return value if math.isfinite(value) else None
