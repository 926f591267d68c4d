"""Small models, and real checkpoint files of them, to try the loader on.

Guarantees: importing this package imports no torch; a model's class is imported when it is first asked for, so that
`loader.examples.SimpleNet` works as a `_target_` and in an import statement alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import CustomLayer, CustomModel, LinearModel, SimpleNet

__all__ = ["CustomLayer", "CustomModel", "LinearModel", "SimpleNet"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import models  # noqa: PLC0415 (this is what keeps torch out until a model is asked for)

    return getattr(models, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
