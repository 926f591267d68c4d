"""What Python code hands to the loader, before any of it is used.

Guarantees: what could not have been meant is refused with the call that was; nothing is opened, built or changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..formats.tensor import dtype_name
from ..text.lines import Fix, python_text
from ..text.wording import safe_text

_LONGEST = 400


def overrides_of(config: object) -> list[str]:
    """The overrides in a list; raises ConfigError for what is none."""
    if isinstance(config, str):
        raise ConfigError(
            f"loader.load takes a list of overrides, not the text {config!r}",
            Fix(f"loader.load([{python_text(config)}])"),
        )
    if isinstance(config, os.PathLike) or not isinstance(config, Iterable):
        named = Fix(f"loader.load([{python_text(f'checkpoint.path={config}')}])")
        hint = named if isinstance(config, os.PathLike) else Fix("loader.load()", "the shipped example")
        raise ConfigError(f"loader.load takes a list of overrides or a mapping, not {_told(config)}", hint)
    overrides = list(config)
    for override in overrides:
        if not isinstance(override, str):
            told = f"each a text; there is {_told(override)} among them"
            raise ConfigError(f"loader.load takes a list of overrides, {told}", Fix("loader.load(['device=cpu'])"))
    return overrides


def check_module(module: object, checkpoint: object) -> None:
    """Refuses what is no built module, also where it and the checkpoint stand in each other's place."""
    check_order("load_into", module, checkpoint)
    if not isinstance(module, nn.Module):
        told = f"{_told(module)} as its module; a torch.nn.Module was expected"
        raise ConfigError(f"loader.load_into was given {told}", _call("load_into", "net", checkpoint))


def check_order(call: str, model: object, checkpoint: object) -> None:
    """Refuses a class in the place of a module, and a model and a checkpoint in each other's place."""
    if isinstance(model, type):
        told = f"the class {model.__name__}; a module that is built was expected"
        raise ConfigError(f"loader.{call} was given {told}", _call(call, f"{model.__name__}()", checkpoint))
    if isinstance(checkpoint, nn.Module) and not isinstance(model, nn.Module):
        told = "the module and the checkpoint in each other's place; the module comes first"
        raise ConfigError(f"loader.{call} was given {told}", _call(call, "net", model))


def _call(name: str, model: str, checkpoint: object) -> Fix:
    return Fix(f"loader.{name}({model}, {_argument(checkpoint)})")


def check_checkpoint(checkpoint: object) -> None:
    """Refuses what is no path, no node and no state dict."""
    if isinstance(checkpoint, str | os.PathLike | Mapping):
        return
    hint = Fix("checkpoint=net.state_dict()") if isinstance(checkpoint, nn.Module) else Fix("checkpoint='FILE'")
    raise ConfigError(
        f"the checkpoint is {_told(checkpoint)}; a path, a mapping with a path or a state dict was expected", hint
    )


def plain_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with their device and dtype by name, as a config has them."""
    plain = dict(settings)
    if isinstance(plain.get("device"), torch.device):
        plain["device"] = str(plain["device"])
    if isinstance(plain.get("dtype"), torch.dtype):
        plain["dtype"] = dtype_name(plain["dtype"])
    return plain


def _argument(value: object) -> str:
    if isinstance(value, str | os.PathLike):
        return python_text(os.fspath(value)) or "'FILE'"
    return "state" if isinstance(value, Mapping) else "'FILE'"


def _told(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return safe_text(repr(value), _LONGEST)
    return f"the class {value.__name__}" if isinstance(value, type) else f"a value of the type {type(value).__name__}"
