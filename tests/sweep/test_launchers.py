"""Sweeps under Hydra's launchers, really run: what a launcher loses, and what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweep.launching import as_basic, leaves_nothing, survives_a_lost_worker
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
