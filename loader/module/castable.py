"""Which dtypes torch can cast, and which it only holds.

Guarantees: asks the torch that is installed; no data is needed.
"""

from __future__ import annotations

import functools
import warnings

import torch


@functools.cache
def can_cast(source: torch.dtype, target: torch.dtype) -> bool:
    """Whether torch makes one dtype's numbers another's; packed and opaque ones (float4, bits8) stay as they are."""
    if source == target:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a cast loses is reported where real numbers are cast
        try:
            torch.zeros(16, dtype=torch.uint8).view(source).to(target)
        except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
            return False
    return True
