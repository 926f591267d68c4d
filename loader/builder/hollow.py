"""Builds a model without computing the initial values of its weights.

A checkpoint overwrites every parameter, so random initial values are wasted, and for a large model they take most of
the loading time. Here the constructor runs in a mode that skips them (`skip`); afterwards the parameters, and the
persistent buffers that depend on skipped values, are moved to the meta device. All other buffers and attributes are
as the plain constructor makes them.

Guarantees: loading every key of its state dict into the result gives, bit for bit, what `torch.manual_seed(seed)`, the
plain constructor and `load_state_dict` give. If that is uncertain, no model is returned: when the constructor reads
skipped values; when torch's random state changed, so that something was drawn outside the mode; and when memory that
was left unset, or that belonged to a parameter, is still alive afterwards, held by a buffer that is not saved, an
attribute, a hook's closure or a cache. That memory is not searched for; weak references watch it.

The mode belongs to the thread that enters it and changes nothing global, so a model that another thread builds
meanwhile is unaffected. One case goes unnoticed: a parameter from *outside* the build (a cached layer, say) that the
constructor puts into its model is emptied too.

`seeded` restores every random state even after an error, and neither starts a device nor seeds one that is not
running.
"""

from __future__ import annotations

import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .skip import InexactError, Skipping


def build_hollow(construct: Callable[[], nn.Module], mode: Skipping | None = None) -> nn.Module:
    """Runs a constructor without computing initial values, and returns its model with the parameters on meta.

    Args:
        construct: Makes the model; called once.
        mode: A fresh mode, if the caller needs to know afterwards which memory is still unset.

    Raises:
        InexactError: The result would not be exact.
        Exception: Raised by the constructor itself.
    """
    mode = mode or Skipping()
    before = torch_states()
    try:
        with mode:
            module = construct()
    except Exception:
        if not mode.reason:
            raise
    if mode.reason:
        raise InexactError(mode.reason)
    if not all(map(torch.equal, before, torch_states())):
        raise InexactError(
            "torch's random state changed: its constructor seeds it, or draws numbers in a way that cannot be skipped"
        )
    _empty(module, mode)
    return module


def holds_unset(module: nn.Module, mode: Skipping) -> bool:
    """Returns whether a tensor of a model, attributes included, uses memory that a hollow build left unset.

    A plain build after a hollow one does so if its constructor takes tensors from a cache that the hollow build filled.

    Args:
        module: The plainly built model.
        mode: The mode of the hollow build.
    """
    gc.collect()
    return bool(mode.unset) and any(mode.any_unset(vars(part).values()) for part in module.modules())


def _empty(module: nn.Module, mode: Skipping) -> None:
    """Moves the parameters and the unset persistent buffers to meta, and checks that their memory is freed."""
    loaded = _loaded(module, mode)
    if not all(mode.watch(tensor) for tensor, _ in loaded.values()):
        raise InexactError("two of its parameters share memory without being tied, or one has no memory of its own")
    while loaded:
        _to_meta(*loaded.popitem()[1])
    if mode.unset:
        gc.collect()
    if mode.unset:
        raise InexactError("it keeps values that depend on its parameters or on random numbers outside its state dict")


def _loaded(module: nn.Module, mode: Skipping) -> dict[int, tuple[Tensor, str]]:
    """Returns the tensors that a checkpoint overwrites, with their names, by identity."""
    loaded: dict[int, tuple[Tensor, str]] = {}
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None and not is_lazy(parameter):
                loaded[id(parameter)] = (parameter, name)
        for name, buffer in owner._buffers.items():
            if buffer is not None and name not in owner._non_persistent_buffers_set and mode.is_unset(buffer):
                loaded[id(buffer)] = (buffer, name)
    return loaded


def _to_meta(tensor: Tensor, name: str) -> None:
    """Empties a tensor in place, so that every reference to it (lists, ties, closures) refers to an empty one.

    This is the core of `torch.utils.swap_tensors` without its refusals: if anything else still uses the tensor's
    memory, that memory stays alive and is noticed.
    """
    try:
        empty = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        torch._C._swap_tensor_impl(tensor, empty)  # noqa: SLF001
    except (RuntimeError, NotImplementedError) as error:
        raise InexactError(f"its {name} cannot be moved to the meta device") from error
    if not tensor.is_meta:
        raise InexactError(f"its {name} cannot be moved to the meta device")


if sys.modules.get("numpy") is not None:  # torch imports numpy if it is installed, but not this part of it
    import numpy.random  # noqa: F401

# The states belong to the process: two builds that seed and restore them at once would mix them up.
_one_at_a_time = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch, numpy and Python's `random`, and restores their states afterwards.

    Args:
        seed: Any integer that `torch.manual_seed` takes.
    """
    with _one_at_a_time:
        restore = [_fork_python(seed), *_fork_numpy(seed), *_fork_torch(seed)]
        try:
            yield
        finally:
            for put_back in restore:
                put_back()


def torch_states() -> list[torch.Tensor]:
    """Returns torch's random states, running devices included, so that a draw can be detected."""
    states = [torch.get_rng_state()]
    for device in (torch.cuda, torch.xpu):
        if device.is_initialized():
            states += device.get_rng_state_all()
    return states


def _fork_python(seed: int) -> Callable[[], None]:
    state = random.getstate()
    random.seed(seed)
    return partial(random.setstate, state)


def _fork_numpy(seed: int) -> list[Callable[[], None]]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return []
    state = numpy.random.get_state()
    numpy.random.seed(seed % 2**32)
    return [partial(numpy.random.set_state, state)]


def _fork_torch(seed: int) -> list[Callable[[], None]]:
    restore: list[Callable[[], None]] = [partial(torch.set_rng_state, torch.get_rng_state())]
    torch.default_generator.manual_seed(seed)
    for device in (torch.cuda, torch.xpu):
        if device.is_initialized():
            restore.append(partial(device.set_rng_state_all, device.get_rng_state_all()))
            device.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        restore.append(partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))
        torch.mps.manual_seed(seed)
    return restore
