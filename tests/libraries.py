"""Libraries that some tests stand on and that need not be installed."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import pytest
import torch

_OPERATORS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)


def library(name: str) -> ModuleType:
    """Imports a library, or skips the test where it is not installed."""
    try:
        return pytest.importorskip(name, exc_type=ImportError)
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    _declare_operators()
    return importlib.import_module(name)


@functools.cache
def _declare_operators() -> torch.library.Library:
    """Declares what torchvision names when it is imported, where its compiled half belongs to another torch."""
    operators = torch.library.Library("torchvision", "DEF")
    for signature in _OPERATORS:
        operators.define(signature)
        operators.define(f"q{signature}")
    return operators
