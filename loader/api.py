"""The Python API, also for other Hydra apps.

Guarantees: no run folder is written and the global random state is left as it was found; any failure of a job, its
verification included, is raised as a `LoaderError`; arguments that make no sense are refused with the right call.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from . import pipeline  # noqa: F401  # every load needs these two; torch is here, so they need not wait for the first
from .apply.place import resolve_device
from .apply.target import Live
from .apply.transaction import Transaction, all_or_nothing
from .config.compose import compose
from .errors import ConfigError
from .formats import find  # noqa: F401
from .job import execute, names_model
from .module.policy import resolve_dtype, takes_checkpoint
from .module.user_code import own_code_refused
from .report.data import Report
from .schema import overlay
from .text.lines import Fix, python_text
from .text.wording import phrases, safe_text

log = logging.getLogger("loader")

Node = Mapping[str, Any]
"""A mapping as in the config; a DictConfig is one too."""

Rules = Node | Sequence[str] | str
"""Named rules, names of ready-made ones, or ``auto``."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded, verified model and its report.

    Args:
        module: The model; None in modes without one.
        report: The report of the job.
    """

    module: nn.Module | None
    report: Report

    @property
    def model(self) -> nn.Module:
        """The model in eval mode, on its device; raises ConfigError in modes without one."""
        if self.module is None:
            message = f"mode={self.report.mode} produces no model; its result is in the report"
            raise ConfigError(message, Fix("mode=load"))
        return self.module


def load(config: Sequence[str] | Node = ()) -> Loaded:
    """Runs the same job as the command line.

    Args:
        config: Overrides as on the command line, or a partial or complete config laid over the defaults: `model`,
            `rules`, `adapters`, `parts` and `verify.input` replace the default's, everything else is merged.
            `rules` may be a list of names of ready-made rules, in order.

    Raises:
        LoaderError: The job is refused, or the model fails its verification.
    """
    overrides = [] if isinstance(config, Mapping) else _overrides_of(config)
    composed, given = compose(overrides), None
    if isinstance(config, Mapping):
        given = _plain(config)
        given = {**given, **{k: _named(given[k]) for k in ("device", "dtype") if k in given}}
        composed = overlay(composed, given)
    report = Report(config=composed, overrides=overrides)
    asked = "model" in config if isinstance(config, Mapping) else names_model(overrides)
    return Loaded(execute(composed, report, asked=asked, given=given), report)


def load_model(
    model: Node | nn.Module | str | None,
    checkpoint: str | Path | Node,
    *,
    rules: Rules | None = None,
    adapters: Node | None = None,
    parts: Node | None = None,
    allow: Node | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | Mapping[str, str | torch.dtype | None] | None = None,
    seed: int = 0,
    verify: Node | None = None,
    trusted_targets: Sequence[str] | None = None,
) -> nn.Module:
    """Builds a model and loads its weights; usable as a `_target_` in any Hydra config.

    In a config, write ``_recursive_: false`` next to ``_target_: loader.load_model``: Hydra then passes `model` as a
    config, and the architecture is built without its random initialization. A built module is loaded into, in place.

    Args:
        model: A node with a `_target_`, a built module, ``embedded`` to take the config out of a converted file, or
            None to take the whole pickled model from the file.
        checkpoint: A path, or the `checkpoint` node.
        rules: Named key rules, or the names of ready-made ones: ``["ddp", "compile"]``; ``auto`` finds them.
        adapters: Named adapters: ``{"lora": {"path": "FOLDER"}}``.
        parts: Parts by submodule.
        allow: Allowances.
        device: As in the config, or a `torch.device`.
        dtype: As in the config, or a `torch.dtype`; also of globs over keys.
        seed: As in the config.
        verify: The `verify` node; without it only the structural checks are run, no forward pass.
        trusted_targets: As in the config.

    Returns:
        The model in eval mode.

    Raises:
        LoaderError: The load is refused.
    """
    _check_order("load_model", model, checkpoint)
    settings = _settings(checkpoint, rules=rules, adapters=adapters, parts=parts, allow=allow, verify=verify)
    settings |= {"seed": seed, "device": _named(device), "dtype": _named(dtype)}
    if isinstance(model, nn.Module):
        return all_or_nothing(partial(_load_moved, model, checkpoint, settings))
    settings["model"] = _plain(model)
    settings["trusted_targets"] = None if trusted_targets is None else list(trusted_targets)
    loaded = Loaded(execute(settings, report := Report(config=settings), prove=verify is not None), report)
    _warn_of_integers(report)
    return loaded.model


def _warn_of_integers(report: Report) -> None:
    """Logs a warning for a caller who gets no report."""
    if report.keys.cast:
        from .report.terminal import was_integer  # noqa: PLC0415  # only a cast needs it

        casts = [f"{safe_text(c['key'])} {c['checkpoint']} → {c['model']}" for c in report.keys.cast if was_integer(c)]
        if casts:
            log.warning("integer tensors in the file became floating-point tensors in the model: %s", phrases(casts))


def load_into(
    module: nn.Module,
    checkpoint: str | Path | Node,
    *,
    rules: Rules | None = None,
    adapters: Node | None = None,
    parts: Node | None = None,
    allow: Node | None = None,
    seed: int = 0,
    verify: Node | None = None,
) -> Report:
    """Loads weights into a live module, in place, all or nothing.

    Parameters and buffers keep their identity, memory, dtype and device; the module's training mode is left alone.

    Args:
        module: The module to fill.
        checkpoint: A path, a `checkpoint` node, or a state dict (a mapping whose values are tensors).
        rules: Named key rules, or the names of ready-made ones: ``["ddp", "compile"]``; ``auto`` finds them.
        adapters: Named adapters: ``{"lora": {"path": "FOLDER"}}``.
        parts: Parts by submodule.
        allow: Allowances.
        seed: For the dummy input of a verification.
        verify: The `verify` node; without it no forward pass is run.

    Returns:
        The report of the job.

    Raises:
        LoaderError: The load is refused, or the verification fails; the module is as it was.
    """
    _check_order("load_into", module, checkpoint)
    if not isinstance(module, nn.Module):
        given = f"{_shown(module)} as its module; a torch.nn.Module was expected"
        raise ConfigError(f"loader.load_into was given {given}", _call("load_into", "net", checkpoint))
    settings = _settings(checkpoint, rules=rules, adapters=adapters, parts=parts, allow=allow, verify=verify) | {
        "seed": seed
    }
    # Nothing may come after it: a load is final once `all_or_nothing` returns.
    return all_or_nothing(partial(_load_live, module, checkpoint, settings))


def _load_live(
    module: nn.Module,
    checkpoint: str | Path | Node,
    settings: dict[str, Any],
    transaction: Transaction,
    moved_to: torch.device | None = None,
) -> Report:
    """Loads into a live module; it stays on its device unless it is moved."""
    report = Report(config=settings)
    target = Live(module, transaction, _state_dict(checkpoint), moved_to)
    execute(settings, report, target=target, prove="verify" in settings)
    return report


@own_code_refused()
def _load_moved(
    module: nn.Module, checkpoint: str | Path | Node, settings: dict[str, Any], transaction: Transaction
) -> nn.Module:
    """Loads into a live module; returns it in eval mode, on the device and in the dtype of the settings."""
    moved_to = resolve_device(settings["device"])
    if takes_checkpoint(resolve_dtype(settings["dtype"])):
        raise ConfigError(
            "dtype=checkpoint needs the model as a config; a module that is built already has its dtypes",
            Fix("_recursive_: false", "next to _target_: loader.load_model"),
        )
    _warn_of_integers(_load_live(module, checkpoint, settings, transaction, moved_to))
    module.eval()  # it may return anything
    return module


def _settings(checkpoint: str | Path | Node, **nodes: Rules | None) -> dict[str, Any]:
    _check_checkpoint(checkpoint)
    if isinstance(checkpoint, Mapping):
        node = _plain(checkpoint) if _state_dict(checkpoint) is None else {}
    else:
        node = {"path": str(checkpoint)}
    given = {"checkpoint": node, **nodes}
    return {name: _plain(value) for name, value in given.items() if value is not None}


def _plain(node: Any) -> Any:
    """Converts OmegaConf nodes to plain Python."""
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, resolve=True)
    return {key: _plain(value) for key, value in node.items()} if isinstance(node, Mapping) else node


def _state_dict(checkpoint: str | Path | Node) -> Node | None:
    """The checkpoint where it is a state dict in memory."""
    if isinstance(checkpoint, Mapping) and any(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        return checkpoint
    return None


def _overrides_of(config: object) -> list[str]:
    """The overrides in a list; raises ConfigError for anything else."""
    if isinstance(config, str):
        raise ConfigError(
            f"loader.load takes a list of overrides, not the string {config!r}",
            Fix(f"loader.load([{python_text(config)}])"),
        )
    if isinstance(config, os.PathLike) or not isinstance(config, Iterable):
        named = Fix(f"loader.load([{python_text(f'checkpoint.path={config}')}])")
        fix = named if isinstance(config, os.PathLike) else Fix("loader.load()", "the shipped example")
        raise ConfigError(f"loader.load takes a list of overrides or a mapping, not {_shown(config)}", fix)
    overrides = list(config)
    for override in overrides:
        if not isinstance(override, str):
            found = f"each a string; found {_shown(override)}"
            raise ConfigError(f"loader.load takes a list of overrides, {found}", Fix("loader.load(['device=cpu'])"))
    return overrides


def _check_order(call: str, model: object, checkpoint: object) -> None:
    """Refuses a class instead of a module, and a model and a checkpoint in the wrong order."""
    if isinstance(model, type):
        given = f"the class {model.__name__}; a module that is built was expected"
        raise ConfigError(f"loader.{call} was given {given}", _call(call, f"{model.__name__}()", checkpoint))
    if isinstance(checkpoint, nn.Module) and not isinstance(model, nn.Module):
        given = "the module and the checkpoint in the wrong order; the module comes first"
        raise ConfigError(f"loader.{call} was given {given}", _call(call, "net", model))


def _call(name: str, model: str, checkpoint: object) -> Fix:
    path = python_text(os.fspath(checkpoint)) if isinstance(checkpoint, str | os.PathLike) else ""
    given = path or ("state" if isinstance(checkpoint, Mapping) else "'FILE'")
    return Fix(f"loader.{name}({model}, {given})")


def _check_checkpoint(checkpoint: object) -> None:
    """Refuses anything but a path, a node or a state dict."""
    if isinstance(checkpoint, str | os.PathLike | Mapping):
        return
    fix = Fix("checkpoint=net.state_dict()") if isinstance(checkpoint, nn.Module) else Fix("checkpoint='FILE'")
    raise ConfigError(
        f"the checkpoint is {_shown(checkpoint)}; a path, a mapping with a path or a state dict was expected", fix
    )


def _named(value: Any) -> Any:
    """A device or dtype by its name, as a config has it; other values as they are."""
    if isinstance(value, Mapping):
        return {key: _named(one) for key, one in value.items()}
    return str(value).removeprefix("torch.") if isinstance(value, torch.device | torch.dtype) else value


def _shown(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str):
        return safe_text(repr(value), 400)
    return f"the class {value.__name__}" if isinstance(value, type) else f"a value of the type {type(value).__name__}"
