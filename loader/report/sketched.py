"""How far the weights of two jobs are from each other, module by module, out of what the jobs kept.

Guarantees: files are parsed as data, without torch. A distance is exact where both jobs kept all elements of a module;
otherwise it is an estimate, and says so. Modules that the jobs kept differently are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .kept import Array, read_tensors

SKETCHED = "weights.sketch.safetensors"
"""The name of the file in a run's folder."""

BUCKETS = 4093
"""Sums per module; a prime, so that elements at equal distances are spread over all of them."""

EXACT, SKETCH = "exact:", "sketch:"
"""Before a module's name: all elements, or sums of them."""


@dataclass(frozen=True, slots=True)
class Weights:
    """What one job kept of its weights."""

    vectors: Mapping[str, Array]
    """By name, with `EXACT` or `SKETCH` before the module's."""

    @property
    def estimated(self) -> bool:
        """Whether a distance is an estimate."""
        return any(name.startswith(SKETCH) for name in self.vectors)


@dataclass(frozen=True, slots=True)
class Apart:
    """How far one module is from that of the reference, as squares, which add up over modules."""

    distance: float
    """Squared Euclidean distance."""
    norm: float
    """Squared Euclidean norm of the reference."""

    @property
    def relative(self) -> float:
        """The distance in units of the reference's norm; infinity if it is not a number."""
        if self.distance == 0:
            return 0.0
        found = math.sqrt(self.distance / self.norm) if self.norm > 0 else math.inf
        return found if math.isfinite(found) else math.inf


def read_weights(path: Path) -> Weights:
    """Reads what a job kept of its weights.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    return Weights({name: values.array.reshape(-1) for name, values in read_tensors(path).items()})


def drift(reference: Weights, other: Weights) -> dict[str, Apart]:
    """Returns how far each module is from the reference's, by its name."""
    found = {}
    for name, ours in reference.vectors.items():
        theirs = other.vectors.get(name)
        if theirs is None or theirs.shape != ours.shape:
            continue
        with np.errstate(all="ignore"):
            apart = float(((theirs.astype("f8") - ours) ** 2).sum())
            norm = float((ours.astype("f8") ** 2).sum())
        same = theirs.tobytes() == ours.tobytes()
        found[name.partition(":")[2]] = Apart(0.0 if same else apart, norm)
    return found
