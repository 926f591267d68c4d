"""The random states of the process: seeded for a build, watched during it, and put back.

Guarantees: after `seeded` every state is what it was before, whatever happened inside. No device is started, and none
that is not running is left a seed for its start.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

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
