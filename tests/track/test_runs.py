"""What a tracker is given of a run or a sweep; MLflow itself is in `test_mlflow`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loader.cli.main import run_command
from loader.track import await_summary, summarized
from loader.track.runs import of_run, of_sweep

pytestmark = pytest.mark.damaged_reports  # these are only as much of a summary as a tracker reads

ROW: dict[str, Any] = {
    "job": 3,
    "status": "ok",
    "exit_code": 0,
    "error": None,
    "values": {"seed": 1, "dtype": "float16"},
    "step": 300.0,
    "metrics": {"accuracy": {"value": 0.5, "stderr": 0.1, "n": 10}, "loss": {"value": None, "stderr": None}},
    "seconds": 2.0,
    "output_diff": None,
    "command": "run.py seed=1",
    "output_dir": "3",
}


def written(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def test_a_row_of_a_summary_is_a_run(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "report.html").touch()
    summary = {"total": 1, "ok": 1, "failed": 0, "skipped": 0, "not_run": 0, "best": {"accuracy": 3}, "jobs": [ROW]}
    written(tmp_path, "summary.json", summary)
    sweep = of_sweep(tmp_path, "mine")
    assert (sweep.name, sweep.status, sweep.tags) == ("mine", "FINISHED", {"best.accuracy": 3})
    assert sweep.metrics == {"total": 1, "ok": 1, "failed": 0, "skipped": 0, "not_run": 0}
    assert [file.name for file in sweep.files] == ["summary.json"]
    (job,) = sweep.jobs
    assert (job.name, job.status, job.step) == ("3 seed=1 dtype=float16", "FINISHED", 300)
    assert job.params == {"seed": 1, "dtype": "float16"}
    assert job.metrics == {"accuracy": 0.5, "accuracy_stderr": 0.1, "seconds": 2.0}
    assert job.tags == {"status": "ok", "exit_code": 0, "command": "run.py seed=1"}
    assert [file.name for file in job.files] == ["report.html"]


@pytest.mark.parametrize(
    ("status", "code", "logged"),
    [
        ("reused", 0, ["FINISHED"]),
        ("failed", 4, ["FAILED"]),
        ("error", 1, ["FAILED"]),
        ("crashed", 137, ["KILLED"]),
        ("timed out", 124, ["KILLED"]),
        ("skipped", None, []),
        ("not run", None, []),
    ],
)
def test_how_a_job_ended_is_its_status(tmp_path: Path, status: str, code: int | None, logged: list[str]) -> None:
    error = {"type": "FitError", "message": "it does not fit", "fixes": []}
    written(tmp_path, "summary.json", {"jobs": [{**ROW, "status": status, "exit_code": code, "error": error}]})
    jobs = of_sweep(tmp_path, None).jobs
    assert [job.status for job in jobs] == logged
    assert all(job.tags["error"] == "FitError: it does not fit" for job in jobs)


def test_a_summary_that_lacks_a_field_is_still_described(tmp_path: Path) -> None:
    written(
        tmp_path,
        "summary.json",
        {"jobs": [{"status": "ok"}, {"status": "ok", "metrics": 3, "values": [], "step": "x"}]},
    )
    assert [job.metrics for job in of_sweep(tmp_path, None).jobs] == [{}, {}]
    with pytest.raises(FileNotFoundError):
        of_run(tmp_path, None)


def test_a_sweep_is_logged_once(tmp_path: Path) -> None:
    seen: list[Path] = []
    await_summary(seen.append)
    summarized(tmp_path)
    summarized(tmp_path)
    assert seen == [tmp_path]


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_a_tracker_that_is_not_installed_is_refused_before_a_job(
    tmp_path: Path, sweep: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("loader.track.mlflow.find_spec", lambda _name: None)
    assert run_command([*sweep, "+track=mlflow"]) == 2
    assert capsys.readouterr().err == (
        "error  track=mlflow requires the package mlflow\n  try  pip install 'hydra-loader[mlflow]'\n"
    )
    assert not [*tmp_path.rglob("report.json")]


def test_a_key_of_a_tracker_needs_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["track.uri=sqlite:///own.db"]) == 2
    assert capsys.readouterr().err == (
        "error  'track.uri' is set without a tracker (track is null)\n  try  +track=mlflow track.uri=sqlite:///own.db\n"
    )
