"""Builds the model that a config describes.

Guarantees: errors in the config are raised before anything is built. The result is an `nn.Module` whose parameters,
buffers and children are where torch keeps them. It equals what `torch.manual_seed(seed)` and the plain constructor
give, except that a hollow model waits on the meta device for its weights. The random states of torch, numpy and Python
are always restored.
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


@dataclass(frozen=True, slots=True)
class Built:
    """A model, and how it was built."""

    module: nn.Module
    hollow: bool
    """True: every parameter, and every persistent buffer that depends on one, is on meta and must be assigned."""
    reason: str
    """Why it was not built hollow; empty if it was, and for the caller's own module."""
    complete: bool = False
    """True: it has its weights already."""

    @property
    def how(self) -> str:
        """How it was built, for the report: ``hollow``, ``plain: why``, or ``live`` for the caller's own module."""
        return "hollow" if self.hollow else f"plain: {self.reason}" if self.reason else "live"


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
        trusted: The policy, or patterns of allowed targets; None allows all but the known-dangerous ones.
        seed: Seeds torch, numpy and Python's `random` for the constructor.
        hollow: Skip the initial values of the weights, if the loaded model is the same without them.
        patient: If the constructor fails hollow, call it again with initial values.
        where: The node's path in the config, for messages.

    Raises:
        ConfigError: The config is invalid, or the constructor fails.
    """
    call = plan_calls(config, trusted if isinstance(trusted, Policy) else Policy(trusted), where)
    _check_class(call)
    if not hollow:
        return Built(_construct(call, seed), hollow=False, reason="initial values were requested")
    if _hands_over_tensors(call):
        return Built(_construct(call, seed), hollow=False, reason="the config contains live tensors")
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
            f"{where}: {safe_text(call.name)} takes random tensors or layers from a cache that outlives the model; "
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
        raise ConfigError(f"{call.where}: {safe_text(call.name)} made an invalid module: {fault}")
    return made


def _check_class(call: Call) -> None:
    """Refuses a class that is not a module before it is called; a function's result is checked afterwards."""
    if isinstance(call.target, type) and not issubclass(call.target, nn.Module):
        raise ConfigError(f"{call.where}._target_: {safe_text(call.name)} is not a subclass of torch.nn.Module")


def _hands_over_tensors(value: object) -> bool:
    """Whether tensors or modules from outside would become part of the model, and be emptied with it."""
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
"""Methods that torch and the loader call on every module."""
_OF_THE_ROOT: Final = frozenset(("parameters", "named_parameters", "buffers", "named_buffers", "_named_members"))
"""Methods called on the root alone: a module inside may have an attribute of its own called `buffers`."""


def unsound(module: nn.Module) -> str:
    """Returns why a module cannot be traversed like any other; empty if it can."""
    return next((fault for name, part in _parts(module) if (fault := _fault(name, part))), "")


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yields every module inside, each once, from torch's tables and without calling a method of the module."""
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
            return f"{where}{table} is not what nn.Module.__init__ sets"
    called = _WALKS if name else _WALKS | _OF_THE_ROOT
    hidden = sorted(key for key in called & own.keys() if not _is_function(own[key]))
    return f"{where}an attribute hides {listing(hidden)}" if hidden else ""


def _is_kept_elsewhere(part: nn.Module, table: str) -> bool:
    """TorchScript modules, and wrappers of C++ modules, have tables of their own kind."""
    return isinstance(part, torch.jit.ScriptModule) or hasattr(type(part), table)


def _holds(table: Any, kind: type) -> bool:
    return isinstance(table, dict) and all(value is None or isinstance(value, kind) for value in table.values())


def _is_function(value: object) -> bool:
    return inspect.isroutine(value) or isinstance(value, partial)
