from __future__ import annotations

import argparse
import json
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.formats.pickle.tree import leaf
from loader.formats.tree import Container, Leaf, Node, TensorEntry
from loader.job import execute
from loader.parts.open import open_checkpoint
from loader.report.beside import beside, step_of
from loader.report.data import Report
from loader.report.terminal import lines, table


def lightning(module: torch.nn.Module) -> dict[str, Any]:
    """What a Trainer of Lightning saves."""
    optimizer = torch.optim.Adam(module.parameters(), 0.1)
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {
        "epoch": 1,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict((f"model.{name}", value) for name, value in module.state_dict().items()),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(1.0), "dirpath": "x"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "layers": [1, 2], "namespace": argparse.Namespace(a=1), "nested": {"deep": 1}},
    }


def test_a_lightning_file_loads_and_shows_its_hyperparameters(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 4)
    torch.save(lightning(module), tmp_path / "last.ckpt")
    loaded = loader.load(
        {
            "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 4},
            "checkpoint": {"path": str(tmp_path / "last.ckpt"), "key": "state_dict"},
            "rules": {"lightning": {"strip": "model."}},
            "device": "cpu",
        }
    )
    assert isinstance(loaded.model, torch.nn.Linear)
    assert torch.equal(loaded.model.weight, module.weight)
    assert loaded.report.parts[""].beside == {
        "epoch": "1",
        "global_step": "4",
        "pytorch-lightning_version": "2.6.6",
        "lr_schedulers": "[]",
        "hparams_name": "kwargs",
        "hyper_parameters.lr": "0.1",
        "hyper_parameters.layers": "[1, 2]",
        "hyper_parameters.namespace": "argparse.Namespace (1 attribute)",
    }


def test_a_file_that_is_all_weights_has_no_other_entries(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "epoch": 1}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        assert beside(checkpoint.root, checkpoint.root) == {}


def test_the_selected_weights_and_other_state_dicts_are_left_out() -> None:
    root = Container("dict", "dict", {"a": Container("dict", "dict", {"x": leaf(1)})})
    root.children["b"] = selected = Container("dict", "dict", {"y": leaf(2)})
    root.children["c"] = Leaf("argparse.Namespace", record=object())
    weights: dict[str, Node] = {"w": TensorEntry("float32", (1,)), "z": leaf(3)}
    root.children["ema"] = Container("dict", "dict", weights)
    assert beside(root, selected) == {"a.x": "1", "c": "argparse.Namespace"}


def test_the_number_of_entries_is_bounded() -> None:
    root = Container("dict", "dict", {str(number): leaf(1) for number in range(1000)})
    assert len(beside(root, Container("dict", "dict"))) == 100


def _plan(folder: Path, state: dict[str, torch.Tensor], **settings: object) -> Report:
    path = folder / "weights.pt"
    torch.save(state, path)
    config = {
        "mode": "plan",
        "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
        "checkpoint": {"path": str(path)},
        **settings,
    }
    report = Report(config=config)
    execute(config, report)
    return report


def test_every_key_of_either_side_has_one_row(tmp_path: Path) -> None:
    state = {"m.weight": torch.zeros(2, 3), "head": torch.zeros(1), "junk": torch.zeros(4)}
    report = _plan(
        tmp_path,
        state,
        rules={"m": {"strip": "m."}, "junk": {"drop": "junk"}},
        allow={"missing": ["bias"], "unexpected": ["head"]},
    )
    rows = report.plan or []
    assert sorted(row["key"] for row in rows if row["key"]) == ["bias", "weight"]
    assert sorted(row["source"] for row in rows if row["source"]) == ["head", "junk", "m.weight"]
    assert {row["key"] or row["source"]: row["action"] for row in rows} == {
        "weight": "load",
        "bias": "missing, allowed",
        "head": "unexpected, allowed",
        "junk": "dropped by a rule",
    }


def test_a_plan_reads_no_tensor_data_and_initialises_nothing(tmp_path: Path) -> None:
    report = _plan(tmp_path, {"weight": torch.zeros(2, 3)}, allow={"missing": ["bias"]})
    assert report.model is not None
    assert report.model.build == "hollow"
    assert "apply" not in report.timings


def test_the_table_has_a_heading_and_a_line_per_key(tmp_path: Path) -> None:
    report = _plan(tmp_path, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    drawn = list(table(report.plan or []))
    assert drawn[0].split() == ["action", "model", "key", "model", "file", "key", "file"]
    assert drawn[1].split() == ["load", "weight", "[2,", "3]", "float32", "weight", "[2,", "3]", "float32"]
    assert len(drawn) == 3
    assert any(label == "plan" for label, _, _ in lines(report))


def test_the_plan_is_in_the_report_only_in_plan_mode(tmp_path: Path) -> None:
    report = _plan(tmp_path, {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)})
    assert len(json.loads(json.dumps(report.to_dict()))["plan"]) == 2
    assert "plan" not in Report().to_dict()


@pytest.mark.parametrize(
    ("entries", "step"),
    [
        ({"epoch": 3, "step": 20, "global_step": 300}, 300),
        ({"epoch": 3, "step": 20}, 20),
        ({"epoch": 0, "lr": 0.1}, 0),
        ({"step": "seven", "epoch": 1.5}, 1.5),
        ({"step": True, "epoch": math.nan}, None),
        ({"global_step": [1]}, None),
        ({}, None),
    ],
)
def test_the_step_is_the_best_number_that_the_file_has(entries: dict[str, object], step: float | None) -> None:
    assert step_of(Container("dict", "dict", {name: leaf(value) for name, value in entries.items()})) == step


@pytest.mark.parametrize(("note", "step"), [("300", 300), ("1.5", 1.5), ("1e400", None), ("", None), ("9" * 40, None)])
def test_the_step_may_be_a_note_of_a_safetensors_file(note: str, step: float | None) -> None:
    assert step_of(Container("dict", "safetensors", {}, record={"step": note})) == step
