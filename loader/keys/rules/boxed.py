"""What the rules that move elements have in common: the faults of one tensor, and runs along a dim.

Guarantees: a fault says what the tensor is and what was expected; it does not name the tensor, which its caller does.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...formats import boxes
from ...formats.limits import MOST_MADE
from ...formats.tree import TensorEntry
from ...text.lines import Fix
from ...text.wording import counted
from .tensors import Mending, Unfit, Unusable

NARROW = Fix(note="narrow the expression to the keys that it is meant for, or drop the others first")


def movable(entry: TensorEntry) -> TensorEntry:
    """Returns an entry whose elements can be moved.

    Raises:
        Unfit: It is sparse or quantized by torch, or has no data.
    """
    if not boxes.is_movable(entry):
        reason = "has no data in the file" if entry.layout == "strided" else f"is {entry.layout}, not a dense tensor"
        raise Unfit([f"{reason}: its elements cannot be moved"], NARROW)
    return entry


def place_of(dim: int, shape: Sequence[int], *, more: int = 0) -> int:
    """Returns the place of a dim, which counts from the end where it is negative.

    Args:
        dim: The dim.
        shape: The shape that has it.
        more: How many dims are to come in addition.

    Raises:
        Unfit: There is no such dim.
    """
    rank = len(shape) + more
    if not -rank <= dim < rank:
        raise Unfit([f"has {counted(len(shape), 'dim')}, none of which is dim {dim}"], Mending("dim", 0))
    return dim % rank


def in_runs(entry: TensorEntry, dim: int, runs: int) -> TensorEntry:
    """Cuts a dim into equal runs, which become a dim in front of it.

    Raises:
        Unfit: It is not divisible.
    """
    if entry.shape[dim] % runs:
        fault = f"is not divisible along dim {dim}: {entry.shape[dim]} into groups: {runs}"
        raise Unfit([fault], Fix(note="groups is the number of heads, or that of the heads of keys and values"))
    return boxes.unflattened(entry, dim, (runs, entry.shape[dim] // runs))


def out_of_runs(entry: TensorEntry, dim: int) -> TensorEntry:
    """Joins a dim of runs with the dim behind it."""
    shape = entry.shape
    return boxes.reshaped(entry, (*shape[:dim], shape[dim] * shape[dim + 1], *shape[dim + 2 :]))


def check_most(made: int) -> None:
    """Raises Unfit if a rule would make more tensors by number than any model has."""
    if made > MOST_MADE:
        raise Unfit([f"it would make {made:,} tensors, expected {MOST_MADE:,} at most"], NARROW)


def check_number(value: int, setting: str, mending: Mending | None = None) -> None:
    """Raises Unusable if a setting is below 1, with what to set instead."""
    if value < 1:
        raise Unusable(f"'{setting}' is {value}, expected a whole number from 1", mending or Mending(setting, 1))
