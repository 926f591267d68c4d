"""Builds a model without computing the initial values of its weights.

A checkpoint overwrites every parameter, so drawing random initial values is wasted, and for a large model it is most of
the loading time. Here the constructor runs in a mode that leaves them out (`skip`); afterwards the parameters, and the
persistent buffers that depend on left-out values, are moved to the meta device. All other buffers and attributes are
as the plain constructor makes them.

Guarantees: loading every key of its state dict into the result gives, bit for bit, what `torch.manual_seed(seed)`, the
plain constructor and `load_state_dict` give. Where that cannot be known nothing is handed out: when the constructor
reads left-out values; when torch's random state moved, so that something was drawn past the mode; and when memory
that was left unset, or that belonged to a parameter, is still alive afterwards: a buffer that is not saved, an
attribute, a hook's closure or a cache holds it. That memory is not searched for, it is watched by weak references.

The mode belongs to the thread that enters it. Nothing global is changed, so nothing can stay changed, and a model that
another thread builds meanwhile is untouched. One thing cannot be seen: a constructor that builds a parameter from
*outside* the build into its model (a cached layer, say) has that one emptied too.
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
        mode: A fresh mode, for whoever wants to see afterwards which memory is still unset.

    Raises:
        InexactError: The result would not be exact.
        Exception: What the constructor raises for reasons of its own.
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
            "torch's random state moved meanwhile: its constructor seeds, or something out of reach draws numbers"
        )
    _empty(module, mode)
    return module


def holds_unset(module: nn.Module, mode: Skipping) -> bool:
    """Tells whether a model, or a tensor among its attributes, looks into memory that a hollow build left unset.

    A plain build after a hollow one does if the constructor takes tensors from a cache that the hollow build filled.

    Args:
        module: The plainly built model.
        mode: What the hollow build ran in.
    """
    gc.collect()
    return bool(mode.unset) and any(mode.any_unset(vars(part).values()) for part in module.modules())


def _empty(module: nn.Module, mode: Skipping) -> None:
    """Moves the parameters and the unset persistent buffers to meta, and checks that their memory is gone."""
    loaded = _loaded(module, mode)
    if not all(mode.watch(tensor) for tensor, _ in loaded.values()):
        raise InexactError("two of its parameters share memory without being one, or one is of a kind without memory")
    while loaded:
        _to_meta(*loaded.popitem()[1])
    if mode.unset:
        gc.collect()
    if mode.unset:
        raise InexactError("it keeps values that depend on its parameters or on chance outside its state dict")


def _loaded(module: nn.Module, mode: Skipping) -> dict[int, tuple[Tensor, str]]:
    """Returns the tensors that a checkpoint overwrites, by identity, each with its name."""
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
    """Empties a tensor in place, so that whoever holds it (lists, ties, closures, weak references) holds an empty one.

    This is the heart of `torch.utils.swap_tensors`, without its refusals: where something else still looks into the
    tensor's memory, that memory stays alive and is noticed.
    """
    try:
        empty = torch.empty_like(tensor, device="meta", requires_grad=tensor.requires_grad)
        torch._C._swap_tensor_impl(tensor, empty)  # noqa: SLF001
    except (RuntimeError, NotImplementedError) as error:
        raise InexactError(f"its {name} cannot be moved to the meta device") from error
    if not tensor.is_meta:
        raise InexactError(f"its {name} cannot be moved to the meta device")


if sys.modules.get("numpy") is not None:  # torch brings it along where it is installed, but not this part of it
    import numpy.random  # noqa: F401

# The states belong to the process: two builds that seed and restore them at once would mix them up.
_one_at_a_time = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch, numpy and Python's `random`, and puts back what was found.

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
    """Returns torch's random states, those of running devices included, so that a draw can be noticed."""
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
