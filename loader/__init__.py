"""hydra-loader: a declarative, config-driven loader for trained PyTorch models.

Guarantees: importing the package imports neither torch nor Hydra; the names below are the public API.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    FitError,
    LoaderError,
    VerificationError,
)

if TYPE_CHECKING:
    from .api import Loaded, load, load_into, load_model
    from .report.data import Report

__version__ = "0.2.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DeviceError",
    "FitError",
    "Loaded",
    "LoaderError",
    "Report",
    "VerificationError",
    "load",
    "load_into",
    "load_model",
]

_LAZY = {
    "Loaded": ".api",
    "Report": ".report.data",
    "load": ".api",
    "load_into": ".api",
    "load_model": ".api",
}


def __getattr__(name: str) -> Any:
    if name == "redaction":  # configs of users name its formatter so
        return import_module(".text.redaction", __name__)
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(_LAZY[name], __name__)
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("hydra."):
            raise
        file = getattr(sys.modules.get("hydra"), "__file__", "a module called hydra")
        raise ImportError(f"{file} hides Hydra, which {__name__}.{name} needs: rename it, or move it away") from error
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__
