"""Sweeps under Hydra's ray launcher; needs an environment of its own: ``nox -s ray``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sweep.launching import as_basic, leaves_nothing, lines_of_the_page, runs_as_typed, survives_a_lost_worker
from tests.sweep.sweeping import make_folder

pytestmark = pytest.mark.ray

RAY = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_jobs_end_as_without_a_launcher(folder: Path) -> None:
    done = as_basic(folder, *RAY)
    assert "dashboard" not in done.out.replace("'include_dashboard': False", "")


def test_a_worker_that_is_killed_costs_no_job_its_result(folder: Path) -> None:
    done = survives_a_lost_worker(folder, *RAY)
    assert "job 1 got no result from its worker (WorkerCrashedError); it is run again on this machine" in done.err


def test_nothing_outlives_a_sweep_that_is_killed(folder: Path) -> None:
    leaves_nothing(folder, *RAY)


def test_the_pages_command_runs(tmp_path: Path) -> None:
    for line in lines_of_the_page("=ray"):
        runs_as_typed(line, tmp_path)
