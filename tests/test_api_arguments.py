"""What Python code hands to the loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import ConfigError, load, load_into, load_model
from tests.jobs import assert_same_state, save, target
from tests.models import Two, filled

QUIET = {"device": "cpu", "verify": {"input": {"shape": [1, 4]}}}
TAKES = "loader.load takes a list of overrides"
EXPECTED = "a path, a mapping with a path or a state dict was expected"


@pytest.fixture
def wrapped(tmp_path: Path) -> Path:
    state = filled(Two()).state_dict()
    return save({f"module._orig_mod.{key}": value for key, value in state.items()}, tmp_path / "wrapped.pt")


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        (None, f"{TAKES} or a mapping, not None", "loader.load()   # the shipped example"),
        (5, f"{TAKES} or a mapping, not 5", "loader.load()   # the shipped example"),
        (
            Path("a.pt"),
            f"{TAKES} or a mapping, not a value of the type PosixPath",
            "loader.load(['checkpoint.path=a.pt'])",
        ),
        (["seed=1", None], f"{TAKES}, each a string; found None", "loader.load(['device=cpu'])"),
    ],
)
def test_load_reports_the_config_that_it_uses(config: Any, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(config)
    assert (refusal.value.message, refusal.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("model", "checkpoint", "message", "hint"),
    [
        (Two, "a.pt", "the class Two; a module that is built was expected", "loader.load_model(Two(), 'a.pt')"),
        (
            "a.pt",
            Two(),
            "the module and the checkpoint in the wrong order; the module comes first",
            "loader.load_model(net, 'a.pt')",
        ),
    ],
)
def test_load_model_names_the_mistake(model: Any, checkpoint: Any, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_model(model, checkpoint)
    assert (refusal.value.message, refusal.value.hint) == (f"loader.load_model was given {message}", hint)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ("a.pt", Two()),
            "loader.load_into was given the module and the checkpoint in the wrong order; the module comes first",
            "loader.load_into(net, 'a.pt')",
        ),
        (
            (Two, Path("a.pt")),
            "loader.load_into was given the class Two; a module that is built was expected",
            "loader.load_into(Two(), 'a.pt')",
        ),
        (
            (None, {"weight": torch.ones(1)}),
            "loader.load_into was given None as its module; a torch.nn.Module was expected",
            "loader.load_into(net, state)",
        ),
        ((Two(), Two()), f"the checkpoint is a value of the type Two; {EXPECTED}", "checkpoint=net.state_dict()"),
        ((Two(), None), f"the checkpoint is None; {EXPECTED}", "checkpoint='FILE'"),
    ],
)
def test_load_into_names_the_mistake(arguments: tuple[Any, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_into(*arguments)
    assert (refusal.value.message, refusal.value.hint) == (message, hint)


def test_rules_may_be_named_wherever_they_are_given(wrapped: Path) -> None:
    expected, rules = filled(Two()).state_dict(), ["ddp", "compile"]
    model: dict[str, Any] = {"model": target("Two"), "checkpoint": {"path": str(wrapped)}}
    net = Two()

    load_into(net, wrapped, rules=rules)

    assert_same_state(net, expected)
    assert_same_state(load_model(**model, rules=rules, device="cpu"), expected)
    assert_same_state(load_model(Two(), wrapped, rules=tuple(rules), device="cpu"), expected)
    assert_same_state(load({**model, **QUIET, "rules": rules}).model, expected)
    with pytest.raises(ConfigError, match=r"^'rules' lists 'dpp' \(did you mean 'ddp'\?\), expected ready-made") as no:
        load_into(net, wrapped, rules=["dpp", "compile"])
    assert no.value.hint == "'rules=[ddp,compile]'"


@pytest.mark.parametrize("built", [True, False])
def test_device_and_dtype_may_be_torchs_own(built: bool, tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    model: nn.Module | dict[str, Any] = Two() if built else target("Two")

    loaded = load_model(model, path, dtype=torch.float64, device=torch.device("cpu"))

    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.float64}
    with pytest.raises(ConfigError, match=r"^'dtype' is 'int8', expected null, checkpoint or one of float16"):
        load_model(model, path, dtype=torch.int8)


def test_names_in_a_mapping_are_those_of_the_config(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    config = {"model": target("Two"), "checkpoint": {"path": str(path)}, **QUIET}

    loaded = load({**config, "device": torch.device("cpu"), "dtype": torch.float64})

    assert loaded.report.config["dtype"] == "float64"
    assert loaded.report.config["device"] == "cpu"
