"""On which device and in which dtype a model ends up.

Guarantees: a device that is not there is an error that lists what there is, never another device in its stead; a cast
that changes more than precision is counted, never silent.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from loader.errors import ConfigError, DeviceError
from loader.plan import Wanted
from loader.wants import dtype_name
from loader.wording import did_you_mean, listing, safe_text

AUTO = ("cuda", "mps", "xpu")
"""The accelerators that ``auto`` looks for, in order, before it takes the CPU."""

ALIASES = {"fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp32": "float32", "float": "float32"}
"""Short names that people use for dtypes."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that a whole model can be put into."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a cast did to the values beyond rounding."""

    nonfinite: int = 0
    """Elements that became infinite or NaN."""
    changed: int = 0
    """Elements of or into an integer, boolean or complex dtype that are not the same number any more."""

    def __bool__(self) -> bool:
        return bool(self.nonfinite or self.changed)

    def __str__(self) -> str:
        told = [f"{self.nonfinite:,} elements become inf or nan"] if self.nonfinite else []
        told += [f"{self.changed:,} elements change their value"] if self.changed else []
        return " and ".join(told)


def resolve_device(name: str) -> torch.device:
    """Turns ``auto``, ``cpu``, ``cuda:1``, ``meta`` … into a device that is there.

    Raises:
        DeviceError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device(next((kind for kind in AUTO if _count(kind)), "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        known = ("auto", "cpu", "meta", *AUTO)
        raise DeviceError(
            f"'{safe_text(name)}' is not a device{did_you_mean(name, known)}; here there is {listing(_present())}",
            "device=auto",
        ) from None
    if device.type in ("cpu", "meta"):
        return device
    count = _count(device.type)
    if (device.index or 0) >= count:
        raise DeviceError(
            f"device '{safe_text(name)}' is not on this machine; here there is {listing(_present())}",
            "device=auto takes the first accelerator there is, or the CPU",
        )
    return device


def resolve_dtype(name: str | None) -> str | None:
    """Checks a dtype policy: None (what the model declares), ``checkpoint``, or a floating dtype's torch name.

    Raises:
        ConfigError: It is none of them.
    """
    if name is None or name == "checkpoint":
        return name
    plain = name.removeprefix("torch.").lower()
    plain = ALIASES.get(plain, plain)
    if plain not in DTYPES:
        known = (*DTYPES, *ALIASES, "checkpoint")
        raise ConfigError(
            f"'dtype' is '{safe_text(name)}', expected null, checkpoint or one of {', '.join(DTYPES)}"
            f"{did_you_mean(plain, known)}",
            "dtype=bfloat16",
        )
    return plain


def final_dtype(want: Wanted, offered: str, policy: str | None) -> torch.dtype:
    """The dtype that a loaded tensor ends in.

    Args:
        want: The model's key.
        offered: The file's dtype, by torch's name.
        policy: As `resolve_dtype` returns it.
    """
    declared: torch.dtype = getattr(torch, want.dtype)
    if policy == "checkpoint":
        return getattr(torch, offered)  # type: ignore[no-any-return]
    if policy is not None and declared.is_floating_point:
        return getattr(torch, policy)  # type: ignore[no-any-return]
    return declared


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, Loss]:
    """Casts a tensor and counts what was lost beyond rounding."""
    if tensor.dtype == dtype:
        return tensor, Loss()
    result = tensor.to(dtype)
    if tensor.dtype.is_floating_point and dtype.is_floating_point:
        return result, Loss(nonfinite=_new_nonfinite(tensor, result))
    back = result.to(tensor.dtype)
    changed = int((back != tensor).sum()) + int((tensor != tensor).sum()) * (not dtype.is_complex)
    return result, Loss(changed=changed)


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Leaves the global random state as it was found, on the CPU and on a device."""
    indices = [device.index or 0] if device.type in AUTO else []
    with torch.random.fork_rng(devices=indices, device_type=device.type if indices else "cuda"):
        yield


def settle(model: nn.Module, device: torch.device, policy: str | None) -> None:
    """Moves whatever a load did not place itself: buffers of the model's own, parameters that stayed unloaded."""
    dtype = getattr(torch, policy) if policy not in (None, "checkpoint") else None
    tensors = [*model.parameters(), *model.buffers()]
    if any(_misplaced(tensor, device, dtype) for tensor in tensors):
        model.to(device=device, dtype=dtype)


def floating_dtype(model: nn.Module) -> torch.dtype:
    """The dtype that floating inputs of a model should have: that of its first floating parameter or buffer."""
    tensors = (tensor for source in (model.parameters(), model.buffers()) for tensor in source)
    return next((t.dtype for t in tensors if t.dtype in _COMPUTES), torch.float32)


def dtype_names(model: nn.Module) -> list[str]:
    """The dtypes of a model's parameters, sorted."""
    return sorted({dtype_name(parameter.dtype) for parameter in model.parameters()})


_COMPUTES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _misplaced(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> bool:
    off = tensor.device.type != device.type or (device.index is not None and tensor.device.index != device.index)
    return off or (dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype)


def _new_nonfinite(before: torch.Tensor, after: torch.Tensor) -> int:
    if torch.finfo(after.dtype).max >= torch.finfo(before.dtype).max:
        return 0
    # float8 has no isfinite of its own.
    wide = after.to(torch.float32) if after.element_size() == 1 else after
    return int((~torch.isfinite(wide)).sum()) - int((~torch.isfinite(before)).sum())


def _count(kind: str) -> int:
    """How many devices of a kind there are; 0 where torch was built without it."""
    module = getattr(torch, kind, None)
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if module is None or not hasattr(module, "is_available") or not module.is_available():
        return 0
    return int(module.device_count())


def _present() -> list[str]:
    accelerators = [f"{kind}:{index}" if kind != "mps" else kind for kind in AUTO for index in range(_count(kind))]
    return ["cpu", *accelerators, "meta"]
