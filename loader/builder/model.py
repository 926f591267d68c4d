"""Builds the model that a config describes.

Guarantees: what is wrong with the config is refused before anything is built; what the constructor makes is an
`nn.Module`; the random state of torch, numpy and Python is left as it was found, whatever happens; the result is the
one that `torch.manual_seed(seed)` and the plain constructor give, except that a hollow one waits on the meta device
for the weights that overwrite it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..module.user_code import bare_arguments
from ..runtime import collector_paused
from ..text.wording import listing, safe_text
from .calls import Call, plan_calls
from .hollow import build_hollow, holds_unset, seeded
from .policy import Policy
from .skip import InexactError, Skipping


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


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model was built, so that one of another size can be tried."""

    config: Mapping[str, Any]
    build: Callable[[Mapping[str, Any]], nn.Module]
    policy: Policy


@collector_paused()
@bare_arguments()
def build_model(
    config: Mapping[str, Any],
    *,
    trusted: Policy | Sequence[str] | None = None,
    seed: int = 0,
    hollow: bool = True,
    patient: bool = True,
    where: str = "model",
) -> Built:
    """Builds a model from a node with `_target_`.

    Args:
        config: The node, with its interpolations resolved.
        trusted: The policy, or patterns of the targets that may be used; None for all but the known-dangerous ones.
        seed: Seeds torch, numpy and Python's `random` for the constructor.
        hollow: Leave out the initial values of the weights, where that cannot be told apart afterwards.
        patient: Call a constructor that fails without them once more, with them.
        where: The node's place in the config, for messages.

    Raises:
        ConfigError: The config is wrong, or the constructor fails.
    """
    call = plan_calls(config, trusted if isinstance(trusted, Policy) else Policy(trusted), where)
    _check_class(call)
    if not hollow:
        return Built(_construct(call, seed), hollow=False, reason="initial values were asked for")
    if _hands_over_tensors(call):
        return Built(_construct(call, seed), hollow=False, reason="the config hands over live tensors")
    mode = Skipping()
    try:
        with seeded(seed):
            return Built(build_hollow(lambda: _module(call), mode), hollow=True, reason="")
    except InexactError as inexact:
        reason = str(inexact)
    except ConfigError:
        if not patient:
            raise
        reason = "its constructor fails without initial values"
    module = _construct(call, seed)
    if holds_unset(module, mode):
        raise ConfigError(
            f"{where}: {safe_text(call.name)} takes random tensors, or layers, from a cache that outlives the model; "
            "every build must make its own"
        )
    return Built(module, hollow=False, reason=reason)


def _construct(call: Call, seed: int) -> nn.Module:
    with seeded(seed):
        return _module(call)


def _module(call: Call) -> nn.Module:
    made = call.make()
    if not isinstance(made, nn.Module):
        kind = f"{type(made).__module__}.{type(made).__qualname__}".removeprefix("builtins.")
        raise ConfigError(f"{call.where}: {safe_text(call.name)} returned a {safe_text(kind)}, not a torch.nn.Module")
    if fault := unsound(made):
        raise ConfigError(f"{call.where}: {safe_text(call.name)} made a module that cannot be walked: {fault}")
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


_TABLES: Final = {"_parameters": Tensor, "_buffers": Tensor, "_modules": nn.Module}
_WALKS: Final = frozenset(
    (
        *("modules", "named_modules", "children", "named_children", "train", "eval", "state_dict", "_apply"),
        *("_load_from_state_dict", "_save_to_state_dict"),
    )
)
"""What torch and the loader call on every module."""
_OF_THE_ROOT: Final = frozenset(("parameters", "named_parameters", "buffers", "named_buffers", "_named_members"))
"""What is called on the model alone: a module inside it may have a list of its own that is called `buffers`."""


def unsound(module: nn.Module) -> str:
    """Says what keeps a module from being walked; an empty string where nothing does."""
    return next((fault for name, part in _parts(module) if (fault := _fault(name, part))), "")


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module inside, each once, by torch's own tables and without a call of its own."""
    seen: set[int] = set()
    pending = [("", module)]
    while pending:
        name, part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield name, part
        children = vars(part).get("_modules")
        if isinstance(children, dict):
            pending += [(f"{name}.{key}".lstrip("."), child) for key, child in children.items() if child is not None]


def _fault(name: str, part: nn.Module) -> str:
    own = vars(part)
    where = f"in its {safe_text(name)} " if name else ""
    for table, kind in _TABLES.items():
        if not _is_kept_elsewhere(part, table) and not _holds(own.get(table), kind):
            return f"{where}{table} is not what nn.Module.__init__ makes of it"
    called = _WALKS if name else _WALKS | _OF_THE_ROOT
    hidden = sorted(key for key in called & own.keys() if not _is_function(own[key]))
    return f"{where}a value stands in the place of {listing(hidden)}" if hidden else ""


def _is_kept_elsewhere(part: nn.Module, table: str) -> bool:
    """TorchScript's modules, and those that wrap one of C++, have tables of their own kind."""
    return isinstance(part, torch.jit.ScriptModule) or hasattr(type(part), table)


def _holds(table: Any, kind: type) -> bool:
    return isinstance(table, dict) and all(value is None or isinstance(value, kind) for value in table.values())


def _is_function(value: object) -> bool:
    return inspect.isroutine(value) or isinstance(value, partial)
