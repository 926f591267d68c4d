"""Which device a job uses, and the move of a loaded model to it.

Guarantees: an absent device is an error that lists the ones that exist, never replaced by another; a cast that would
change the values of anything that stayed unloaded is refused before the first one; the global random state is left as
it was found.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from weakref import WeakSet

import torch
from torch import nn

from ..errors import DeviceError
from ..formats.tensor import DTYPES, dtype_name
from ..module.dtype import Cast, can_cast, cast, refuse_losses
from ..module.policy import DtypePolicy, dtype_for
from ..schema import AllowConfig
from ..text.lines import Fix, line, typed
from ..text.wording import closest, listing, safe_text

AUTO = ("cuda", "mps", "xpu")
"""The accelerators that ``auto`` looks for, in order, before it takes the CPU."""

EVERY = "cuda:*"
"""In a sweep, every CUDA device; it is replaced by them where there are any."""


def resolve_device(name: str) -> torch.device:
    """Resolves ``auto``, ``cpu``, ``cuda:1``, ``meta`` … to an available device.

    Raises:
        DeviceError: The device is unknown or absent; the message lists the available ones.
    """
    if name == "auto":
        return torch.device(next((kind for kind in AUTO if _count(kind)), "cpu"))
    if name == EVERY:
        raise _not_one()
    try:
        device = torch.device(name)
    except RuntimeError:
        raise _no_device(name) from None
    if device.type in ("cpu", "meta"):
        return torch.device(device.type)  # neither has an index
    count = _count(device.type)
    if (device.index or 0) >= count:
        raise DeviceError(
            f"device '{safe_text(name)}' is not on this machine; available: {listing(_present())}",
            Fix("device=auto", "takes the first available accelerator, or the CPU"),
        )
    return device


def _not_one() -> DeviceError:
    if _count("cuda"):
        fault = f"device '{EVERY}' is one job for each CUDA device, and a single run accepts one; available: "
        fault += listing(_present())
        return DeviceError(fault, typed("-m", f"device={EVERY}"))
    return DeviceError(
        f"device '{EVERY}' is not on this machine; available: {listing(_present())}",
        Fix("device=auto", "takes the first available accelerator, or the CPU"),
        typed("-m", "sweep.skip=[cuda*]", note="leaves the jobs without their device out of a sweep"),
    )


def _no_device(name: str) -> DeviceError:
    here = _present()
    kind, colon, index = name.partition(":")
    if kind.lower() == "gpu":
        meant = next((kind for kind in AUTO if _count(kind)), "cuda") + colon + index
    else:
        meant = next(iter(closest(name, ("auto", "cpu", "meta", *AUTO), most=1)), "")
    there = meant in ("auto", *here) or f"{meant}:0" in here
    guess = f" (did you mean '{safe_text(meant)}'{'' if there else ', which is not on this machine'}?)" if meant else ""
    return DeviceError(
        f"'{safe_text(name)}' is not a device{guess}; available: {listing(here)}",
        line("device", meant if there else "auto"),
    )


@contextmanager
def own_random_state(device: torch.device) -> Iterator[None]:
    """Restores the global random state after the block: torch's on the CPU and on a device, Python's and numpy's.

    The state belongs to the process: of jobs in several threads the first saves it, and the last restores it.
    """
    job = _Job()
    try:
        _begin(device, job)
        yield
    finally:
        _end(device, job)


def seed_all(seed: int) -> None:
    """Seeds torch on every device, Python's `random` and, if it is in use, numpy; within `own_random_state`."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed(seed % 2**32)


class _Job:
    """A running block; garbage-collected with it, even if an interruption skips the block's last lines."""


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


_LOCK = threading.RLock()  # an interruption may leave it held, and this thread must go on
_FORKS: dict[torch.device, tuple[WeakSet[_Job], ExitStack]] = {}
"""Device → the running jobs, and the stack that restores its random state."""


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


def settle(model: nn.Module, device: torch.device, policy: DtypePolicy, allow: AllowConfig) -> None:
    """Moves the tensors that a load did not place: the model's own buffers, parameters that stayed unloaded.

    A model with tensors that have no data is not changed; a later check names them.

    Args:
        model: The loaded model.
        device: Where it goes.
        policy: Its dtypes, as `policy.resolve_dtype` returns them.
        allow: `allow.mismatched` admits lossy casts.

    Raises:
        FitError: A cast loses values.
    """
    tensors = [*model.parameters(), *model.buffers()]
    if device.type != "meta" and any(tensor.is_meta for tensor in tensors):
        return
    casts = dict(_casts(model, policy))
    if casts or any(_misplaced(tensor, device) for tensor in tensors):
        named = {name: tensor for name, tensor in _named(model) if name in casts}
        refuse_losses(_lossy(named, casts), allow, Fix("dtype=null", "keeps the dtypes of the model"))
        dtypes = {id(tensor): casts[name] for name, tensor in named.items()}
        grads = ((name, one.grad) for name, one in named.items() if isinstance(one, nn.Parameter))
        dtypes |= {id(grad): casts[name] for name, grad in grads if grad is not None}
        # Module.to would cast complex tensors to the dtype as well, and take their imaginary parts.
        move = model._apply  # noqa: SLF001
        move(lambda tensor: tensor.to(device, dtypes.get(id(tensor))))  # type: ignore[no-untyped-call]


def _named(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _casts(model: nn.Module, policy: DtypePolicy) -> Iterator[tuple[str, torch.dtype]]:
    """Yields the tensors that are not in their dtype yet, with it."""
    if policy in (None, "checkpoint"):
        return
    for name, tensor in _named(model):
        wanted = dtype_for(policy, name)
        dtype = None if wanted is None or wanted == "checkpoint" else DTYPES[wanted]
        if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype and can_cast(tensor.dtype, dtype):
            yield name, dtype


def _lossy(named: Mapping[str, torch.Tensor], casts: Mapping[str, torch.dtype]) -> Iterator[Cast]:
    """The casts to a dtype of a smaller range, one tensor at a time."""
    for name, tensor in named.items():
        dtype = casts[name]
        if not tensor.is_meta and torch.finfo(dtype).max < torch.finfo(tensor.dtype).max:
            yield Cast(name, dtype_name(tensor.dtype), dtype_name(dtype), cast(tensor.detach(), dtype)[1])


def _misplaced(tensor: torch.Tensor, device: torch.device) -> bool:
    return tensor.device.type != device.type or device.index not in (None, tensor.device.index)
