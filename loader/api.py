"""The loader from Python, and from other people's Hydra apps.

Guarantees: no run folder is written and the global random state is left as it was found; whatever goes wrong with a
job, its verification included, is raised as a `LoaderError`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import nn

from . import pipeline  # noqa: F401  # every load needs these two; torch is here, so they need not wait for the first
from .apply.live import refuse_unfit
from .apply.place import own_random_state, resolve_device, settle
from .apply.prepare import prepare
from .apply.transaction import Transaction, all_or_nothing
from .config.call_arguments import check_checkpoint, check_module, check_order, overrides_of, plain_names
from .config.compose import compose
from .config.parse import parse_job
from .errors import ConfigError
from .formats import found  # noqa: F401
from .formats.memory import MemoryCheckpoint
from .job import execute, names_model
from .module.dtype import resolve_dtype
from .module.slots import slots
from .module.user_code import own_code_refused
from .parts.open import Part, open_parts, part_configs, with_root
from .report import fill
from .report.data import Report
from .schema import JobConfig, overlay
from .text.lines import Fix
from .text.wording import phrases, safe_text
from .verify.verify import check_inputs, check_structure, keep_record, record_of
from .verify.verify import verify as prove

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
    settings = _settings(checkpoint, rules, parts, allow, verify)
    named = plain_names({"device": device, "dtype": dtype})
    if isinstance(model, nn.Module):
        place, policy = resolve_device(named["device"]), resolve_dtype(named["dtype"])
        if policy == "checkpoint":
            raise ConfigError(
                "dtype=checkpoint needs the model as a config; a module that is built already has its dtypes",
                Fix("_recursive_: false", "next to _target_: loader.load_model"),
            )
        return all_or_nothing(
            lambda transaction: _settled(model, checkpoint, settings | {"seed": seed}, place, policy, transaction)
        )
    settings |= {"model": _plain(model), **named, "seed": seed}
    settings["trusted_targets"] = None if trusted_targets is None else list(trusted_targets)
    loaded = Loaded(execute(settings, report := Report(config=settings), prove=verify is not None), report)
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
    return all_or_nothing(lambda transaction: _fill(module, checkpoint, settings, None, transaction))


@own_code_refused()
def _settled(
    module: nn.Module,
    checkpoint: str | Path | Node,
    settings: dict[str, Any],
    device: torch.device,
    policy: str | None,
    transaction: Transaction,
) -> nn.Module:
    """A live module with its weights, in eval mode, where and in what dtype it was asked for."""
    report = _fill(module, checkpoint, settings, policy, transaction)
    transaction.snapshot(module)
    settle(module, device, policy, parse_job(settings).allow)
    _warn_of_integers(report)
    module.eval()  # what it returns is the model's own affair
    return module


@own_code_refused()
def _fill(
    module: nn.Module,
    checkpoint: str | Path | Node,
    settings: dict[str, Any],
    policy: str | None,
    transaction: Transaction,
) -> Report:
    refuse_unfit(module)
    job = parse_job(settings)
    report = Report(config=settings)
    clock = fill.Clock(report)
    device = next((tensor.device for tensor in (*module.parameters(), *module.buffers())), torch.device("cpu"))
    with own_random_state(device), ExitStack() as files, clock("total"):
        opened: Sequence[Part] = (
            _in_memory(job, checkpoint)
            if _is_state_dict(checkpoint)
            else with_root(open_parts(job, files), job, slots(module), files)
        )
        proves = "verify" in settings
        record = record_of(job, opened) if proves else None
        prepared = prepare(module, opened, job.allow, device, policy)
        prepared.refuse_misfit()
        if proves:
            check_inputs(module, job, opened, record)
        prepared.carry_out(transaction)
        check_structure(module, device, report.verification)
        made = None
        if proves:
            loaded = transaction.snapshot(module)
            module.eval()
            made = prove(module, job, opened, record, device, report.verification, prepared)
            loaded.restore()
        for part in opened:
            part.checkpoint.check_unchanged()
        if record is not None and made is not None:
            keep_record(record, made, report.verification)
        fill.parts(report, opened)
        fill.live_model(report, module, device)
        fill.keys(report, module, opened, prepared)
    fill.environment(report)
    return report


def _settings(
    checkpoint: str | Path | Node, rules: Rules | None, parts: Node | None, allow: Node | None, verify: Node | None
) -> dict[str, Any]:
    check_checkpoint(checkpoint)
    if isinstance(checkpoint, Mapping):
        node = {} if _is_state_dict(checkpoint) else _plain(checkpoint)
    else:
        node = {"path": str(checkpoint)}
    given = {"checkpoint": node, "rules": rules, "parts": parts, "allow": allow, "verify": verify}
    return {name: _plain(value) for name, value in given.items() if value is not None}


def _plain(node: Any) -> Any:
    """An OmegaConf node, or a mapping that holds some, as plain Python."""
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, resolve=True)
    return {key: _plain(value) for key, value in node.items()} if isinstance(node, Mapping) else node


def _is_state_dict(checkpoint: object) -> bool:
    return isinstance(checkpoint, Mapping) and any(isinstance(value, torch.Tensor) for value in checkpoint.values())


def _in_memory(job: JobConfig, state: Any) -> list[Part]:
    memory = MemoryCheckpoint(state)
    return [Part(name, config, memory) for name, config in part_configs(job).items()]
