"""What a user did not permit is not done, whatever else was said to whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.errors import CheckpointError, ConfigError, LoaderError
from tests.formats.hostile import torch_zip
from tests.hostile.carriers import CARRIERS
from tests.hostile.case import MODEL, WEIGHT
from tests.hostile.routes import ROUTES
from tests.jobs import carry_out


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def hostile(tmp_path: Path, mark: Path) -> Path:
    """Honest weights next to a call."""
    (tmp_path / "files").mkdir()
    return CARRIERS["torch-zip"](tmp_path / "files", ROUTES["GLOBAL and REDUCE"](str(mark)))


@pytest.fixture
def whole(tmp_path: Path, mark: Path) -> Path:
    """A whole module with a call in an attribute."""
    state = b"}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00a"
    call = ROUTES["GLOBAL and REDUCE"](str(mark))
    return torch_zip(tmp_path / "whole.pt", b"ctorch.nn.modules.linear\nIdentity\n)\x81" + state + call + b"ub.")


def refusal(path: Path, **checkpoint: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        carry_out(None, path, checkpoint=checkpoint)
    return caught.value


def test_what_torch_and_hydra_are_told_elsewhere_widens_nothing(
    hostile: Path, whole: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = refusal(whole).message
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.setenv("HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE", "os.system:posix.system")
    with torch.serialization.safe_globals([os.system]):
        assert refusal(whole).message == before
        assert torch.equal(carry_out(MODEL, hostile).model.state_dict()["weight"], WEIGHT)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["os", "os.*", "*", "posix.system", "os.system.x", "os.syste", "torch.nn.*", "system"])
def test_nothing_is_admitted_by_pattern_prefix_or_alias(name: str, whole: Path, mark: Path) -> None:
    error = refusal(whole, allow_globals=[name, "torch.nn.modules.linear.Identity"])
    assert "os.system, which no model needs" in error.message
    assert "do not load this file" in error.message
    assert not mark.exists()


def test_a_name_that_is_admitted_exactly_is_used_only_with_its_real_name(whole: Path, mark: Path) -> None:
    admitted = ["torch.nn.modules.linear.Identity", "os.system"]
    assert "it is really posix.system, and that name is not admitted" in refusal(whole, allow_globals=admitted).message
    assert not mark.exists()
    carry_out(None, whole, checkpoint={"allow_globals": [*admitted, "posix.system"]})
    assert mark.exists()


def test_permissions_are_for_taking_a_model_out_and_a_declared_one_uses_none(hostile: Path, mark: Path) -> None:
    permitted = {"allow_globals": ["os.system", "posix.system"], "trust": True}
    loaded = carry_out(MODEL, hostile, checkpoint=permitted)
    assert torch.equal(loaded.model.state_dict()["weight"], WEIGHT)
    assert not mark.exists()


def test_trust_is_no_way_around_a_damaged_file(tmp_path: Path, mark: Path) -> None:
    """A pickle that the inert reader refuses is not handed to another one."""
    call = ROUTES["GLOBAL and REDUCE"](str(mark))
    path = torch_zip(tmp_path / "a.pt", call + b"\xff.")
    assert "invalid opcode 0xff" in refusal(path, trust=True).message
    assert not mark.exists()


TRAPS: dict[str, list[str]] = {
    "a target": ["model._target_=os.system", "+model.command={mark}"],
    "an interpolated target": ["model._target_=${{oc.env:TRAP}}.system", "+model.command={mark}"],
    "a nested target": ["+model.more={{_target_: os.system, command: '{mark}'}}"],
    "a target in a list": ["+model.more=[1, {{_target_: os.system, command: '{mark}'}}]"],
    "a positional target": ["+model._args_=[{{_target_: os.system, _args_: ['{mark}']}}]"],
    "a partial target": ["+model.more={{_target_: os.system, _partial_: true, command: '{mark}'}}"],
    "an alias": ["+model.more={{_target_: torch.serialization.os.system, _args_: ['{mark}']}}"],
    "another alias": ["+model.more={{_target_: logging.os.system, _args_: ['{mark}']}}"],
    "a lookup": ["+model.more={{_target_: hydra.utils.get_object, path: os.system}}"],
    "a method": ["+model.more={{_target_: hydra.utils.get_method, path: logging.os.system}}"],
    "hydra in hydra": ["+model.more={{_target_: hydra.utils.instantiate, _args_: [{{_target_: os.system}}]}}"],
    "unpickling": ["+model.more={{_target_: torch.load, f: '{mark}', weights_only: false}}"],
    "a builtin": ["+model.more={{_target_: builtins.open, file: '{mark}', mode: w}}"],
    "a target where none belongs": ["+checkpoint.path={{_target_: builtins.open, file: '{mark}', mode: w}}"],
    "a target in the input": ["verify.input={{value: {{_target_: builtins.open, file: '{mark}', mode: w}}}}"],
}  # fmt: skip


@pytest.mark.parametrize("trap", TRAPS)
def test_the_whole_config_is_judged_before_anything_is_called(
    trap: str, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAP", "os")
    command = f"touch {mark}" if "open" not in trap and "builtin" not in trap else str(mark)
    overrides = [text.format(mark=str(mark) if "builtins.open" in text else command) for text in TRAPS[trap]]
    with pytest.raises(LoaderError) as caught:
        loader.load(overrides)
    assert isinstance(caught.value, ConfigError)
    assert "is refused" in caught.value.message or not any("model" in text for text in overrides)
    assert not mark.exists()


def test_hyper_parameters_in_a_checkpoint_are_data(tmp_path: Path, mark: Path) -> None:
    trap = {"_target_": "builtins.open", "file": str(mark), "mode": "w"}
    told = {
        "state_dict": {"weight": WEIGHT},
        "hyper_parameters": {**trap, "path": "${oc.env:HOME}", "x": "{0.__class__}"},
    }
    torch.save(told, tmp_path / "a.ckpt")
    loaded = carry_out(MODEL, tmp_path / "a.ckpt", checkpoint={"key": "state_dict"})
    assert torch.equal(loaded.model.state_dict()["weight"], WEIGHT)
    assert not mark.exists()
