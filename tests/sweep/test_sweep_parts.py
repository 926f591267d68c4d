"""The parts of a sweep that need no process: records, summary, table, and what a sweep is about to do."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import platform
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.global_hydra import GlobalHydra
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from loader.cli.task import Task
from loader.errors import ConfigError
from loader.sweep import child
from loader.sweep.callback import Abandoned, Origin, Sweep, SweepCallback, take_sweep
from loader.sweep.expected import expected_jobs
from loader.sweep.folders import is_written
from loader.sweep.page import UNAWAITED
from loader.sweep.record import JobRecord
from loader.sweep.records import forget, keep, read_all
from loader.sweep.summary import Summary, conclude, summarize, worst

CODES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7, 137, -9]))


@settings(deadline=None)
@given(CODES, st.data())
def test_the_worst_code_does_not_depend_on_the_order(codes: list[int], data: st.DataObject) -> None:
    assert worst(codes) == worst(data.draw(st.permutations(codes)))
    assert (worst(codes) == 0) is (not any(codes))


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([0], 0), ([2, 4, 3], 4), ([6, 2], 6), ([6, 1], 1), ([0, 137], 1), ([5, 130], 1)],
)
def test_a_bug_is_the_worst_then_the_highest_code(codes: list[int], expected: int) -> None:
    assert worst(codes) == expected


@pytest.mark.parametrize("status", ["crashed", "not run", "error"])
@pytest.mark.parametrize("code", [0, 3, None])
def test_an_unfinished_job_never_counts_as_a_success(status: str, code: int | None) -> None:
    assert JobRecord(0, status=status, exit_code=code).counts_as == 1


@pytest.mark.parametrize(
    ("process_code", "exit_code", "message"),
    [
        (9, 9, "the job's process ended with code 9 before the job was done"),
        (0, 0, "the job's process ended with code 0 before the job was done"),
        (-11, 139, "the job's process was killed by signal 11 (SIGSEGV) before the job was done"),
        (-63, 191, "the job's process was killed by signal 63 before the job was done"),
    ],
)
def test_a_crash_is_recorded_with_its_cause(process_code: int, exit_code: int, message: str) -> None:
    record = JobRecord(0)
    record.crash(process_code)
    assert (record.status, record.exit_code, record.report) == ("crashed", exit_code, None)
    assert record.error == {"type": "Crashed", "message": message, "hint": "", "fixes": []}


def test_records_survive_the_process_that_wrote_them(tmp_path: Path) -> None:
    records = [JobRecord(job, [f"seed={job}"], "ok", 0, seconds=0.5) for job in (10, 2)]
    for record in records:
        keep(record, tmp_path)
    assert read_all(tmp_path) == {record.job: record for record in records}
    forget(tmp_path)
    forget(tmp_path)
    assert read_all(tmp_path) == {}


@pytest.mark.damaged_reports
@pytest.mark.parametrize("content", ["", "{", "[]", '{"job": 3, "strange": 1}', '"text"'])
def test_a_damaged_record_costs_no_other_job_its_result(tmp_path: Path, content: str) -> None:
    keep(JobRecord(1, ["seed=2"], "ok", 0), tmp_path)
    forgotten = tmp_path / ".jobs" / "0.json"
    forgotten.write_text(content)
    summary = summarize(Sweep(tmp_path, [["seed=1"], ["seed=2"]]))
    assert [(job.status, job.overrides) for job in summary.jobs] == [("crashed", ["seed=1"]), ("ok", ["seed=2"])]
    forget(tmp_path)


def test_a_summary_lists_every_job_once(tmp_path: Path) -> None:
    keep(JobRecord(1, ["seed=2"], "ok", 0), tmp_path)
    keep(JobRecord(2, ["seed=3"]), tmp_path)
    summary = summarize(Sweep(tmp_path, [["seed=1"], ["seed=2"], ["seed=3"]]))
    assert [(job.job, job.status, job.overrides) for job in summary.jobs] == [
        (0, "not run", ["seed=1"]),
        (1, "ok", ["seed=2"]),
        (2, "crashed", ["seed=3"]),
    ]
    assert [(job.error or {}).get("message") for job in summary.jobs] == [
        "the sweep ended before this job was started",
        None,
        "the process that ran the job was lost, and its exit code with it",
    ]
    assert (summary.jobs[0].error or {})["hint"] == f"sweep.resume={tmp_path}"
    assert summary.exit_code == 1


@pytest.mark.parametrize(
    ("stopped", "kind", "code", "status"), [(True, "Interrupted", 130, "failed"), (False, "Crashed", 1, "error")]
)
def test_a_job_whose_process_is_lost_has_a_report(
    tmp_path: Path, stopped: bool, kind: str, code: int, status: str
) -> None:
    (tmp_path / "0").mkdir()
    keep(JobRecord(0, ["seed=1"], output_dir=str(tmp_path / "0")), tmp_path)
    (job,) = summarize(Sweep(tmp_path, [["seed=1"]]), stopped=stopped).jobs
    assert (job.status, (job.error or {})["type"], job.report) == ("crashed", kind, str(tmp_path / "0" / "report.json"))
    report = json.loads((tmp_path / "0" / "report.json").read_text())
    assert (report["status"], report["exit_code"], report["error"], report["overrides"]) == (
        *(status, code, job.error),
        ["seed=1"],
    )


def test_a_page_that_was_not_awaited_is_written_by_the_sweep_that_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("loader.sweep.summary.write_page", lambda *_: UNAWAITED)
    keep(JobRecord(0, ["seed=1"], "ok", 0), tmp_path)
    assert conclude(Sweep(tmp_path, [["seed=1"]])) == 2
    assert capsys.readouterr().err.startswith(  # the note is left out where the line is long
        f"error  {tmp_path}/summary.html was not written, as the sweep was interrupted\n  try  sweep.resume={tmp_path}"
    )


def test_jobs_of_a_sweeper_that_decides_as_it_goes_are_those_that_ran(tmp_path: Path) -> None:
    keep(JobRecord(4, ["seed=1"], "failed", 4), tmp_path)
    summary = summarize(Sweep(tmp_path, None))
    assert [job.job for job in summary.jobs] == [4]
    assert summary.exit_code == 4


def test_writing_a_summary_leaves_nothing_else(tmp_path: Path) -> None:
    keep(JobRecord(0, [], "ok", 0), tmp_path)
    summarize(Sweep(tmp_path, [[]])).write()
    forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["summary.csv", "summary.json"]


def test_another_sweepers_jobs_are_not_guessed() -> None:
    config = OmegaConf.create({"hydra": {"sweeper": {"_target_": "hydra_plugins.hydra_optuna_sweeper.OptunaSweeper"}}})
    assert expected_jobs(config) is None


def sweeping(folder: Path, **sweep: str) -> DictConfig:
    """As much of a composed config as a sweep of an unknown sweeper is noted from."""
    settings = {"dir": "sweep", "subdir": "${hydra.job.num}", **sweep}
    hydra = {"sweeper": {"_target_": "other"}, "sweep": settings, "runtime": {"cwd": str(folder)}, "job": {"num": 0}}
    return OmegaConf.create({"hydra": {**hydra, "overrides": {"task": []}}})


def started(config: DictConfig) -> Sweep | Exception | None:
    """What comes of a sweep that begins: what was noted, or why it was refused."""
    try:
        SweepCallback().on_multirun_start(config)
    except Abandoned as abandoned:
        return abandoned.refusal
    return take_sweep()


@pytest.fixture(autouse=True)
def composer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalHydra, "config_loader", lambda _self: None)


def test_a_callback_notes_the_sweep_once(tmp_path: Path) -> None:
    noted = started(sweeping(tmp_path))
    assert noted == Sweep(tmp_path / "sweep", None)
    assert take_sweep() is None


def test_a_folder_belongs_to_the_sweep_that_writes_to_it(tmp_path: Path) -> None:
    first = started(sweeping(tmp_path))
    assert isinstance(first, Sweep)
    refused = started(sweeping(tmp_path))
    assert isinstance(refused, ConfigError)
    assert refused.message == f"another sweep is writing to {tmp_path}/sweep; expected one folder per sweep"
    assert refused.hint == f"hydra.sweep.dir={tmp_path}/sweep-2"
    assert first.claim is not None
    first.claim.release()
    assert list(tmp_path.iterdir()) == []
    assert isinstance(started(sweeping(tmp_path)), Sweep)


def test_a_launchers_process_knows_its_sweep_and_whether_it_is_still_there(tmp_path: Path) -> None:
    SweepCallback().on_multirun_start(sweeping(tmp_path))
    elsewhere: Task = pickle.loads(pickle.dumps(Task([])))
    assert elsewhere.origin == Origin(tmp_path / "sweep", platform.node())
    assert elsewhere._is_swept()
    assert Task([])._is_swept()
    sweep = take_sweep()
    assert sweep is not None
    assert sweep.claim is not None
    sweep.claim.release()
    assert not elsewhere._is_swept()
    elsewhere.origin = Origin(tmp_path / "sweep", "another machine")
    assert elsewhere._is_swept()


def test_a_killed_sweep_is_not_there(tmp_path: Path) -> None:
    (tmp_path / ".jobs").mkdir()
    (tmp_path / ".jobs" / "lock").touch()
    assert not is_written(tmp_path)


def test_a_job_whose_sweep_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "_PULSE", 0.01)
    sentinel, ending = multiprocessing.Pipe(duplex=False)
    reader, writer = multiprocessing.Pipe(duplex=False)
    with sentinel, ending, reader, writer, pytest.raises(child.OrphanedError):
        child._await(SimpleNamespace(sentinel=sentinel), reader, lambda: False, None)  # type: ignore[arg-type]


def left(folder: Path, what: str) -> str:
    """Leaves in a folder what an earlier sweep may have; returns its description."""
    jobs = [JobRecord(0, status="ok"), JobRecord(1, status="not run")]
    (folder / "0").mkdir(parents=True)
    if what == "records":
        keep(jobs[0], folder)
        return "an earlier, interrupted sweep with 1 job"
    (folder / "multirun.yaml").touch()
    if what == "reports":
        (folder / "0" / "report.json").touch()
        return "an earlier sweep with 1 job"
    if what == "newer":
        (folder / "summary.json").write_text('{"schema": 9}')
        return "a summary.json that this version cannot read"
    Summary(folder, jobs).write()
    return "an earlier sweep with 1 job"


@pytest.mark.damaged_reports
@pytest.mark.parametrize("what", ["records", "reports", "newer", "summary"])
def test_the_results_of_an_earlier_sweep_are_kept(tmp_path: Path, what: str) -> None:
    shown_text = left(tmp_path / "sweep", what)
    (tmp_path / "sweep-2").mkdir()
    before = sorted(tmp_path.rglob("*"))
    refused = started(sweeping(tmp_path))
    assert isinstance(refused, ConfigError)
    assert refused.message == f"{tmp_path}/sweep contains {shown_text}; expected one folder per sweep"
    other = f"hydra.sweep.dir={tmp_path}/sweep-3"
    resuming = f"\n{other} sweep.resume={tmp_path}/sweep   # goes on where it ended"
    assert refused.hint == other + (resuming if what in ("records", "summary") else "")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_in_which_no_job_ran_is_free(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    Summary(tmp_path / "sweep", [JobRecord(0, status="not run")]).write()
    assert isinstance(started(sweeping(tmp_path)), Sweep)


def test_one_folder_for_all_jobs_of_any_sweeper_is_refused(tmp_path: Path) -> None:
    refused = started(sweeping(tmp_path, subdir="same"))
    assert isinstance(refused, ConfigError)
    assert refused.message == ("hydra.sweep.subdir=same is one folder for every job; expected one folder per job")
    assert refused.hint == "'hydra.sweep.subdir=${hydra.job.num}'"
    assert list(tmp_path.iterdir()) == []
