"""The outputs of a forward pass as plain data, and the parameters that it wrote to.

Guarantees: nested outputs (tuples, lists, mappings) are flattened in a fixed order; statistics are null for an output
without values. A write to a parameter that is too large to be kept is detected, even past torch's version counter:
pages that the system reports as unmodified pages of a file are not read, all other memory is summed by rows and by
columns; nothing is copied.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from ..formats.elements import raw
from ..formats.tensor import dtype_name, is_plain

_PAGE: Final = 4096
_ROW: Final = 4096
"""Words per row. Sums of rows detect changed values, sums of columns detect values that moved within a row."""


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


class Untouched:
    """Evidence of the contents of some tensors at one moment, without a copy."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        chosen = list(tensors)
        files = _private_files() if chosen else []
        self._seen = [(tensor, _version(tensor), _evidence(tensor, files)) for tensor in chosen]

    def written(self) -> list[torch.Tensor]:
        """Yields the tensors that were written to since."""
        files = _private_files() if self._seen else []
        return [
            tensor
            for tensor, version, evidence in self._seen
            if _version(tensor) != version or not _are_equal(_evidence(tensor, files), evidence)
        ]


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _evidence(tensor: torch.Tensor, files: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Returns evidence of a tensor's contents: the bytes at its ends, and sums of those between."""
    if tensor.is_meta or not is_plain(tensor) or not tensor.numel():
        return []
    memory = _memory(tensor)
    address, size = memory.data_ptr(), memory.numel()
    start, end = -address % _PAGE, size - (address + size) % _PAGE
    if start < end and tensor.device.type == "cpu" and _is_clean(address + start, address + end, files):
        return [memory[:start].clone(), memory[end:].clone()]
    start = -int(memory.storage_offset()) % 8
    words = memory[start : start + (size - start) // 8 * 8].view(torch.int64)
    rows = words[: words.numel() // _ROW * _ROW].view(-1, _ROW)
    return [memory[:start].clone(), memory[start + rows.numel() * 8 :].clone(), rows.sum(0), rows.sum(1)]


def _are_equal(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(*pair) for pair in zip(left, right, strict=True))


def _memory(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the bytes from a tensor's first element to its last."""
    width = tensor.element_size()
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    start = int(tensor.storage_offset()) * width
    return empty.set_(tensor.untyped_storage(), start, ((int(last) + 1) * width,), (1,))


def _private_files() -> list[tuple[int, int]]:
    """Returns the address ranges of private file mappings of this process; empty if the system does not list them."""
    try:
        mapped = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text(errors="replace").splitlines()]
    except OSError:
        return []
    ranges = [span.split("-") for span, modes, _, _, inode, *_ in mapped if modes.endswith("p") and inode != "0"]
    return [(int(start, 16), int(end, 16)) for start, end in ranges]


def _is_clean(start: int, end: int, files: list[tuple[int, int]]) -> bool:
    """Whether pages belong to such a mapping and none was copied by a write."""
    if not any(low <= start and end <= high for low, high in files):
        return False
    try:
        with Path("/proc/self/pagemap").open("rb") as pages:
            pages.seek(start // _PAGE * 8)
            found = pages.read((end - start) // _PAGE * 8)
    except OSError:
        return False
    if len(found) < (end - start) // _PAGE * 8:
        return False
    flags = torch.frombuffer(bytearray(found), dtype=torch.int64)
    # Bits 63 and 62: in memory, or swapped out; bit 61: a file's own. A page without these bits was never read.
    return bool((((flags >> 61) & 1 == 1) | ((flags >> 62) & 3 == 0)).all())
