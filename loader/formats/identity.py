"""The identity of weights: a fingerprint that is equal wherever and in whatever container they are.

A tensor's hash is the XXH3-128 of its bytes: compact, little-endian, as the file holds them. The fingerprint is the
XXH3-128 of one line for each key, sorted: the JSON list of key, dtype, shape and hash, followed by a line feed. The
hash of a sparse or quantized tensor is the XXH3-128 of such lines for its components, whose keys are the layout's name.

A tensor that rules or adapters made counts by its values, rounded to the dtype that its sources suggest: it is the same
as in a file that holds these values. Only where a formula gives other bits on other machines, such as a product of
matrices, it counts by its recipe: the XXH3-128 of such lines for what it is made of, whose keys are the JSON of how:
the formula and its numbers, where a piece starts, or the offset and strides of a view.

Guarantees: equal keys, dtypes, shapes and values give equal fingerprints. Bytes that lie compact in a file are read
past any mapping and in pieces, so that memory stays flat, and without torch. It identifies weights; it authenticates
nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import xxhash

from ..errors import located
from ..text.progress import progress
from .opened import Checkpoint
from .tree import ITEMSIZE, TensorEntry, contiguous

if TYPE_CHECKING:
    import torch

    from ..files.file import CheckpointFile

DIGITS = 32
"""Hexadecimal digits of a fingerprint."""
_PIECE = 1 << 20
"""Bytes read at once: still in the processor's cache when they are hashed. A multiple of every element size."""

BATCH = 2 << 20
"""Bytes of small tensors that are handed to a thread together."""
_WORKERS = 2
"""Two cores hash about as fast as memory delivers."""
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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


def lines_of(checkpoint: Checkpoint, entries: Mapping[str, TensorEntry], label: str) -> list[Line]:
    """Reads tensors of a checkpoint for their lines.

    Args:
        checkpoint: The opened checkpoint.
        entries: Its tensors by key.
        label: The file, for messages.

    Raises:
        CheckpointError: One cannot be read, or its bytes contradict its layout.
    """

    def read(batch: Sequence[tuple[str, TensorEntry]]) -> Iterator[Line]:
        for key, entry in batch:
            with located(label, key):
                yield line_of(key, checkpoint, entry)

    return in_batches(list(entries.items()), lambda item: item[1].nbytes, read, "fingerprint")


def in_batches(
    items: Sequence[_Item],
    nbytes: Callable[[_Item], int],
    work: Callable[[Sequence[_Item]], Iterable[_Result]],
    what: str,
) -> list[_Result]:
    """Works on items, large ones by themselves and small ones together, in two threads.

    Args:
        items: What to work on.
        nbytes: The bytes that an item takes.
        work: Works on a batch; called in any thread.
        what: The name of this work, for its progress.

    Returns:
        The results of all batches, in order.
    """
    batches = list(_batches(items, nbytes))
    if len(batches) < 2:
        return [result for batch in batches for result in work(batch)]
    found: list[_Result] = []
    total = sum(map(nbytes, items))
    with progress(what, total=total, unit="B") as shown, ThreadPoolExecutor(_WORKERS) as pool:
        for batch, results in zip(batches, pool.map(lambda batch: list(work(batch)), batches), strict=True):
            found += results
            shown.advance(sum(map(nbytes, batch)))
    return found


def _batches(items: Iterable[_Item], nbytes: Callable[[_Item], int]) -> Iterator[list[_Item]]:
    batch: list[_Item] = []
    waiting = 0
    for item in items:
        batch.append(item)
        waiting += nbytes(item)
        if waiting >= BATCH:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def line_of(key: str, checkpoint: Checkpoint, entry: TensorEntry) -> Line:
    """Reads one tensor of a checkpoint for its line.

    Raises:
        CheckpointError: It cannot be read, or its bytes contradict its layout.
    """
    if not is_exact(entry):
        return _by_recipe(key, checkpoint, entry)
    place = compact(checkpoint.located(entry))
    if place is None:
        return line_of_value(key, _nominal(checkpoint.read(entry, mmap=False), entry))
    digest = xxhash.xxh3_128()
    for piece in pieces(*place, entry.nbytes):
        digest.update(piece)
    return Line(key, entry.dtype, entry.shape, digest.hexdigest())


def line_of_read(key: str, checkpoint: Checkpoint, entry: TensorEntry, value: torch.Tensor) -> Line:
    """Returns the line of a tensor whose values were read already."""
    return line_of_value(key, _nominal(value, entry)) if is_exact(entry) else _by_recipe(key, checkpoint, entry)


def is_exact(entry: TensorEntry) -> bool:
    """Whether the values of an entry are the same on every machine."""
    return (entry.formula is None or entry.formula.exact) and all(is_exact(part) for _, part in _made_of(entry))


def _made_of(entry: TensorEntry) -> Iterator[tuple[object, TensorEntry]]:
    """Yields the entries that an entry is made of, each with how it is."""
    if entry.storage is not None and entry.storage.made is not None:
        yield ["view", entry.offset, entry.stride], entry.storage.made
    for piece in entry.pieces:
        yield ["piece", piece.start], piece.entry
    for one in entry.inputs:
        yield ["input", repr(entry.formula)], one


def _by_recipe(key: str, checkpoint: Checkpoint, entry: TensorEntry) -> Line:
    parts = (line_of(json.dumps(how), checkpoint, part) for how, part in _made_of(entry))
    return Line(key, entry.dtype, entry.shape, _hash_of(parts))


def _nominal(value: torch.Tensor, entry: TensorEntry) -> torch.Tensor:
    """The values that arithmetic made, in the dtype of their entry; any other tensor as it is."""
    if not entry.is_computed:
        return value
    from .tensor import torch_dtype  # noqa: PLC0415  # a file's own bytes need no torch

    return value.to(torch_dtype(entry))


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
    elsewhere = any(place is not None for place in (storage.packed, storage.data, storage.memory, storage.fetch))
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
