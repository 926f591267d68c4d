"""``evaluate`` on the command line."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
from safetensors import safe_open

from tests.command import Finished, run_loader

WEIGHTS = Path(str(resources.files("loader.examples"))) / "weights" / "simple_net.safetensors"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_loader("evaluate=digits", cwd=tmp_path_factory.mktemp("digits"))


def test_the_accuracy_is_the_one_that_training_measured(digits: Finished) -> None:
    with safe_open(WEIGHTS, "pt") as file:
        recorded = file.metadata()["test_accuracy"]
    assert digits.code == 0, digits.err
    assert f"accuracy {recorded} ± " in digits.out
    found = digits.report["evaluation"]
    assert f"{found['metrics']['accuracy']['value']:.4f}" == recorded
    assert found["metrics"]["accuracy"]["value"] == 353 / 360


def test_the_report_has_what_was_measured(digits: Finished) -> None:
    found = digits.report["evaluation"]
    assert found["samples"] == 360
    assert found["batches"] == 6
    assert found["batch_size"] == 64
    assert found["objective"] == found["metrics"]["accuracy"]["value"]
    assert found["higher_is_better"] == {"accuracy": True, "cross_entropy": False}
    assert {name: sorted(value) for name, value in found["metrics"].items()} == {
        "accuracy": ["n", "stderr", "value"],
        "cross_entropy": ["n", "stderr", "value"],
    }
    assert found["samples_per_second"] > 0
    assert 0 < found["seconds"] <= digits.report["timings"]["evaluate"]
    assert json.dumps(digits.report["config"]["evaluate"]["objective"]) == '"accuracy"'
