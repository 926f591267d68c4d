"""Where DeepSpeed's ZeRO leaves each parameter: the arithmetic of its partitions.

Guarantees: pure functions of names, shapes and flat tensors. Every element of a parameter comes from exactly one place;
a layout whose numbers do not add up is refused before anything is read.

Stages 1 and 2 flatten a group of parameters into one vector and cut that among the processes. Stage 3 cuts every
parameter by itself, the last process's share padded, and each process flattens its shares into vectors of its own.
"""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from ...errors import CheckpointError
from ...text.wording import safe_text
from ..tree import Piece, TensorEntry, assembled

Shapes = Mapping[str, tuple[int, ...]]
_AGAIN = "copy or download the whole folder again; files of two saves may also be mixed in it"


class Vector:
    """Flat tensors one after the other, as one."""

    def __init__(self, parts: Sequence[TensorEntry]) -> None:
        self.parts = parts
        self.ends = list(itertools.accumulate(part.numel for part in parts))
        self.length = self.ends[-1] if parts else 0

    def run(self, start: int, length: int) -> Iterator[TensorEntry]:
        """The elements from `start` on, from as many of the parts as they lie in."""
        at = bisect_right(self.ends, start)
        while length > 0:
            part, begin = self.parts[at], start - (self.ends[at - 1] if at else 0)
            taken = min(length, part.numel - begin)
            if taken:
                yield dataclasses.replace(part, shape=(taken,), stride=(1,), offset=part.offset + begin)
            start, length, at = start + taken, length - taken, at + 1


def put_together(name: str, shape: tuple[int, ...], runs: Sequence[TensorEntry]) -> TensorEntry:
    """A parameter whose flattened elements are these runs in a row; more than it needs is padding."""
    wanted, at, pieces = count(shape), 0, []
    for run in runs:
        taken = min(run.numel, wanted - at)
        if taken:
            pieces.append(Piece(dataclasses.replace(run, shape=(taken,)), (at,)))
        at += taken
    dtypes = {run.dtype for run in runs}
    if at != wanted or len(dtypes) > 1:
        raise CheckpointError(
            f"the pieces of '{safe_text(name)}' hold {at:,} of its {safe_text(wanted)} elements, as "
            f"{' and '.join(sorted(dtypes)) or 'nothing'}",
            _AGAIN,
        )
    return assembled(name, runs[0].dtype if runs else "float32", shape, pieces)


def cut_by_group(
    groups: Sequence[Shapes],
    ranks: Sequence[Sequence[TensorEntry]],
    paddings: Sequence[Sequence[int]] | None,
    where: str,
) -> dict[str, TensorEntry]:
    """Parameters of stages 1 and 2.

    Args:
        groups: Name → shape, by parameter group.
        ranks: Each process's partition of every group.
        paddings: Elements of padding after each parameter, by group, where the parameters were aligned.
        where: The folder, for messages.
    """
    found: dict[str, TensorEntry] = {}
    for number, shapes in enumerate(groups):
        vector, at = Vector([rank[number] for rank in ranks]), 0
        gaps = paddings[number] if paddings is not None else [0] * len(shapes)
        if len(gaps) != len(shapes):
            raise _contradiction(where, f"{len(shapes):,} parameters in group {number}", f"{len(gaps):,} paddings")
        for (name, shape), gap in zip(shapes.items(), gaps, strict=True):
            length = count(shape)
            if at + length > vector.length:
                raise _too_short(where, at + length, vector.length)
            _add(found, name, put_together(name, shape, list(vector.run(at, length))), where)
            at += length + gap
        # The vector is padded for the processes' communication, by how much is not written down.
        step = 2 * len(ranks)
        if -(-at // step) != -(-vector.length // step):
            raise _too_short(where, at, vector.length)
    return found


def cut_by_parameter(shapes: Shapes, ranks: Sequence[Sequence[TensorEntry]], where: str) -> dict[str, TensorEntry]:
    """Parameters of stage 3.

    Args:
        shapes: Name → shape, in the order in which they were flattened.
        ranks: Each process's flat tensors.
        where: The folder, for messages.
    """
    vectors = [Vector(parts) for parts in ranks]
    shortest, longest = min(v.length for v in vectors), max(v.length for v in vectors)
    found: dict[str, TensorEntry] = {}
    at = 0
    for name, shape in shapes.items():
        share = -(-count(shape) // len(ranks))
        if at + share > shortest:
            raise _too_short(where, at + share, shortest)
        runs = [run for vector in vectors for run in vector.run(at, share)]
        _add(found, name, put_together(name, shape, runs), where)
        at += share
    if at != longest:
        raise _too_short(where, at, longest)
    return found


def count(shape: Sequence[int]) -> int:
    """Elements of a shape."""
    product = 1
    for dimension in shape:
        product *= dimension
    return product


def _add(found: dict[str, TensorEntry], name: str, entry: TensorEntry, where: str) -> None:
    if name in found:
        raise CheckpointError(f"{where} names the parameter '{safe_text(name)}' twice", _AGAIN)
    found[name] = entry


def _too_short(where: str, needed: int, there: int) -> CheckpointError:
    return _contradiction(where, f"parameters of {safe_text(needed)} elements", f"{there:,} elements per vector")


def _contradiction(where: str, declared: str, there: str) -> CheckpointError:
    return CheckpointError(f"{where} contradicts itself: it declares {declared} and holds {there}", _AGAIN)
