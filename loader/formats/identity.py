"""The identity of weights: a fingerprint that is equal wherever and in whatever container they are.

A tensor's hash is the XXH3-128 of its bytes: compact, little-endian, as the file holds them. The fingerprint is the
XXH3-128 of one line for each key, sorted: the JSON list of key, dtype, shape and hash, followed by a line feed. The
hash of a sparse or quantized tensor is the XXH3-128 of such lines for its components, whose keys are the layout's name.

Guarantees: equal keys, dtypes, shapes and values give equal fingerprints. Bytes that lie compact in a file are read
past any mapping and in pieces, so that memory stays flat, and without torch. It identifies weights; it authenticates
nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xxhash

from .opened import Checkpoint
from .tree import ITEMSIZE, TensorEntry, contiguous

if TYPE_CHECKING:
    import torch

    from ..files.file import CheckpointFile

DIGITS = 32
"""Hexadecimal digits of a fingerprint."""
_PIECE = 1 << 20
"""Bytes read at once: still in the processor's cache when they are hashed. A multiple of every element size."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the fingerprint says of one tensor."""

    key: str
    dtype: str
    """torch's name."""
    shape: tuple[int, ...]
    hash: str
    """Of its bytes."""

    def encoded(self) -> bytes:
        """The line as it is hashed."""
        row = [self.key, self.dtype, [*self.shape], self.hash]
        return f"{json.dumps(row, separators=(',', ':'))}\n".encode("ascii")


def fingerprint(lines: Iterable[Line]) -> str | None:
    """Returns the identity of tensors, as 32 hexadecimal digits; None if there are none.

    Args:
        lines: One for each key.
    """
    ordered = sorted(lines, key=lambda line: line.key)
    return _hash_of(ordered) if ordered else None


def _hash_of(lines: Iterable[Line]) -> str:
    digest = xxhash.xxh3_128()
    for line in lines:
        digest.update(line.encoded())
    return digest.hexdigest()


def line_of(key: str, checkpoint: Checkpoint, entry: TensorEntry) -> Line:
    """Reads one tensor of a checkpoint for its line.

    Raises:
        CheckpointError: It cannot be read, or its bytes contradict its layout.
    """
    place = compact(checkpoint.located(entry))
    if place is None:
        return line_of_value(key, checkpoint.read(entry, mmap=False))
    digest = xxhash.xxh3_128()
    for piece in pieces(*place, entry.nbytes):
        digest.update(piece)
    return Line(key, entry.dtype, entry.shape, digest.hexdigest())


def line_of_value(key: str, value: torch.Tensor) -> Line:
    """Returns the line of a tensor in memory."""
    from .elements import components, raw  # noqa: PLC0415  # a file's own bytes need no torch
    from .tensor import dtype_name  # noqa: PLC0415  # likewise

    layout = str(value.layout).removeprefix("torch.")
    parts = [Line("", dtype_name(part.dtype), tuple(part.shape), _hash(raw(part))) for part in components(value)]
    if layout == "strided" and not value.is_quantized and not value.is_nested:
        found = parts[0].hash
    else:
        name = "quantized" if value.is_quantized else "nested" if value.is_nested else layout
        found = _hash_of(Line(name, part.dtype, part.shape, part.hash) for part in parts)
    return Line(key, dtype_name(value.dtype), _shape(value), found)


def _shape(value: torch.Tensor) -> tuple[int, ...]:
    return () if value.is_nested else tuple(value.shape)  # the shapes of a nested tensor's parts are in its hash


def _hash(content: memoryview) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def compact(entry: TensorEntry) -> tuple[CheckpointFile, int] | None:
    """Returns the file in which an entry's bytes lie as they are hashed, and their offset; None if they do not.

    Args:
        entry: As `Checkpoint.located` returns it.
    """
    if len(entry.pieces) == 1 and entry.pieces[0].entry.numel == entry.numel:
        return compact(entry.pieces[0].entry)
    storage, width = entry.storage, ITEMSIZE[entry.dtype]
    if storage is None or storage.file is None or entry.layout != "strided" or entry.components or entry.pieces:
        return None
    elsewhere = storage.packed is not None or storage.data is not None or storage.memory is not None
    swapped = width > 1 and (storage.big_endian or sys.byteorder == "big")
    if elsewhere or swapped or entry.details.bits is not None or entry.stride != contiguous(entry.shape):
        return None
    return storage.file, storage.offset + entry.offset * width


def pieces(file: CheckpointFile, offset: int, nbytes: int) -> Iterator[memoryview]:
    """Reads bytes of a file piece by piece; each is valid until the next one is taken.

    Raises:
        CheckpointError: The file cannot be read, or ends before them.
    """
    memory = memoryview(bytearray(min(_PIECE, nbytes)))
    for start in range(0, nbytes, _PIECE):
        piece = memory[: min(_PIECE, nbytes - start)]
        file.fill(piece, offset + start)
        yield piece
