"""On which device and in which dtype a model ends up.

Guarantees: a device that is not there is an error that lists what there is, never another device in its stead; a cast
that changes more than precision is counted, never silent.
"""

from __future__ import annotations

import math
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import nn

from ..errors import ConfigError, DeviceError
from ..keys.plan import Wanted
from ..module.castable import can_cast
from ..module.slots import dtype_name
from ..text.lines import line
from ..text.wording import closest, counted, did_you_mean, listing, safe_text

AUTO = ("cuda", "mps", "xpu")
"""The accelerators that ``auto`` looks for, in order, before it takes the CPU."""

ALIASES = {
    "half": "float16", "fp16": "float16", "bf16": "bfloat16", "float": "float32", "fp32": "float32",
    "double": "float64", "fp64": "float64",
}  # fmt: skip
"""Short names that people use for dtypes."""

DTYPES = ("float16", "bfloat16", "float32", "float64")
"""The dtypes that a whole model can be put into."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What a cast did to the values beyond rounding."""

    nonfinite: int = 0
    """Elements that became infinite or NaN."""
    changed: int = 0
    """Elements that became another number: rounded to or from an integer or a boolean, wrapped around, clipped to a
    float8's range, or without their imaginary part."""

    def __bool__(self) -> bool:
        return bool(self.nonfinite or self.changed)

    def __str__(self) -> str:
        becomes = "becomes" if self.nonfinite == 1 else "become"
        changes = "changes its" if self.changed == 1 else "change their"
        told = [f"{counted(self.nonfinite, 'element')} {becomes} inf or nan"] if self.nonfinite else []
        told += [f"{counted(self.changed, 'element')} {changes} value"] if self.changed else []
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
        raise _no_device(name) from None
    if device.type in ("cpu", "meta"):
        return torch.device(device.type)  # torch counts neither
    count = _count(device.type)
    if (device.index or 0) >= count:
        raise DeviceError(
            f"device '{safe_text(name)}' is not on this machine; here there is {listing(_present())}",
            "device=auto takes the first accelerator there is, or the CPU",
        )
    return device


def _no_device(name: str) -> DeviceError:
    here = _present()
    kind, colon, index = name.partition(":")
    if kind.lower() == "gpu":
        meant = next((kind for kind in AUTO if _count(kind)), "cuda") + colon + index
    else:
        meant = next(iter(closest(name, ("auto", "cpu", "meta", *AUTO), most=1)), "")
    there = meant in ("auto", *here) or f"{meant}:0" in here
    told = f" (did you mean '{safe_text(meant)}'{'' if there else ', which is not on this machine'}?)" if meant else ""
    return DeviceError(
        f"'{safe_text(name)}' is not a device{told}; here there is {listing(here)}",
        line("device", meant if there else "auto"),
    )


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
        near = closest(plain, known, most=1)
        raise ConfigError(
            f"'dtype' is '{safe_text(name)}', expected null, checkpoint or one of {', '.join(DTYPES)}"
            f"{did_you_mean(plain, known)}",
            line("dtype", near[0]) if near else line("dtype", None, note="each as the model declares it"),
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
    if policy is not None and declared.is_floating_point and can_cast(declared, getattr(torch, policy)):
        return getattr(torch, policy)  # type: ignore[no-any-return]
    return declared


def cast(tensor: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, Loss]:
    """Casts a tensor and counts what was lost beyond rounding."""
    if tensor.dtype == dtype:
        return tensor, Loss()
    # torch warns of the lost imaginary parts; here they are counted.
    discards = tensor.is_complex() and not dtype.is_complex and tensor.layout == torch.strided
    result = (tensor.real if discards else tensor).to(dtype)
    return result, _loss(_elements(tensor), _elements(result))


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Leaves the global random state as it was found: torch's on the CPU and on a device, Python's and numpy's.

    The state belongs to the process: of jobs in several threads the first notes it, and the last puts it back.
    """
    job = _Job()
    try:
        _begin(device, job)
        yield
    finally:
        _end(device, job)


class _Job:
    """One block that runs; gone with it, also where an interruption lets it end without its last lines."""


def _begin(device: torch.device, job: _Job) -> None:
    with _LOCK:
        jobs, fork = _FORKS.get(device, (WeakSet[_Job](), None))
        if fork is not None and not jobs:
            fork.close()
            fork = None
        jobs.add(job)
        _FORKS[device] = (jobs, fork or _forked(device))


def _end(device: torch.device, job: _Job) -> None:
    with _LOCK:
        jobs, fork = _FORKS.get(device, (WeakSet[_Job](), None))
        jobs.discard(job)
        if fork is not None and not jobs:
            del _FORKS[device]
            fork.close()


def _forked(device: torch.device) -> ExitStack:
    indices = [device.index or 0] if device.type in AUTO else []
    fork = ExitStack()
    fork.enter_context(torch.random.fork_rng(devices=indices, device_type=device.type if indices else "cuda"))
    fork.callback(random.setstate, random.getstate())
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        fork.callback(numpy.set_state, numpy.get_state())
    return fork


_LOCK = threading.RLock()  # an interruption may leave it held, and this thread has to get on
_FORKS: dict[torch.device, tuple[WeakSet[_Job], ExitStack]] = {}
"""Device → the jobs that run on it, and what puts its random state back."""


def floating_dtype(model: nn.Module) -> torch.dtype:
    """The dtype that floating inputs of a model should have: that of its first floating parameter or buffer."""
    tensors = (tensor for source in (model.parameters(), model.buffers()) for tensor in source)
    return next((t.dtype for t in tensors if t.dtype in _COMPUTES), torch.float32)


def dtype_names(model: nn.Module) -> list[str]:
    """The dtypes of a model's parameters, sorted."""
    return sorted({dtype_name(parameter.dtype) for parameter in model.parameters()})


_COMPUTES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _elements(tensor: torch.Tensor) -> torch.Tensor:
    """The elements that a tensor stores, as a strided tensor."""
    if tensor.layout == torch.strided:
        return tensor
    return (tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor).values()


def all_finite(values: torch.Tensor) -> bool:
    """Whether a dense real floating tensor of at least 16 bits holds neither inf nor nan, in one fast pass."""
    # The extremes are nan where any element is.
    return not values.numel() or all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(values))


def _loss(before: torch.Tensor, after: torch.Tensor) -> Loss:
    if before.is_complex() and after.is_complex():
        return _loss(torch.view_as_real(before.resolve_conj()), torch.view_as_real(after))
    if after.is_complex():
        return _loss(before, after.real)
    if before.is_complex():
        real = _loss(before.real, after)
        return Loss(real.nonfinite, real.changed + int((before.imag != 0).sum()))
    if before.is_floating_point() and after.is_floating_point():
        return _float_loss(before, after)
    return Loss(changed=_changed(before, after))


def _float_loss(before: torch.Tensor, after: torch.Tensor) -> Loss:
    limits = torch.finfo(after.dtype)
    if limits.max >= torch.finfo(before.dtype).max:
        return Loss()
    if after.element_size() > 1 and all_finite(after):
        return Loss()
    was, stays = torch.isfinite(_wide(before)), torch.isfinite(_wide(after))
    clipped = 0
    if after.element_size() == 1:
        # Some float8 have no infinity and take their largest number in its stead. What lies within half a step of
        # that number is rounded to it.
        step = limits.eps * 2.0 ** math.floor(math.log2(limits.max))
        clipped = int((stays & (_wide(before).abs() > limits.max + step / 2)).sum())
    return Loss(int((was & ~stays).sum()), clipped)


def _changed(before: torch.Tensor, after: torch.Tensor) -> int:
    """Counts the elements that are not the same number, where one side is no floating dtype."""
    differs = _wide(after.to(before.dtype)) != _wide(before)
    if before.is_floating_point():
        differs |= _beyond(before, after.dtype)
    elif after.is_floating_point():
        differs |= _beyond(after, before.dtype)
    changed = int(differs.sum())
    wraps = before.element_size() == after.element_size() and before.is_signed() != after.is_signed()
    if wraps and not any(t.is_floating_point() or t.dtype == torch.bool for t in (before, after)):
        # -1 as uint8 is 255, and comes back as -1.
        changed += int(((before if before.is_signed() else after) < 0).sum())
    return changed


def _beyond(numbers: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | bool:
    """Where floating numbers lie outside an integer dtype: processors make different integers of them.

    Some of those come back as the same number, so that a comparison alone would not see it.
    """
    if dtype == torch.bool:
        return False
    limits = torch.iinfo(dtype)
    exact = numbers.to(torch.float64)
    return (exact < float(limits.min)) | (exact >= float(limits.max) + 1.0)


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """A float8, which has few operations of its own, in a dtype that has them."""
    return tensor.to(torch.float32) if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


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
