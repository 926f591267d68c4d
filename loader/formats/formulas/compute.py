"""Carries out formulas.

Guarantees: each function takes its inputs lazily, one `Callable` each, so that a long list of them never is in memory
at once; it returns values in float32, or float64 where a source is float64, in memory of their own, and leaves its
inputs unchanged, which may be mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from . import adapters, arithmetic, dequantize, packed, resizing
from .additions import Added, Agreeing, Difference, Directed, Merged, Product
from .records import Formula, Reduced, Resized, Scaled, Summed, WeightNormed
from .schemes import Awq, BlockScaled, Bnb4, Bnb8, Gptq, Mxfp4

Inputs = Sequence[Callable[[], torch.Tensor]]
"""Reads the inputs of a formula."""

_HOW: Mapping[type[Formula], Callable[[Any, Inputs], torch.Tensor]] = {
    Added: adapters.added,
    Difference: adapters.difference,
    Agreeing: adapters.agreeing,
    Directed: adapters.directed,
    Merged: adapters.merged,
    Product: adapters.product,
    Reduced: arithmetic.reduced,
    Resized: resizing.resized,
    Scaled: arithmetic.scaled,
    Summed: arithmetic.summed,
    WeightNormed: arithmetic.weight_normed,
    BlockScaled: dequantize.block_scaled,
    Mxfp4: dequantize.mxfp4,
    Bnb4: dequantize.bnb4,
    Bnb8: dequantize.bnb8,
    Gptq: packed.gptq,
    Awq: packed.awq,
}


def compute(formula: Formula, inputs: Inputs) -> torch.Tensor:
    """Computes the values of a formula.

    Args:
        formula: What to compute.
        inputs: Each reads one input.
    """
    return _HOW[type(formula)](formula, inputs)
