"""The loader from Python, and from other people's Hydra apps.

Guarantees: no run folder is written and the global random state is left as it was found; whatever goes wrong with a
job, its verification included, is raised as a `LoaderError`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
from .config.call_arguments import check_checkpoint, check_module, check_order, overrides_of, plain_names
from .config.compose import compose
from .errors import ConfigError
from .formats import find  # noqa: F401
from .job import execute, names_model
from .module.dtype import resolve_dtype
from .module.user_code import own_code_refused
from .report.data import Report
from .schema import overlay
from .text.lines import Fix
from .text.wording import phrases, safe_text

log = logging.getLogger("loader")

Node = Mapping[str, Any]
"""A mapping as in the config; a DictConfig is one too."""

Rules = Node | Sequence[str] | str
"""Named rules, names of ready-made ones, or ``auto``."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded, verified model and what happened.

    Args:
        module: The model; None in the modes that have none.
        report: What happened.
    """

    module: nn.Module | None
    report: Report

    @property
    def model(self) -> nn.Module:
        """The model in eval mode, on its device; raises ConfigError in the modes that have none."""
        if self.module is None:
            raise ConfigError(f"mode={self.report.mode} gives no model, its result is in the report", Fix("mode=load"))
        return self.module


def load(config: Sequence[str] | Node = ()) -> Loaded:
    """Does the same job as the command line.

    Args:
        config: Overrides as on the command line, or a partial or complete config laid over the defaults: `model`,
            `rules`, `parts` and `verify.input` replace the default's, everything else is merged.
            `rules` may be a list of names of ready-made rules, in order.

    Raises:
        LoaderError: The job is refused, or the model fails its verification.
    """
    overrides = [] if isinstance(config, Mapping) else overrides_of(config)
    composed = compose(overrides)
    if isinstance(config, Mapping):
        composed = overlay(composed, plain_names(_plain(config)))
    report = Report(config=composed, overrides=overrides)
    asked = "model" in config if isinstance(config, Mapping) else names_model(overrides)
    return Loaded(execute(composed, report, asked=asked), report)


def load_model(
    model: Node | nn.Module | str | None,
    checkpoint: str | Path | Node,
    *,
    rules: Rules | None = None,
    parts: Node | None = None,
    allow: Node | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    seed: int = 0,
    verify: Node | None = None,
    trusted_targets: Sequence[str] | None = None,
) -> nn.Module:
    """Builds a model and loads its weights; meant as a `_target_` in anybody's Hydra config.

    In a config, write ``_recursive_: false`` beside ``_target_: loader.load_model``: Hydra then hands `model` over as a
    config, and the architecture is built without its random initialisation. A module that is built already is loaded
    into, in place.

    Args:
        model: A node with a `_target_`, a built module, ``embedded`` to take the config out of a converted file, or
            None to take the whole model that the file holds.
        checkpoint: A path, or the `checkpoint` node.
        rules: Named key rules, or the names of ready-made ones: ``["ddp", "compile"]``; ``auto`` finds them.
        parts: Parts by submodule.
        allow: Allowances.
        device: As in the config, or a `torch.device`.
        dtype: As in the config, or a `torch.dtype`.
        seed: As in the config.
        verify: The `verify` node; without it no forward pass is run, the structural checks are.
        trusted_targets: As in the config.

    Returns:
        The model in eval mode.

    Raises:
        LoaderError: The load is refused.
    """
    check_order("load_model", model, checkpoint)
    proves = verify is not None
    settings = _settings(checkpoint, rules, parts, allow, verify)
    settings |= {"seed": seed, **plain_names({"device": device, "dtype": dtype})}
    if isinstance(model, nn.Module):
        return all_or_nothing(partial(_load_moved, model, checkpoint, settings, proves=proves))
    settings["model"] = _plain(model)
    settings["trusted_targets"] = None if trusted_targets is None else list(trusted_targets)
    loaded = Loaded(execute(settings, report := Report(config=settings), prove=proves), report)
    _warn_of_integers(report)
    return loaded.model


def _warn_of_integers(report: Report) -> None:
    """Logs what nobody who gets a model alone would see."""
    if report.keys.cast:
        from .report.terminal import was_integer  # noqa: PLC0415  # only a cast needs it

        told = [f"{safe_text(c['key'])} {c['checkpoint']} → {c['model']}" for c in report.keys.cast if was_integer(c)]
        if told:
            log.warning("integers of the file became floats of the model: %s", phrases(told))


def load_into(
    module: nn.Module,
    checkpoint: str | Path | Node,
    *,
    rules: Rules | None = None,
    parts: Node | None = None,
    allow: Node | None = None,
    seed: int = 0,
    verify: Node | None = None,
) -> Report:
    """Loads weights into a live module, in place, all or nothing.

    Parameters and buffers keep their identity, memory, dtype and device; the module's training mode is left alone.

    Args:
        module: What is filled.
        checkpoint: A path, a `checkpoint` node, or a state dict (a mapping whose values are tensors).
        rules: Named key rules, or the names of ready-made ones: ``["ddp", "compile"]``; ``auto`` finds them.
        parts: Parts by submodule.
        allow: Allowances.
        seed: For the dummy input of a verification.
        verify: The `verify` node; without it no forward pass is run.

    Returns:
        What happened.

    Raises:
        LoaderError: The load is refused, or the verification fails; the module is as it was.
    """
    check_module(module, checkpoint)
    settings = _settings(checkpoint, rules, parts, allow, verify) | {"seed": seed}
    # Nothing comes after it: its last line is what makes the load final.
    return all_or_nothing(partial(_load_live, module, checkpoint, settings, proves=verify is not None))


def _load_live(
    module: nn.Module,
    checkpoint: str | Path | Node,
    settings: dict[str, Any],
    transaction: Transaction,
    *,
    proves: bool,
    moved_to: torch.device | None = None,
) -> Report:
    """Fills a live module; it stays where it is unless it is to be moved."""
    report = Report(config=settings)
    target = Live(module, transaction, _state_dict(checkpoint), moved_to)
    execute(settings, report, target=target, prove=proves)
    return report


@own_code_refused()
def _load_moved(
    module: nn.Module,
    checkpoint: str | Path | Node,
    settings: dict[str, Any],
    transaction: Transaction,
    *,
    proves: bool,
) -> nn.Module:
    """Fills a live module; returns it in eval mode, on the device and in the dtype that were asked for."""
    moved_to = resolve_device(settings["device"])
    if resolve_dtype(settings["dtype"]) == "checkpoint":
        raise ConfigError(
            "dtype=checkpoint needs the model as a config; a module that is built already has its dtypes",
            Fix("_recursive_: false", "next to _target_: loader.load_model"),
        )
    report = _load_live(module, checkpoint, settings, transaction, proves=proves, moved_to=moved_to)
    _warn_of_integers(report)
    module.eval()  # what it returns is the model's own affair
    return module


def _settings(
    checkpoint: str | Path | Node, rules: Rules | None, parts: Node | None, allow: Node | None, verify: Node | None
) -> dict[str, Any]:
    check_checkpoint(checkpoint)
    if isinstance(checkpoint, Mapping):
        node = _plain(checkpoint) if _state_dict(checkpoint) is None else {}
    else:
        node = {"path": str(checkpoint)}
    given = {"checkpoint": node, "rules": rules, "parts": parts, "allow": allow, "verify": verify}
    return {name: _plain(value) for name, value in given.items() if value is not None}


def _plain(node: Any) -> Any:
    """An OmegaConf node, or a mapping that holds some, as plain Python."""
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, resolve=True)
    return {key: _plain(value) for key, value in node.items()} if isinstance(node, Mapping) else node


def _state_dict(checkpoint: str | Path | Node) -> Node | None:
    """The checkpoint where it is a state dict in memory."""
    if isinstance(checkpoint, Mapping) and any(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        return checkpoint
    return None
