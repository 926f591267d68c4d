"""Whether an earlier job's report still has every figure of its row."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from loader.evaluate import plan
from loader.report.data import EvaluationReport, ModelReport, PartReport, Report
from loader.report.facts import facts_of
from loader.sweep.sound import MEASURING, is_sound
from tests.report.test_facts import JSON

NOWHERE = Path("nowhere")
RIGHT = {"value": 0.5, "stderr": 0.25, "n": 4}


def report(**metrics: Any) -> dict[str, Any]:
    found = Report(
        mode="load",
        model=ModelReport("Net", 6, 24, "cpu", ["float32"]),
        parts={"": PartReport("a.pt", "torch", None, None, 10, 1, step=7)},
        evaluation=EvaluationReport(4, metrics=metrics or {"right": RIGHT}, higher_is_better={"right": True}),
        timings={"open": 0.5, "evaluate": 1.0},
        memory={"peak_rss_bytes": 1000},
        environment={"torch": "2.13.0"},
        config={"evaluate": {"metrics": {"right": {"_target_": "a.b"}, "none": None}}},
    ).to_dict()
    return copy.deepcopy(found)


def test_what_the_loader_writes_is_sound() -> None:
    assert is_sound(report(), NOWHERE)
    assert is_sound({**Report(mode="inspect").to_dict(), "config": {"evaluate": {"metrics": {"a": {}}}}}, NOWHERE)
    assert plan.MEASURING == MEASURING


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("evaluation.metrics.right.value", "a text"),
        ("evaluation.metrics.right.value", math.nan),
        ("evaluation.metrics.right.value", None),
        ("evaluation.metrics.right.stderr", []),
        ("evaluation.metrics.right.n", {}),
        ("evaluation.metrics", {}),
        ("evaluation.metrics.other", RIGHT),
        ("evaluation.metrics.none", RIGHT),
        ("evaluation.samples", None),
        ("evaluation", None),
        ("keys", 5),
        ("keys.loaded", "5"),
        ("keys.missing", None),
        ("model.parameters", 1.5),
        ("model.dtypes", [1]),
        ("memory", "x"),
        ("timings.open", "soon"),
        ("parts", []),
        ("parts..bytes", "10"),
        ("verification", None),
        ("verification.golden_diff", math.inf),
        ("verification.kept", 5),
        ("verification.kept", {"path": "x", "bytes": 5}),
        ("config", None),
        ("config.evaluate", None),
        ("config.evaluate.metrics", 5),
    ],
)
def test_a_figure_that_is_damaged_is_found(place: str, value: Any) -> None:
    damaged = report()
    *path, last = place.split(".")
    inner = damaged
    for name in path:
        inner = inner[name]
    inner[last] = value
    assert not is_sound(damaged, NOWHERE)


@given(JSON, st.sampled_from(sorted(report())))
def test_whatever_passes_has_the_figures_that_it_had(damage: Any, name: str) -> None:
    damaged = {**report(), name: damage}
    if is_sound(damaged, NOWHERE):
        assert facts_of(damaged)["metrics"] == {"right": RIGHT}


def test_a_metric_may_have_several_values() -> None:
    assert is_sound(report(right_a=RIGHT, right_b=RIGHT), NOWHERE)
    assert not is_sound(report(righta=RIGHT), NOWHERE)


def test_the_file_that_was_kept_must_be_readable(tmp_path: Path) -> None:
    path = tmp_path / "outputs.safetensors"
    save_file({"output.0": torch.ones(3)}, path)
    found = report()
    found["verification"]["kept"] = {"path": "/elsewhere", "bytes": path.stat().st_size}
    assert is_sound(found, tmp_path)
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert not is_sound(found, tmp_path)
    path.write_bytes(b"\xff")
    assert not is_sound(found, tmp_path)
    path.unlink()
    assert not is_sound(found, tmp_path)
