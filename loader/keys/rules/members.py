"""The members of a group that a dequantizer joins: checked, and put together.

Guarantees: pure; a refusal names every member with its shape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ...formats.boxes import is_movable
from ...formats.formulas.schemes import Dequantized
from ...formats.tree import TensorEntry, contiguous
from ...text.wording import shape as shape_text
from .tensors import Unfit

FLOATS = ("float16", "bfloat16", "float32", "float64")


def made(dtype: str, shape: tuple[int, ...], formula: Dequantized, inputs: Sequence[TensorEntry]) -> TensorEntry:
    """Returns the entry that a formula makes of its inputs."""
    where = inputs[0].location
    return TensorEntry(dtype, shape, contiguous(shape), location=where, formula=formula, inputs=tuple(inputs))


def check(members: Mapping[str, TensorEntry], dtypes: Mapping[str, Sequence[str]]) -> None:
    """Raises Unfit if a member is not a dense tensor, or not of one of the dtypes of its role."""
    faults = []
    for role, entry in members.items():
        if not is_movable(entry):
            faults.append(f"{_said(role, entry)} is {entry.layout} or without data, expected a dense tensor")
        elif entry.dtype not in dtypes.get(role, (entry.dtype,)):
            faults.append(f"{_said(role, entry)} is {entry.dtype}, expected {' or '.join(dtypes[role])}")
    if faults:
        raise Unfit(faults)


def differ(members: Mapping[str, TensorEntry], expected: str) -> Unfit:
    """Returns the refusal of shapes that contradict each other."""
    return Unfit([f"{', '.join(_said(role, entry) for role, entry in members.items())}: expected {expected}"])


def _said(role: str, entry: TensorEntry) -> str:
    return f"{role} {shape_text(entry.shape)}"
