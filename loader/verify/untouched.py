"""Leaves a model as it was, whatever the code that runs it does.

Guarantees: what is small enough is restored. A write to a parameter that is too large to be kept is detected, even past
torch's version counter: pages that the system reports as unmodified pages of a file are not read, all other memory is
summed by rows and by columns; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch
from torch import nn

from ..apply.snapshot import Snapshot
from ..errors import VerificationError
from ..formats.tensor import is_plain
from ..text.lines import Fix
from ..text.wording import listing

_PAGE: Final = 4096
_ROW: Final = 4096
"""Words per row. Sums of rows detect changed values, sums of columns detect values that moved within a row."""


@contextmanager
def left_alone(module: nn.Module, doing: str, fix: Fix) -> Iterator[Snapshot]:
    """Yields a snapshot of a module and restores it after the block.

    Args:
        module: The model that the block runs.
        doing: What the block does, for the message.
        fix: What to type if it cannot be restored.

    Raises:
        VerificationError: The block wrote to parameters that are too large to back up.
    """
    before = Snapshot(module)
    large = Untouched(before.spared)
    try:
        yield before
    finally:
        before.restore()
    written = {id(tensor) for tensor in large.written()}
    if written:
        changed = [key for key, parameter in module.named_parameters() if id(parameter) in written]
        raise VerificationError(
            f"{doing} writes to {listing(changed)}, parameters that it should only read, and that are too large to "
            "back up",
            fix,
        )


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
