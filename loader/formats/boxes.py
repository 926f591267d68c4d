"""Views and joins of tensors, as entries: which elements of the sources make which element of the result.

Guarantees: pure functions of shapes and strides; reads no data and needs no torch. A view of a tensor whose elements
lie in one storage is a strided view of that storage, so that reading it copies nothing; any other is a view of the
compact elements of what is made first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from .tree import ITEMSIZE, Details, Piece, Storage, TensorEntry, contiguous

if TYPE_CHECKING:
    from ..files.file import CheckpointFile

if TYPE_CHECKING:
    from .formulas.records import Formula


def is_movable(entry: TensorEntry) -> bool:
    """Whether the elements of an entry can be moved: it is dense, and has data."""
    return entry.layout == "strided" and not entry.is_without_data


def grounded(entry: TensorEntry) -> TensorEntry:
    """Returns an entry over a single storage: itself, or a view of its compact elements."""
    if entry.storage is not None and not entry.components and not entry.pieces:
        details = entry.details
        if details.pickled is None and not details.key:
            return entry
        return dataclasses.replace(entry, details=Details(bits=details.bits))
    made = Storage("", 0, entry.nbytes, made=entry)
    return TensorEntry(entry.dtype, entry.shape, contiguous(entry.shape), storage=made, location=entry.location)


def _strided(entry: TensorEntry, shape: Sequence[int], stride: Sequence[int], more: int = 0) -> TensorEntry:
    # A grounded entry has nothing else; `dataclasses.replace` takes several times as long.
    return TensorEntry(
        entry.dtype,
        tuple(shape),
        tuple(stride),
        entry.offset + more,
        entry.storage,
        entry.location,
        details=entry.details,
    )


def narrowed(entry: TensorEntry, dim: int, start: int, length: int, step: int = 1) -> TensorEntry:
    """Returns a number of indices of one dim from a start on; a step of 0 repeats the first."""
    entry = grounded(entry)
    shape = (*entry.shape[:dim], length, *entry.shape[dim + 1 :])
    stride = (*entry.stride[:dim], step * entry.stride[dim], *entry.stride[dim + 1 :])
    return _strided(entry, shape, stride, start * entry.stride[dim])


def indexed(entry: TensorEntry, dim: int, index: int) -> TensorEntry:
    """Returns one index of a dim, which is removed."""
    entry = grounded(entry)
    without = [at for at in range(len(entry.shape)) if at != dim]
    shape, stride = [entry.shape[at] for at in without], [entry.stride[at] for at in without]
    return _strided(entry, shape, stride, index * entry.stride[dim])


def unflattened(entry: TensorEntry, dim: int, sizes: Sequence[int]) -> TensorEntry:
    """Cuts one dim into several, the last one running fastest; the sizes multiply to its size."""
    entry = grounded(entry)
    steps = [entry.stride[dim] * step for step in contiguous(tuple(sizes))]
    shape = (*entry.shape[:dim], *sizes, *entry.shape[dim + 1 :])
    return _strided(entry, shape, (*entry.stride[:dim], *steps, *entry.stride[dim + 1 :]))


def permuted(entry: TensorEntry, dims: Sequence[int]) -> TensorEntry:
    """Returns the dims in another order."""
    entry = grounded(entry)
    return _strided(entry, [entry.shape[dim] for dim in dims], [entry.stride[dim] for dim in dims])


def repeated(entry: TensorEntry, dim: int, times: int) -> TensorEntry:
    """Puts a new dim in front of one, along which the values repeat."""
    entry = grounded(entry)
    shape = (*entry.shape[:dim], times, *entry.shape[dim:])
    return _strided(entry, shape, (*entry.stride[:dim], 0, *entry.stride[dim:]))


def reshaped(entry: TensorEntry, shape: Sequence[int]) -> TensorEntry:
    """Returns the same elements, in order, in another shape: a view where the strides allow it."""
    shape = tuple(shape)
    if shape == entry.shape:
        return entry
    entry = grounded(entry)
    stride = _stride_of(entry, shape)
    if stride is not None:
        return _strided(entry, shape, stride)
    piece = Piece(entry, (0,) * len(entry.shape))
    return TensorEntry(entry.dtype, shape, contiguous(shape), location=entry.location, pieces=(piece,))


def _stride_of(entry: TensorEntry, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides of a view in another shape, as torch computes them; None where the elements must be copied."""
    if 0 in entry.shape:
        return contiguous(shape)
    runs: list[tuple[int, int]] = []  # dims that are one run of evenly spaced elements: (size, stride)
    for size, step in zip(entry.shape, entry.stride, strict=True):
        if size == 1:
            continue
        if runs and runs[-1][1] == size * step:
            runs[-1] = (runs[-1][0] * size, step)
        else:
            runs.append((size, step))
    stride: list[int] = []
    left, at = 1, len(runs)
    step = 1
    for size in reversed(shape):
        if left == 1 and size != 1:
            at -= 1
            if at < 0:
                return None
            left, step = runs[at]
        if size != 1 and left % size:
            return None
        stride.append(step)
        left, step = (left // size, step * size) if size != 1 else (left, step)
    return tuple(reversed(stride))


def joined(entries: Sequence[TensorEntry], dim: int) -> TensorEntry:
    """Joins tensors along a dim; they agree in dtype and in every other size."""
    first, pieces, end = entries[0], [], 0
    for entry in entries:
        pieces.append(Piece(entry, tuple(end if at == dim else 0 for at in range(len(first.shape)))))
        end += entry.shape[dim]
    shape = (*first.shape[:dim], end, *first.shape[dim + 1 :])
    full = [piece for piece in pieces if piece.entry.numel]
    return _of_pieces(first, shape, full)


def stacked(entries: Sequence[TensorEntry], dim: int) -> TensorEntry:
    """Stacks tensors of one dtype and shape along a new dim."""
    return joined([reshaped(one, (*one.shape[:dim], 1, *one.shape[dim:])) for one in entries], dim)


def _of_pieces(like: TensorEntry, shape: tuple[int, ...], pieces: Sequence[Piece]) -> TensorEntry:
    if not pieces:  # no elements
        return TensorEntry(like.dtype, shape, contiguous(shape), storage=Storage("", 0, 0, data=b""))
    return TensorEntry(like.dtype, shape, contiguous(shape), location=like.location, pieces=tuple(pieces))


def extent(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Returns the number of elements from the first to the last one of a view."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def mapped(entry: TensorEntry) -> Iterator[tuple[CheckpointFile, int, int]]:
    """Yields the runs of bytes that reading an entry maps: the file, the offset and the length of each."""
    for leaf in leaves(entry):
        storage, width = leaf.storage, ITEMSIZE[leaf.dtype]
        if storage is not None and storage.file is not None and storage.packed is None:
            yield storage.file, storage.offset + leaf.offset * width, extent(leaf.shape, leaf.stride) * width


def leaves(entry: TensorEntry) -> Iterator[TensorEntry]:
    """Yields the tensors that an entry is made of: those that lie in one place and are made of no others."""
    storage = entry.storage
    if storage is not None and storage.made is not None:
        yield from leaves(storage.made)
    elif entry.components or entry.pieces or entry.inputs:
        for one in (*entry.components.values(), *(piece.entry for piece in entry.pieces), *entry.inputs):
            yield from leaves(one)
    else:
        yield entry


def computed(
    formula: Formula, inputs: Sequence[TensorEntry], shape: Sequence[int], dtype: str | None = None
) -> TensorEntry:
    """Returns what a formula makes of tensors.

    Args:
        formula: The formula.
        inputs: Its inputs, in order.
        shape: Its shape.
        dtype: The dtype that the inputs suggest; that of the first if not given.
    """
    shape, first = tuple(shape), inputs[0]
    return TensorEntry(
        dtype or first.dtype,
        shape,
        contiguous(shape),
        location=first.location,
        formula=formula,
        inputs=tuple(inputs),
    )


def rebuilt(entry: TensorEntry, leaf: Callable[[TensorEntry], TensorEntry]) -> TensorEntry:
    """Rebuilds an entry with other tensors at its leaves: those that lie in one place and are made of no others."""
    storage = entry.storage
    if storage is not None and storage.made is not None:
        return dataclasses.replace(entry, storage=dataclasses.replace(storage, made=rebuilt(storage.made, leaf)))
    if not (entry.components or entry.pieces or entry.inputs):
        return leaf(entry)
    return dataclasses.replace(
        entry,
        components={role: rebuilt(part, leaf) for role, part in entry.components.items()},
        pieces=tuple(Piece(rebuilt(piece.entry, leaf), piece.start) for piece in entry.pieces),
        inputs=tuple(rebuilt(one, leaf) for one in entry.inputs),
    )
