"""Constructor arguments that lie next to the weights, under any name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from omegaconf import OmegaConf
from torch import nn

import loader
from tests.jobs import save
from tests.models import filled

SCALED = "tests.modes.scaffold.test_hints.Scaled"
TOLD = {"act_scale": 2.5, "width": 6}


class Scaled(nn.Module):
    """Has an argument that no shape tells."""

    def __init__(self, width: int = 4, act_scale: float = 1.0, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2)
        self.settings = (act_scale, momentum, eps)


@dataclass
class Settings:
    """What a training program may keep as an object."""

    width: int = 6
    act_scale: float = 2.5


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scaffold(content: Any) -> tuple[dict[str, Any], str]:
    """The model's node that is written for a file, and the whole text."""
    save(content, Path("f.pt"))
    return scaffolded()


def scaffolded() -> tuple[dict[str, Any], str]:
    report = loader.load(["mode=scaffold", f"model._target_={SCALED}", "checkpoint.path=f.pt"]).report
    assert report.written is not None
    text = Path(report.written["path"]).read_text()
    node = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    assert isinstance(node, dict)
    return node["model"], text


def weights() -> dict[str, torch.Tensor]:
    return filled(Scaled(6)).state_dict()


def places() -> Iterator[tuple[str, Any, str]]:
    for name in ("hyper_parameters", "params", "settings", "config_dict", "anything"):
        yield name, {"state_dict": weights(), name: TOLD}, f"the file's {name}"
    yield "next to the weights", {"state_dict": weights(), "act_scale": 2.5}, "the file's act_scale"
    yield "among the weights", {**weights(), "act_scale": 2.5}, "the file's act_scale"
    yield "alone", {"state_dict": weights(), "meta": {"act_scale": 2.5}}, "the file's meta"
    yield "among others", {"state_dict": weights(), "run": {"act_scale": 2.5, "seed": 1}}, "the file's run"
    yield "in a list", {"state_dict": weights(), "all": [1, {"seed": 1}, TOLD]}, "the file's all.2"
    yield "a list's second", [weights(), TOLD], "the file's 1"
    yield "deep inside", {"state_dict": weights(), "x": {"y": {"z": {"net": TOLD}}}}, "the file's x.y.z.net"
    yield "an object", {"state_dict": weights(), "made_by": Settings()}, "the file's made_by"
    yield "a namespace", {"state_dict": weights(), "made_by": argparse.Namespace(**TOLD)}, "the file's made_by"
    yield "as JSON", {"state_dict": weights(), "made_by": json.dumps(TOLD)}, "the file's made_by"
    numbers = {"act_scale": np.float64(2.5), "width": np.int64(6)}
    yield "numbers of NumPy's", {"state_dict": weights(), "params": numbers}, "the file's params"
    yield "a short number of NumPy's", {**weights(), "act_scale": np.float16(2.5)}, "the file's act_scale"
    yield "under dotted names", {"state_dict": weights(), "a": {"net.act_scale": 2.5, "net.width": 6}}, "the file's a"
    yield "under a path", {"state_dict": weights(), "a": {"net/act_scale": 2.5, "seed": 1}}, "the file's a"
    yield "the fuller", {"state_dict": weights(), "a": {"act_scale": 9.0}, "b": TOLD}, "the file's b"
    two = {"state_dict": weights(), "act_scale": 9.0, "hparams": TOLD}
    yield "the known place", two, "the file's hparams"


@pytest.mark.parametrize(("content", "origin"), [pytest.param(c, o, id=n) for n, c, o in places()])
def test_an_argument_is_found_under_any_name(content: Any, origin: str) -> None:
    node, text = scaffold(content)

    assert (node["act_scale"], node["width"]) == (2.5, 6)
    assert f"act_scale: 2.5  # from {origin}\n" in text


@pytest.mark.parametrize(
    "content",
    [
        {"optimizer": {"state": {}, "param_groups": [{"momentum": 0.9, "eps": 1e-8}]}},
        {"opt": {"state": {}, "param_groups": [{"momentum": 0.9, "eps": 1e-8}]}},
        {"lr_schedulers": [{"momentum": 0.9}]},
        {"callbacks": {"Checkpoint": {"eps": 1.0, "momentum": 2.0}}},
        {"backbone": nn.BatchNorm1d(2, eps=0.5, momentum=0.5)},
    ],
)
def test_the_settings_of_a_trainer_or_of_layers_are_no_arguments(content: dict[str, Any]) -> None:
    node, _ = scaffold({"state_dict": weights(), **content})

    assert (node["momentum"], node["eps"]) == (0.1, 1e-5)


def test_the_last_part_of_a_name_that_stands_for_two_values_says_nothing() -> None:
    for a in ({"encoder.act_scale": 2.5, "decoder.act_scale": 3.5}, {"optimizer.momentum": 0.9}):
        node, _ = scaffold({"state_dict": weights(), "a": a})
        assert (node["act_scale"], node["momentum"]) == (1.0, 0.1)
        Path("conf/experiment/f.yaml").unlink()


def test_what_two_places_dispute_is_left_open() -> None:
    node, text = scaffold({"state_dict": weights(), "a": TOLD, "b": {**TOLD, "act_scale": 3.0}})

    assert (node["act_scale"], node["width"]) == ("???", 6)
    assert "act_scale: ???  # 2.5 in the file's a and 3.0 in the file's b; no shape decides\n" in text


def test_a_value_that_the_shapes_contradict_is_not_written() -> None:
    node, text = scaffold({"state_dict": weights(), "params": {"width": 99, "act_scale": 2.5}})

    assert (node["act_scale"], node["width"]) == (2.5, 6)
    assert "# from the shapes\n" in text


@pytest.mark.parametrize(
    ("config", "origin"), [(TOLD, "config.json"), ({"model": TOLD, "model_type": "own"}, "config.json's model")]
)
def test_a_config_next_to_the_file_is_a_source(config: dict[str, Any], origin: str) -> None:
    Path("config.json").write_text(json.dumps(config))
    node, text = scaffold(weights())

    assert (node["act_scale"], node["width"]) == (2.5, 6)
    assert f"# from {origin}\n" in text


def test_the_file_itself_comes_before_the_config_next_to_it() -> None:
    Path("config.json").write_text(json.dumps({"act_scale": 9.0, "width": 6, "eps": 1.0}))
    node, _ = scaffold({"state_dict": weights(), "params": {"act_scale": 2.5}})

    assert (node["act_scale"], node["eps"]) == (2.5, 1.0)


@pytest.mark.parametrize("text", ["no JSON {", "[1, 2]", '{"a": 1, "a": 2}', ""])
def test_a_config_that_cannot_be_read_is_no_source_and_no_refusal(text: str) -> None:
    Path("config.json").write_text(text)

    assert scaffold(weights())[0]["act_scale"] == 1.0


@pytest.mark.parametrize("notes", [{"act_scale": "2.5", "note": "text"}, {"config": json.dumps(TOLD)}])
def test_the_notes_of_a_safetensors_file_are_a_source(notes: dict[str, str]) -> None:
    safetensors.torch.save_file(weights(), "f.pt", metadata=notes)

    assert scaffolded()[0]["act_scale"] == 2.5
