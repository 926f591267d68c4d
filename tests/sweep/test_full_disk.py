"""Sweeps whose disk fills up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.command import run
from tests.sweep.sweeping import RUN, TARGET, make_folder

_ROOM = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=$0 tmpfs "$1" && shift && exec "$@"']
"""Runs a command that alone sees a small disk in a folder."""


OWN_DATA = """
import torch

def samples():
    return [(torch.ones(4, 2), torch.tensor([1.0, 1.0, 1.0, 0.0]))]

def acc(outputs, targets):
    return targets
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small").mkdir()
    try:
        subprocess.run([*_ROOM, "64k", str(tmp_path / "small"), "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no small disk can be mounted")
    return make_folder(tmp_path)


def sweep_on(folder: Path, size: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    typed = [*RUN, TARGET, "checkpoint.path=epoch=2.pth", *overrides, "hydra.sweep.dir=small/sweep"]
    return run(*_ROOM, size, str(folder / "small"), *typed, cwd=folder)


def table(out: str) -> list[list[str]]:
    lines = out.splitlines()
    head = next(number for number, line in enumerate(lines) if line.split()[:2] == ["job", "status"])
    return [line.split() for line in lines[head + 1 : -1]]


def test_a_full_disk_ends_with_the_table(folder: Path) -> None:
    done = sweep_on(folder, "72k", "seed=range(8)")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    rows = table(done.stdout)
    assert [row[0] for row in rows] == [str(job) for job in range(8)]
    assert rows[0][1] == "ok"
    assert rows[-1][1] == "failed"
    assert "report.json could not be written" in " ".join(rows[-1])
    assert done.stderr.endswith(
        f"error  the summary could not be written to {folder}/small/sweep: No space left on device\n"
        "  try  hydra.sweep.dir=FOLDER   # one with free space\n"
    )


def test_a_full_disk_costs_no_figure_of_a_job(folder: Path) -> None:
    (folder / "own_data.py").write_text(OWN_DATA)
    measured = ["evaluate.data._target_=own_data.samples", "evaluate.metrics.acc._target_=own_data.acc"]
    done = sweep_on(folder, "72k", *measured, "seed=range(5)")
    assert done.returncode == 2
    rows = table(done.stdout)
    unwritten = [row for row in rows if row[1] == "failed"]
    assert rows[0][1] == "ok"
    assert unwritten
    assert {row[3] for row in rows} == {rows[0][3]}, rows
    assert rows[0][3].startswith("0.75")
    assert done.stderr.count("job's report.json could not be written: No space left on device\n") == 1
    assert done.stderr.count("  try  hydra.sweep.dir=FOLDER   # one with free space\n") == 2


@pytest.mark.slow
def test_a_full_disk_loses_no_row_of_a_launcher(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = sweep_on(folder, "72k", "seed=range(8)", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    rows = table(done.stdout)
    assert [row[0] for row in rows] == [str(job) for job in range(8)]
    assert {row[1] for row in rows} == {"ok", "failed"}
