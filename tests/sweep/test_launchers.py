"""Sweeps under Hydra's launchers, really run: what a launcher loses, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from loader.sweep.launchers import JOBLIB, RAY, settle
from tests.sweep.launching import as_basic, leaves_nothing, lines_of_the_page, runs_as_typed, survives_a_lost_worker
from tests.sweep.sweeping import make_folder

LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local",),
}
each = pytest.mark.parametrize("launcher", LAUNCHERS.values(), ids=LAUNCHERS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@each
def test_jobs_end_as_without_a_launcher(folder: Path, launcher: tuple[str, ...]) -> None:
    as_basic(folder, *launcher)


@pytest.mark.slow  # submitit waits 15 seconds for a result that may still appear
@each
def test_a_worker_that_is_killed_costs_no_job_its_result(folder: Path, launcher: tuple[str, ...]) -> None:
    survives_a_lost_worker(folder, *launcher)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the processes of a session are listed nowhere")
@each
def test_nothing_outlives_a_sweep_that_is_killed(folder: Path, launcher: tuple[str, ...]) -> None:
    leaves_nothing(folder, *launcher)


@pytest.mark.slow
@pytest.mark.parametrize("line", [*lines_of_the_page("joblib"), *lines_of_the_page("submitit")])
def test_the_pages_commands_run(tmp_path: Path, line: str) -> None:
    runs_as_typed(line, tmp_path)


def test_every_command_of_the_page_is_run_by_a_test() -> None:
    words = ("=joblib", "=submitit_local", "=ray", "=optuna", "=mlflow")
    lines = lines_of_the_page("python run.py")
    assert len(lines) == 6
    assert [sum(word in line for word in words) for line in lines] == [1] * len(lines)


def test_a_launcher_gets_what_a_sweep_needs_unless_the_user_has_set_it() -> None:
    joblib = {"_target_": JOBLIB, "batch_size": "auto"}
    ray = {"_target_": RAY, "ray": {"init": {"address": None, "include_dashboard": True}, "remote": {}}}
    for launcher, settled in (
        (joblib, {**joblib, "batch_size": 1}),
        ({**joblib, "batch_size": 4}, {**joblib, "batch_size": 4}),
        (
            ray,
            {
                "_target_": RAY,
                "ray": {
                    "init": {"address": None, "include_dashboard": True, "log_to_driver": False},
                    "remote": {"max_retries": 0},
                },
            },
        ),
        ({"_target_": "own.Launcher"}, {"_target_": "own.Launcher"}),
    ):
        config = OmegaConf.create({"hydra": {"launcher": launcher}})
        OmegaConf.set_struct(config, True)
        settle(config)
        assert OmegaConf.to_container(config.hydra.launcher) == settled
