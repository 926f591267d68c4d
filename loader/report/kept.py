"""The inputs and outputs that jobs keep, and how far the outputs of two jobs are apart.

Guarantees: files are parsed as data, without torch; one that is damaged, or not a regular file, is refused. Outputs are
compared only where the inputs are equal; inputs of two floating dtypes are equal if only their rounding differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..formats.safetensors import SafeTensors
from ..formats.tree import TensorEntry
from ..text.wording import safe_text

KEPT = "outputs.safetensors"
"""The name of the file in a run's folder."""

Array = np.ndarray[Any, Any]

_STORED = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "complex64": "<c8", "bool": "?",
    "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "<i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "<u1",
}  # fmt: skip
"""numpy's dtype of a tensor's bytes; bfloat16, which numpy lacks, is read as the upper half of float32."""

_ROUNDING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""The relative distance of two neighboring numbers."""
_TINY = 2.0**-24
"""The smallest number of float16: values near it round to it or to zero."""


@dataclass(frozen=True, slots=True)
class Values:
    """One tensor."""

    dtype: str
    """torch's name of its dtype."""
    array: Array
    """Its values, in a dtype of numpy's that holds them exactly."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The tensors of one forward pass, by name."""

    inputs: Mapping[str, Values]
    outputs: Mapping[str, Values]


def read_kept(path: Path) -> Kept:
    """Reads what a job kept.

    Raises:
        CheckpointError: The file is missing, damaged, or has a tensor that cannot be compared.
    """
    tensors = read_tensors(path)
    inputs = {name: values for name, values in tensors.items() if _is_input(name)}
    return Kept(inputs, {name: values for name, values in tensors.items() if name not in inputs})


def _is_input(name: str) -> bool:
    """Whether the first of the two words in a name, after that of a part, is ``input``."""
    return next((segment == "input" for segment in name.split(".") if segment in ("input", "output")), False)


def read_tensors(path: Path) -> dict[str, Values]:
    """Reads every tensor of a safetensors file.

    Raises:
        CheckpointError: The file is missing, damaged, or has a tensor of a dtype that numpy lacks.
    """
    file = CheckpointFile(path)
    with SafeTensors(file, "structure") as opened:
        return {name: _values(file, name, entry) for name, entry in opened.root.children.items()}


def _values(file: CheckpointFile, name: str, entry: object) -> Values:
    if not isinstance(entry, TensorEntry) or entry.dtype not in _STORED or entry.storage is None:
        raise CheckpointError(f"tensor '{safe_text(name)}' of {safe_text(file.path)} has a dtype that numpy lacks")
    raw = file.pread(entry.storage.offset, entry.storage.nbytes)
    array = np.frombuffer(raw, _STORED[entry.dtype])
    if entry.dtype == "bfloat16":
        array = (array.astype("<u4") << 16).view("<f4")
    return Values(entry.dtype, array.reshape(entry.shape))


def same_inputs(one: Kept, other: Kept) -> bool:
    """Returns whether two jobs saw the same inputs, up to the rounding of their dtypes; False if there are none."""
    return (
        bool(one.inputs)
        and one.inputs.keys() == other.inputs.keys()
        and all(_same(values, other.inputs[name]) for name, values in one.inputs.items())
    )


def _same(one: Values, other: Values) -> bool:
    if one.array.shape != other.array.shape:
        return False
    if one.dtype == other.dtype or not {one.dtype, other.dtype} <= _ROUNDING.keys():
        return one.dtype == other.dtype and one.array.tobytes() == other.array.tobytes()
    coarse = max(_ROUNDING[one.dtype], _ROUNDING[other.dtype])
    left, right = one.array.astype("f8"), other.array.astype("f8")
    with np.errstate(all="ignore"):
        near = np.abs(left - right) <= coarse * np.maximum(np.abs(left), np.abs(right)) + _TINY
    return bool((near | (left == right) | (np.isnan(left) & np.isnan(right))).all())


def difference(one: Kept, other: Kept) -> float | None:
    """Returns the largest absolute difference between the outputs of two jobs.

    Returns:
        Infinity if one has NaN or infinity and the other not the same; None if the outputs or the inputs do not
        correspond.
    """
    if not same_inputs(one, other) or one.outputs.keys() != other.outputs.keys() or not one.outputs:
        return None
    found = [_difference(values.array, other.outputs[name].array) for name, values in one.outputs.items()]
    return None if None in found else max(filter(None, found), default=0.0)


def _difference(one: Array, other: Array) -> float | None:
    if one.shape != other.shape:
        return None
    wide = "c16" if "c" in (one.dtype.kind, other.dtype.kind) else "f8"
    left, right = one.astype(wide), other.astype(wide)
    with np.errstate(all="ignore"):
        apart = np.abs(left - right)
    apart[(left == right) | (np.isnan(left) & np.isnan(right))] = 0.0
    largest = float(apart.max(initial=0.0))
    return largest if math.isfinite(largest) else math.inf
