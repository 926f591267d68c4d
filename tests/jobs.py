"""Runs jobs without a command line, and compares what they leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader.api import Loaded
from loader.errors import FitError
from loader.job import execute
from loader.keys.plan import Plan
from loader.report.data import Report

MODELS = "tests.models."


def job(model: str | Mapping[str, Any] | None, path: Path | str, **settings: Any) -> dict[str, Any]:
    """A config; a model's name is one of `tests.models`, `verify` adds to no forward pass by default."""
    node = {"_target_": MODELS + model} if isinstance(model, str) else model
    checkpoint = {"path": str(path), **settings.pop("checkpoint", {})}
    return {"model": node, "checkpoint": checkpoint, "device": "cpu", "verify": {"forward": False}, **settings}


def carry_out(model: str | Mapping[str, Any] | None, path: Path | str, **settings: Any) -> Loaded:
    """Does the job without Hydra."""
    report = Report()
    return Loaded(execute(job(model, path, **settings), report), report)


def misfit(model: str | Mapping[str, Any] | None, path: Path | str, **settings: Any) -> Plan:
    """The plan of a job that is refused because the keys do not fit."""
    with pytest.raises(FitError, match="does not fit the model") as refusal:
        carry_out(model, path, **settings)
    assert refusal.value.plan is not None
    return refusal.value.plan


def target(name: str, **arguments: Any) -> dict[str, Any]:
    """The node of a model of `tests.models`."""
    return {"_target_": MODELS + name, **arguments}


def save(content: Any, path: Path, *, legacy: bool = False) -> Path:
    """Writes a file with torch."""
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def checks(report: Report) -> dict[str, bool | None]:
    """The checks of a report: name → passed, None where it was not done."""
    return {check.name: check.ok for check in report.verification.checks}


def detail(report: Report, name: str) -> str:
    """What a report says of one check."""
    return next(check.detail for check in report.verification.checks if check.name == name)


def assert_same_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Asserts that a module holds exactly these values."""
    own = module.state_dict()
    assert list(own) == list(state)
    for key, value in state.items():
        assert same_tensor(own[key], value), key


def same_tensor(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two dense tensors are equal to the bit."""
    return left.dtype == right.dtype and left.shape == right.shape and raw(left) == raw(right)


def raw(tensor: torch.Tensor) -> bytes:
    """The bytes of a dense tensor's elements, in order."""
    flat = tensor.detach().cpu().resolve_conj().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).tolist()) if flat.numel() else b""


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that a refused load must leave as it was, to be compared with a later one."""
    seen: dict[str, Any] = {}
    for prefix, child in module.named_modules():
        seen[f"{prefix}|class"] = type(child)
        seen[f"{prefix}|training"] = child.training
        for name, value in vars(child).items():
            seen[f"{prefix}|{name}"] = _fingerprint(value)
    return seen


def _fingerprint(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        lazy = nn.parameter.is_lazy(value)
        place = () if lazy else (value.data_ptr(), value.stride(), tuple(value.shape), raw(value))
        kind = (type(value), id(value), value.dtype, value.device, value.requires_grad, value.grad_fn)
        return (*kind, *place)
    if isinstance(value, Mapping):
        return {key: _fingerprint(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fingerprint(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else id(value)
