"""What a forward pass gave, as plain data.

Guarantees: nested outputs (tuples, lists, mappings) are flattened in a fixed order; statistics are null where there
is nothing to compute them from; the fingerprint is the same for the same values, dtypes and shapes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

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
    place = (list(output.shape), dtype_name(output.dtype), str(output.device))
    if output.is_meta or output.numel() == 0 or output.is_complex():
        return OutputStats(name, *place, None, None, None, None, None)
    wide = output.detach().to("cpu", torch.float64)
    finite = bool(torch.isfinite(wide).all())
    least, most, mean, deviation = (
        _number(float(number)) for number in (wide.min(), wide.max(), wide.mean(), wide.std(unbiased=False))
    )
    return OutputStats(name, *place, least, most, mean, deviation, finite)


def fingerprint(outputs: Mapping[str, torch.Tensor]) -> str | None:
    """A digest of outputs: equal for equal weights and inputs on the same kind of device; null on meta."""
    if not outputs or any(output.is_meta for output in outputs.values()):
        return None
    digest = hashlib.sha256()
    for name, output in outputs.items():
        digest.update(f"{name}|{dtype_name(output.dtype)}|{list(output.shape)}|".encode())
        plain = output.detach().cpu().contiguous().reshape(-1)
        digest.update(plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def _dense(output: torch.Tensor) -> torch.Tensor:
    """An output's numbers without what only some operations understand."""
    if output.is_quantized:
        return output.dequantize()
    dense = output if output.layout == torch.strided else output.to_dense()
    return dense.resolve_conj().resolve_neg()


def _number(value: float) -> float | None:
    """JSON has no inf and no nan."""
    return value if math.isfinite(value) else None
