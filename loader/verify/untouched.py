"""Whether tensors that are too large to be kept were written to.

Guarantees: a write is seen whichever way it goes, past torch's version counter too: memory that the system shows to be
a file's own pages is not looked at, all other memory is summed up, by rows and by columns. Nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import torch

from ..formats.tensor import is_plain

_PAGE: Final = 4096
_ROW: Final = 4096
"""Words per row. Sums of rows see what changes, sums of columns see what changes places in a row."""


class Untouched:
    """What some tensors hold at one moment, without a copy of it."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        chosen = list(tensors)
        files = _private_files() if chosen else []
        self._seen = [(tensor, _version(tensor), _evidence(tensor, files)) for tensor in chosen]

    def written(self) -> list[torch.Tensor]:
        """The tensors that were written to since."""
        files = _private_files() if self._seen else []
        return [
            tensor
            for tensor, version, evidence in self._seen
            if _version(tensor) != version or not _are_equal(_evidence(tensor, files), evidence)
        ]


def _version(tensor: torch.Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _evidence(tensor: torch.Tensor, files: list[tuple[int, int]]) -> list[torch.Tensor]:
    """What stays the same as long as a tensor's memory does: its ends as they are, and sums of what is between."""
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
    """The bytes from the first element of a tensor to its last one."""
    width = tensor.element_size()
    last = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
    empty = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    start = int(tensor.storage_offset()) * width
    return empty.set_(tensor.untyped_storage(), start, ((int(last) + 1) * width,), (1,))


def _private_files() -> list[tuple[int, int]]:
    """Where files are mapped into this process for it alone; empty where the system does not say."""
    try:
        mapped = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text(errors="replace").splitlines()]
    except OSError:
        return []
    ranges = [span.split("-") for span, modes, _, _, inode, *_ in mapped if modes.endswith("p") and inode != "0"]
    return [(int(start, 16), int(end, 16)) for start, end in ranges]


def _is_clean(start: int, end: int, files: list[tuple[int, int]]) -> bool:
    """Whether a run of pages belongs to such a file, and none of them was copied by a write."""
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
    # Bits 63 and 62: in memory, or swapped out; bit 61: a file's own. A page that is none of these was never looked at.
    return bool((((flags >> 61) & 1 == 1) | ((flags >> 62) & 3 == 0)).all())
