"""What stands in for a random tensor, and for a copy of an unset one: the right shape and dtype, and untouched memory.

Guarantees: nothing is drawn, and floating-point memory is not written to, so it takes up address space and no pages.
Integers are 0, since they may be used as indices.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

DRAWS: Final = frozenset(("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like"))
_CASTS: Final = {
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "float": torch.float32,
    "double": torch.float64,
}
_SCALINGS: Final = frozenset(
    (
        *("mul", "multiply", "__mul__", "__rmul__", "div", "divide", "__truediv__"),
        *("add", "__add__", "__radd__", "sub", "subtract", "__sub__", "__rsub__"),
    )
)
_RANGE: Final = frozenset(("low", "high", "generator"))


def undrawn(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Makes the tensor that a random factory would return, without its values.

    Args:
        name: One of `DRAWS`.
        args: The factory's positional arguments.
        kwargs: Its keyword arguments.
    """
    options = {key: value for key, value in kwargs.items() if key not in _RANGE}
    match name:
        case "rand" | "randn":
            return torch.empty(*args, **options)
        case "rand_like" | "randn_like":
            return torch.empty_like(*args, **options)
        case "randint_like":
            return torch.zeros_like(args[0] if args else options.pop("input"), **options)
        case "randint":
            size = options.pop("size", None)
            return torch.zeros(args[-1] if size is None else size, **{"dtype": torch.int64, **options})
        case _:
            size = options.pop("n", None)
            return torch.zeros(args[0] if size is None else size, **{"dtype": torch.int64, **options})


def copies(name: str) -> bool:
    """Tells whether a function of this name may be one whose result has its first argument's shape and no more."""
    return name in {"clone", "to"} or name in _CASTS or name in _SCALINGS


def copied_dtype(name: str, source: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype | None:
    """Tells the dtype of the copy that a call makes of its source; None if it is not plainly such a copy.

    Args:
        name: A name for which `copies` is true.
        source: The first argument.
        args: The other positional arguments.
        kwargs: The keyword arguments.
    """
    if name == "clone":
        return source.dtype
    if name in _SCALINGS:
        plain = len(args) == 1 and not kwargs and isinstance(args[0], (int, float)) and source.is_floating_point()
        return source.dtype if plain else None
    given = [_CASTS[name]] if name in _CASTS else [v for v in (*args, *kwargs.values()) if not _is_flag(v)]
    dtypes = [value for value in given if isinstance(value, torch.dtype)]
    moves = [value for value in given if not isinstance(value, torch.dtype) and not _is_device(value, source.device)]
    return dtypes[0] if len(dtypes) == 1 and not moves and dtypes[0] is not source.dtype else None


def _is_flag(value: object) -> bool:
    return value is None or isinstance(value, bool)


def _is_device(value: object, device: torch.device) -> bool:
    return isinstance(value, (str, torch.device)) and torch.device(value) == device
