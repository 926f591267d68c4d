"""Sweeps that go on where an earlier one ended."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loader.cli.main import run_command
from loader.sweep.folders import Claim
from loader.sweep.resume import earlier
from tests.command import in_own_session, run
from tests.sweep.sweeping import RUN, TARGET, Swept, make_folder, printed, without_progress
from tests.sweep.test_surroundings import OWN_SWEEPER

FILES = "checkpoint.path=epoch=2.pth,epoch=10.pth"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def sweep(folder: Path, name: str, *overrides: str) -> Swept:
    done = run(*RUN, TARGET, *overrides, f"hydra.sweep.dir={name}", cwd=folder)
    return Swept(done.returncode, done.stdout, without_progress(done.stderr), folder / name)


def resumed(folder: Path, name: str, *overrides: str, of: str = "first") -> Swept:
    return sweep(folder, name, *overrides, f"sweep.resume={of}")


def test_only_what_did_not_end_well_is_run_again(folder: Path) -> None:
    first = sweep(folder, "first", FILES, "model.behave=well,raises")
    assert first.statuses == ["ok", "failed", "ok", "failed"]
    second = resumed(folder, "second", FILES, "model.behave=well,raises")
    assert second.statuses == ["reused", "failed", "reused", "failed"]
    assert second.code == 2
    assert "Traceback" not in second.err
    before, after = first.summary["jobs"], second.summary["jobs"]
    assert [job["report"] for job in after] == [
        "../first/0/report.json",
        "1/report.json",
        "../first/2/report.json",
        "3/report.json",
    ]
    for name in ("exit_code", "seconds", "fingerprint", "loaded", "values"):
        assert after[0][name] == before[0][name]
    assert (second.summary["ok"], second.summary["failed"]) == (2, 2)
    assert not (folder / "second" / "0").exists()
    # A resumed sweep can be resumed: what it reused is found through it.
    third = resumed(folder, "third", FILES, "model.behave=well", of="second")
    assert third.statuses == ["reused", "reused"]
    assert third.code == 0
    assert third.summary["jobs"][0]["report"] == "../first/0/report.json"
    # And a sweep with more jobs runs those alone.
    (folder / "epoch=3.pth").write_bytes((folder / "epoch=2.pth").read_bytes())
    more = resumed(folder, "more", "checkpoint.path=glob(*.pth)", "model.behave=well", of="third")
    assert more.statuses == ["reused", "ok", "reused"]


def test_what_changed_is_run_again(folder: Path) -> None:
    first = sweep(folder, "first", FILES)
    assert first.statuses == ["ok", "ok"]
    os.utime(folder / "epoch=2.pth", ns=(1, 1))
    assert resumed(folder, "second", FILES).statuses == ["ok", "reused"]
    log = (folder / "second" / "0" / "loader.log").read_text()
    assert "the job runs, since first does not have its result: epoch=2.pth is not what it was then" in log
    assert resumed(folder, "third", FILES, "seed=7").statuses == ["ok", "ok"]
    log = (folder / "third" / "0" / "loader.log").read_text()
    assert "since first does not have its result: no job that ended well there has this config" in log
    with (folder / "own_models.py").open("a") as module:
        module.write("# another model\n")
    assert resumed(folder, "fourth", FILES).statuses == ["ok", "ok"]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.damaged_reports
def test_results_that_are_damaged_are_run_again(folder: Path) -> None:
    files = "checkpoint.path=epoch=2.pth"
    first = sweep(folder, "first", files, "seed=1,2,3,4,5")
    assert first.statuses == ["ok"] * 5
    (folder / "first" / "0" / "report.json").write_text("{")
    (folder / "first" / "1" / "report.json").unlink()
    edit(folder / "first" / "2" / "report.json", lambda report: report.pop("identity"))
    edit(folder / "first" / "3" / "report.json", lambda report: report.update(status="failed"))
    second = resumed(folder, "second", files, "seed=1,2,3,4,5")
    assert second.statuses == ["ok", "ok", "ok", "ok", "reused"]
    assert second.err == (
        f"note   4 jobs of {folder}/first cannot be recognized: the reports are missing, damaged or incomplete\n"
    )


OWN_DATA = """
import torch

def batches():
    return [(torch.ones(4, 2), torch.tensor([0, 1, 1, 1]))]
"""


@pytest.mark.damaged_reports
def test_a_result_that_lost_a_figure_is_run_again(folder: Path) -> None:
    (folder / "own_data.py").write_text(OWN_DATA)
    typed = ["checkpoint.path=epoch=2.pth", "seed=1,2,3,4,5", "verify.input={shape: [1, 2]}"]
    typed += ["evaluate.data._target_=own_data.batches"]
    typed += ["evaluate.metrics.right._target_=loader.examples.metrics.accuracy"]
    first = sweep(folder, "first", *typed)
    assert first.statuses == ["ok"] * 5, first.err

    def damage(job: int, change: Callable[[dict[str, Any]], Any]) -> None:
        edit(folder / "first" / str(job) / "report.json", change)

    damage(0, lambda report: report["evaluation"]["metrics"]["right"].update(value=math.nan))
    damage(1, lambda report: report["evaluation"].update(metrics={"<b>": {"value": 1.0, "stderr": None, "n": 4}}))
    damage(2, lambda report: report.update(keys=5))
    kept = folder / "first" / "3" / "outputs.safetensors"
    kept.write_bytes(b"\xff" * kept.stat().st_size)
    second = resumed(folder, "second", *typed)
    assert second.statuses == ["ok", "ok", "ok", "ok", "reused"]
    assert second.err == (
        f"note   4 jobs of {folder}/first cannot be recognized: the reports are missing, damaged or incomplete\n"
    )
    assert "<b>" not in (folder / "second" / "summary.csv").read_text()
    for before, after in zip(first.summary["jobs"], second.summary["jobs"], strict=True):
        for name in ("metrics", "loaded", "fingerprint"):
            assert after[name] == before[name]
            assert after[name] is not None


def test_a_sweep_that_was_interrupted_is_resumed(folder: Path) -> None:
    typed = [TARGET, "checkpoint.path=epoch=2.pth", "model.behave=well,slowly", "hydra.sweep.dir=first"]
    with in_own_session(signal.SIGTERM, *RUN, *typed, cwd=folder) as process:
        printed(folder / "first", "job slowly")
        process.kill()
        process.communicate(timeout=60)
    assert not (folder / "first" / "summary.json").exists()
    (folder / "first" / ".jobs" / "7.json").write_text("{damaged")
    # It ended, but the process that would have noted it was killed.
    edit(folder / "first" / ".jobs" / "0.json", lambda record: record.update(status="running", report=None))
    second = resumed(folder, "second", "checkpoint.path=epoch=2.pth", "model.behave=well")
    assert second.statuses == ["reused"]
    assert second.err == ""


def test_a_moved_sweep_is_resumed(folder: Path) -> None:
    sweep(folder, "first", "checkpoint.path=epoch=2.pth", "seed=1")
    shutil.move(folder / "first", folder / "elsewhere")
    assert resumed(folder, "second", "checkpoint.path=epoch=2.pth", "seed=1", of="elsewhere").statuses == ["reused"]


def test_a_sweeper_that_draws_gets_the_earlier_result(folder: Path) -> None:
    (folder / "hydra_plugins").mkdir()
    (folder / "hydra_plugins" / "drawing.py").write_text(OWN_SWEEPER)
    own = "hydra.sweeper={_target_: hydra_plugins.drawing.Drawing}"
    sweep(folder, "first", "checkpoint.path=epoch=2.pth", "seed=1")
    second = resumed(folder, "second", "checkpoint.path=epoch=2.pth", own)
    assert second.statuses == ["reused", "ok", "reused", "reused"]
    assert [line for line in second.out.splitlines() if line.startswith("drew")] == [
        f"drew {seed} got 0.0" for seed in (1, 2, 1, 1)
    ]


@pytest.mark.slow
def test_jobs_of_a_launcher_are_resumed(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    sweep(folder, "first", "checkpoint.path=epoch=2.pth", "seed=1,2", *launcher)
    second = resumed(folder, "second", "checkpoint.path=epoch=2.pth", "seed=1,2,3", *launcher)
    assert second.statuses == ["reused", "reused", "ok"]


def test_a_converted_file_that_is_gone_is_written_again(folder: Path) -> None:
    typed = ["checkpoint.path=epoch=2.pth", "mode=convert", "convert.path=${hydra:job.num}.safetensors", "seed=1,2"]
    assert sweep(folder, "first", *typed).statuses == ["ok", "ok"]
    (folder / "1.safetensors").unlink()
    assert resumed(folder, "second", *typed).statuses == ["reused", "ok"]


def refusal(folder: Path, resume: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.chdir(folder)
    earlier.cache_clear()
    assert run_command(["-m", "seed=1,2", "device=meta", "hydra.sweep.dir=new", f"sweep.resume={resume}"]) == 2
    assert not (folder / "new").exists()
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


SWEEPS = "  try  ls -td multirun/*/*/   # lists the sweeps, the last one first\n"


@pytest.mark.damaged_reports
@pytest.mark.parametrize(
    ("resume", "expected"),
    [
        ("absent", f"{{}}/absent does not exist; expected the folder of a sweep (sweep.resume)\n{SWEEPS}"),
        ("file", f"{{}}/file is not a folder; expected the folder of a sweep (sweep.resume)\n{SWEEPS}"),
        (
            "empty",
            "{}/empty has no summary.json and no records of jobs; expected the folder of a sweep (sweep.resume)\n"
            + SWEEPS,
        ),
        (
            "run",
            (
                "{}/run has no summary.json and no records of jobs, only the report.json of a single run; "
                f"expected the folder of a sweep (sweep.resume)\n{SWEEPS}"
            ),
        ),
        (
            "sweep/summary.json",
            (
                "'sweep.resume' is {}/sweep/summary.json, a file; expected the folder of a sweep\n"
                "  try  sweep.resume={}/sweep\n"
            ),
        ),
        (
            "damaged",
            (
                "{}/damaged/summary.json cannot be read: Expecting property name enclosed in double quotes: line 1 "
                "column 2 (char 1)\n  try  sweep.resume=null   # runs every job\n"
            ),
        ),
        (
            "older",
            (
                "{}/older/summary.json has schema 1, of another version of the loader; expected 2\n"
                "  try  sweep.resume=null   # runs every job\n"
            ),
        ),
        (
            "listless",
            "{}/listless/summary.json is damaged: it lists no jobs\n  try  sweep.resume=null   # runs every job\n",
        ),
        (
            "new",
            (
                "{}/new is this sweep's own folder; expected that of an earlier sweep (sweep.resume)\n"
                "  try  hydra.sweep.dir=FOLDER   # another folder for this sweep\n"
            ),
        ),
    ],
)
def test_a_folder_without_results_is_refused(
    tmp_path: Path, resume: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("empty", "run", "sweep", "damaged", "older", "listless"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "run" / "report.json").write_text("{}")
    (tmp_path / "sweep" / "summary.json").write_text('{"schema": 2, "jobs": []}')
    (tmp_path / "damaged" / "summary.json").write_text("{")
    (tmp_path / "older" / "summary.json").write_text('{"schema": 1, "jobs": []}')
    (tmp_path / "listless" / "summary.json").write_text('{"schema": 2}')
    shown = refusal(tmp_path, resume, monkeypatch, capsys)
    assert shown == "error  " + expected.replace("{}", str(tmp_path))


@pytest.mark.damaged_reports
def test_a_sweep_that_is_running_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = Claim(tmp_path / "sweep")
    try:
        shown = refusal(tmp_path, "sweep", monkeypatch, capsys)
    finally:
        claim.release()
    assert shown == (
        f"error  the sweep in {tmp_path}/sweep is still running; expected one that is over (sweep.resume)\n"
        "  try  run it again once that sweep is over\n"
    )
