"""Builds the model that a config describes.

Guarantees: what is wrong with the config is refused before anything is built; what the constructor makes is an
`nn.Module`; the random state of torch, numpy and Python is left as it was found, whatever happens; the result is the
one that `torch.manual_seed(seed)` and the plain constructor give, except that a hollow one waits on the meta device
for the weights that overwrite it.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from loader.build.calls import Call, plan_calls
from loader.build.hollow import build_hollow
from loader.build.policy import Policy
from loader.build.skip import InexactError
from loader.errors import ConfigError
from loader.wording import safe_text

# Random states belong to the process: two builds that seed and restore them at once would mix them up.
_seeding = threading.RLock()


@dataclass
class Built:
    """A model, and how it came about."""

    module: nn.Module
    hollow: bool
    """True: every parameter, and every persistent buffer that depends on one, is on meta and must be assigned."""
    reason: str
    """Why it was built plainly; empty when it is hollow."""
    complete: bool = False
    """True: it carries its weights already."""


def build_model(
    config: Mapping[str, Any],
    *,
    trusted: Sequence[str] | None = None,
    seed: int = 0,
    hollow: bool = True,
    where: str = "model",
) -> Built:
    """Builds a model from a node with `_target_`.

    Args:
        config: The node, with its interpolations resolved.
        trusted: Patterns of the targets that may be used; None for all but the known-dangerous ones.
        seed: Seeds torch, numpy and Python's `random` for the constructor.
        hollow: Leave out the initial values of the weights, where that cannot be told apart afterwards.
        where: The node's place in the config, for messages.

    Raises:
        ConfigError: The config is wrong, or the constructor fails.
    """
    call = plan_calls(config, Policy(trusted), where)
    _check_class(call)
    if not hollow:
        return Built(_construct(call, seed), hollow=False, reason="initial values were asked for")
    if _hands_over_tensors(call):
        return Built(_construct(call, seed), hollow=False, reason="the config hands over live tensors")
    try:
        with _seeded(seed):
            return Built(build_hollow(lambda: _module(call)), hollow=True, reason="")
    except InexactError as inexact:
        reason = str(inexact)
    except ConfigError:
        reason = "its constructor fails without initial values"
    return Built(_construct(call, seed), hollow=False, reason=reason)


def _construct(call: Call, seed: int) -> nn.Module:
    with _seeded(seed):
        return _module(call)


def _module(call: Call) -> nn.Module:
    made = call.make()
    if not isinstance(made, nn.Module):
        kind = f"{type(made).__module__}.{type(made).__qualname__}".removeprefix("builtins.")
        raise ConfigError(f"{call.where}: {safe_text(call.name)} returned a {safe_text(kind)}, not a torch.nn.Module")
    return made


def _check_class(call: Call) -> None:
    """Refuses a class that is no module before it is called; what a function returns is known only afterwards."""
    if isinstance(call.target, type) and not issubclass(call.target, nn.Module):
        raise ConfigError(f"{call.where}._target_: {safe_text(call.name)} is a class, but no torch.nn.Module")


def _hands_over_tensors(value: object) -> bool:
    """Tells whether something that lives outside the build would be built into the model, and emptied with it."""
    if isinstance(value, Call):
        return _hands_over_tensors([value.positional, value.named])
    if isinstance(value, dict):
        return any(_hands_over_tensors(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_hands_over_tensors(item) for item in value)
    return isinstance(value, (torch.Tensor, nn.Module))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds every random state there is, and puts back what was found."""
    with _seeding:
        restore = [_fork_python(seed), *_fork_numpy(seed), *_fork_torch(seed)]
        try:
            yield
        finally:
            for put_back in restore:
                put_back()


def _fork_python(seed: int) -> Callable[[], None]:
    state = random.getstate()
    random.seed(seed)
    return lambda: random.setstate(state)


def _fork_numpy(seed: int) -> list[Callable[[], None]]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return []
    state = numpy.random.get_state()
    numpy.random.seed(seed % 2**32)
    return [lambda: numpy.random.set_state(state)]


def _fork_torch(seed: int) -> list[Callable[[], None]]:
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    restore: list[Callable[[], None]] = [lambda: torch.set_rng_state(state)]
    for device in (torch.cuda, torch.xpu):
        if device.is_initialized():  # to seed one that is not would start it, or leave our seed waiting for its start
            states = device.get_rng_state_all()
            device.manual_seed_all(seed)
            restore.append(partial(device.set_rng_state_all, states))
    if torch.backends.mps.is_available():
        mps_state = torch.mps.get_rng_state()
        torch.mps.manual_seed(seed)
        restore.append(lambda: torch.mps.set_rng_state(mps_state))
    return restore
