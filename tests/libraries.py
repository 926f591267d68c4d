"""Libraries that some tests stand on and that need not be installed."""

from __future__ import annotations

import functools
import importlib
from types import ModuleType
from typing import Any

import pytest
import torch

_OPERATORS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)


def library(name: str) -> ModuleType:
    """Imports a library, or skips the test where it is not installed."""
    _mended_torchvision()
    module: ModuleType = pytest.importorskip(name, exc_type=ImportError)
    return module


@functools.cache
def _mended_torchvision() -> object:
    """Makes torchvision importable where its compiled half belongs to another torch: timm and transformers need it."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return None
    except RuntimeError:
        library: Any = torch.library.Library
        operators = library("torchvision", "DEF")
        for signature in _OPERATORS:
            operators.define(signature)
            operators.define(f"q{signature}")
        return operators  # as long as it lives, so do its declarations
    return None
