from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

import loader
from loader.formats.pickle.tree import leaf
from loader.formats.tree import Container, Leaf, Node, TensorEntry
from loader.parts.open import open_checkpoint
from loader.report.fill import beside


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


def test_nothing_stands_beside_the_whole_file(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1), "epoch": 1}, tmp_path / "a.pt")
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        assert beside(checkpoint.root, checkpoint.root) == {}


def test_the_selected_weights_and_other_state_dicts_are_not_told() -> None:
    root = Container("dict", "dict", {"a": Container("dict", "dict", {"x": leaf(1)})})
    root.children["b"] = selected = Container("dict", "dict", {"y": leaf(2)})
    root.children["c"] = Leaf("argparse.Namespace", record=object())
    weights: dict[str, Node] = {"w": TensorEntry("float32", (1,)), "z": leaf(3)}
    root.children["ema"] = Container("dict", "dict", weights)
    assert beside(root, selected) == {"a.x": "1", "c": "argparse.Namespace"}


def test_how_many_are_told_is_bounded() -> None:
    root = Container("dict", "dict", {str(number): leaf(1) for number in range(1000)})
    assert len(beside(root, Container("dict", "dict"))) == 100
