"""Sweeps with Optuna's sweeper; needs an environment of its own: ``nox -s optuna``."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.sweep.launching import WEIGHTS, lines_of_the_page, runs_as_typed
from tests.sweep.sweeping import Swept, make_folder, sweep

pytestmark = pytest.mark.optuna

OPTUNA = ("hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2", "hydra.sweeper.sampler.seed=1")

DATA = """
import torch

def batches(level):
    return [(torch.zeros(1, 2), torch.full((1,), level))]

def level(prediction, target):
    return target
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def optimized(done: Swept) -> dict[str, object]:
    return dict(OmegaConf.load(done.folder / "optimization_results.yaml").items())


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_failed_job_is_never_the_best(folder: Path, direction: str) -> None:
    behaviour = "model.behave=choice(well,misfits,killed)"
    trials = ("hydra.sweeper.n_trials=8", f"hydra.sweeper.direction={direction}")
    done = sweep(behaviour, WEIGHTS, *OPTUNA, *trials, cwd=folder)
    assert len(done.statuses) == 8
    assert set(done.statuses) == {"ok", "failed", "crashed"}, "the same parameters are drawn several times"
    assert optimized(done)["best_params"] == {"++model.behave": "well"}
    assert done.code == 1
    assert "Traceback" not in done.out + done.err


@pytest.mark.parametrize(("direction", "best"), [("minimize", min), ("maximize", max)])
def test_the_objective_is_optimized(folder: Path, direction: str, best: Callable[[list[float]], float]) -> None:
    (folder / "own_data.py").write_text(DATA)
    measured = ("+evaluate.data._target_=own_data.batches", "+evaluate.data.level=choice(1,2,3,nan)")
    settings = ("+evaluate.metrics={level: {_target_: own_data.level}}", "evaluate.objective=level")
    trials = ("hydra.sweeper.n_trials=10", f"hydra.sweeper.direction={direction}")
    done = sweep(*measured, *settings, WEIGHTS, *OPTUNA, *trials, "hydra/launcher=basic", cwd=folder)
    assert set(done.statuses) == {"ok", "failed"}, done.out + done.err
    levels = [job["metrics"]["level"]["value"] for job in done.summary["jobs"] if job["status"] == "ok"]
    assert len(set(levels)) > 1
    assert optimized(done)["best_value"] == best(levels)
    assert f"Best value: {best(levels)}" in done.out
    assert "alembic" not in done.out + done.err


def test_a_study_without_a_good_job_is_a_refusal(folder: Path) -> None:
    misfits = ("seed=choice(1,2)", "model.behave=misfits", "hydra.sweeper.n_trials=2")
    done = sweep(*misfits, WEIGHTS, *OPTUNA, cwd=folder)
    assert done.statuses == ["failed", "failed"]
    assert "OptunaSweeper ended the sweep: ValueError: No trials are completed yet." in done.err
    assert "hydra/launcher=basic" not in done.err
    assert "Traceback" not in done.out + done.err
    assert done.code == 4


def test_a_study_that_cannot_be_stored_is_a_refusal(folder: Path) -> None:
    storage = "hydra.sweeper.storage='nodatabase://here'"
    done = sweep("seed=choice(1,2)", WEIGHTS, *OPTUNA, storage, cwd=folder)
    assert "OptunaSweeper ended the sweep" in done.err
    assert "Traceback" not in done.out + done.err
    assert done.code == 2


def test_a_stored_study_goes_on(folder: Path) -> None:
    stored = ("hydra.sweeper.storage='sqlite:///study.db'", "hydra.sweeper.study_name=own", "hydra.sweeper.n_trials=2")
    assert sweep("seed=choice(1,2)", WEIGHTS, *OPTUNA, *stored, cwd=folder).code == 0
    shutil.rmtree(folder / "sweep")
    done = sweep("seed=choice(1,2)", WEIGHTS, *OPTUNA, *stored, cwd=folder)
    assert done.code == 0
    assert "Using an existing study with name 'own'" in done.err


def test_the_pages_command_runs(tmp_path: Path) -> None:
    for line in lines_of_the_page("=optuna"):
        runs_as_typed(line, tmp_path)
