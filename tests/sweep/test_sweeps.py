"""Sweeps as a user runs them: what one job does is no other job's concern."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loader.sweep.record import JobRecord
from tests.command import REPOSITORY, in_own_session, run
from tests.sweep.sweeping import RUN, TARGET, Swept, make_folder, of_session, printed, sweep, without_progress


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """A sweep with every way to end, good jobs first and last."""
    behaviour = "model.behave=well,raises,exits,dies,killed,vanishes,finely"
    cwd = make_folder(tmp_path_factory.mktemp("mixed"))
    return sweep(behaviour, "checkpoint.path=epoch=2.pth", "+hydra.job.env_set={OWN: mine}", cwd=cwd)


def test_no_job_stops_another(mixed: Swept) -> None:
    assert mixed.statuses == ["ok", "failed", "failed", "crashed", "crashed", "crashed", "ok"]
    assert [job["exit_code"] for job in mixed.summary["jobs"]] == [0, 2, 2, 9, 137, 0, 0]
    totals = {key: value for key, value in mixed.summary.items() if key not in ("best", "jobs")}
    assert totals == {"schema": 2, "total": 7, "ok": 2, "failed": 5, "skipped": 0, "not_run": 0}
    assert mixed.code == 1


def test_the_summary_lists_each_outcome(mixed: Swept) -> None:
    jobs = mixed.summary["jobs"]
    assert [set(job) for job in jobs] == [{field.name for field in dataclasses.fields(JobRecord)}] * 7
    assert [job["job"] for job in jobs] == list(range(7))
    assert jobs[1]["overrides"] == [
        "model._target_=own_models.Net",
        "model.behave=raises",
        "checkpoint.path=epoch=2.pth",
    ]
    assert jobs[1]["error"]["type"] == "ConfigError"
    assert "something the user did" in jobs[1]["error"]["message"]
    before = "before the job was done"
    assert [jobs[index]["error"]["message"] for index in (3, 4, 5)] == [
        f"the job's process ended with code 9 {before}",
        f"the job's process was killed by signal 9 (SIGKILL) {before}",
        f"the job's process ended with code 0 {before}",
    ]
    output = f"tail {mixed.folder}/4/output.txt   # shows its last output"
    assert jobs[4]["error"]["hint"] == f"{output}\ndmesg | tail   # says whether memory ran out"
    assert [jobs[index]["error"] for index in (0, 6)] == [None, None]


def test_each_job_has_its_own_log_and_report(mixed: Swept) -> None:
    for job in mixed.summary["jobs"]:
        assert (job["output_dir"], job["report"]) == (str(job["job"]), f"{job['job']}/report.json")
        report = json.loads((mixed.folder / job["report"]).read_text())
        assert report["error"] == job["error"]
        assert report["overrides"] == job["overrides"]
        assert report["config"]["model"]["behave"] == job["overrides"][1].partition("=")[2]
        assert (mixed.folder / str(job["job"]) / ".hydra" / "config.yaml").is_file()
    log = (mixed.folder / "6" / "loader.log").read_text()
    assert log.count("load ok") == 1
    assert "something the user did" in (mixed.folder / "1" / "loader.log").read_text()


def test_each_job_has_its_own_process_in_the_users_environment(mixed: Swept) -> None:
    printed_by = "".join(mixed.output(job) for job in range(7))
    expected = re.findall(r"^job (\w+) (\d+) (.+) (\w+)$", printed_by, re.MULTILINE)
    assert [behave for behave, *_ in expected][:2] == ["well", "raises"]
    assert len({pid for _, pid, *_ in expected}) == 7
    assert {(Path(cwd), own) for *_, cwd, own in expected} == {(mixed.folder.parent, "mine")}


def test_the_terminal_shows_a_line_for_each_job_then_one_table(mixed: Swept) -> None:
    lines = mixed.out.splitlines()
    crashed = "Crashed: the job's process was killed by signal 9 (SIGKILL) before the job was done"
    vanished = "Crashed: the job's process ended with code 0 before the job was done"
    before = [re.sub(r"  \d+\.\d s  ", "  0.1 s  ", line) for line in lines[:7]]
    assert before[:1] + before[3:] == [
        "1/7  ok  0.1 s  model.behave=well",
        "4/7  crashed  0.1 s  model.behave=dies  Crashed: the job's process ended with code 9 before the job was done",
        f"5/7  crashed  0.1 s  model.behave=killed  {crashed}",
        f"6/7  crashed  0.1 s  model.behave=vanishes  {vanished}",
        "7/7  ok  0.1 s  model.behave=finely",
    ]
    assert before[1].startswith("2/7  failed  0.1 s  model.behave=raises  ConfigError: model: the")
    head, good, raised, _, _, killed, _, _, page, ending = lines[7:]
    assert head.split() == ["job", "status", "model.behave", "seconds", "error"]
    assert re.fullmatch(r"  0  ok +well +\d+\.\d\d", good)
    assert "ConfigError: " in raised
    assert killed.endswith(crashed)
    assert page == f"page: {mixed.folder / 'summary.html'}"
    assert ending == f"2 of 7 jobs ok: {mixed.folder / 'summary.json'}"
    assert "\x1b" not in mixed.out


def test_the_errors_have_the_lines_to_type(mixed: Swept) -> None:
    assert "Traceback" not in mixed.err
    assert (
        "error  job 4: the job's process was killed by signal 9 (SIGKILL) before the job was done\n"
        f"  try  tail {mixed.folder}/4/output.txt   # shows its last output\n"
        "  try  dmesg | tail   # says whether memory ran out\n"
    ) in mixed.err
    assert [line.partition(":")[0] for line in mixed.err.splitlines() if line.startswith("error")] == [
        f"error  job {number}" for number in range(1, 6)
    ]


def test_what_a_job_prints_is_in_its_folder(mixed: Swept) -> None:
    assert "keys       loaded 2 of 2\n" in mixed.output(0)
    assert mixed.output(1).partition("error  ")[2].startswith("model: ")
    assert mixed.output(3).partition("last words\n")[2].startswith("error  the job's process ended with code 9 before")


def test_the_csv_has_one_line_for_each_job(mixed: Swept) -> None:
    text = (mixed.folder / "summary.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(text.splitlines()) == 8
    assert [row["status"] for row in rows] == mixed.statuses
    assert [rows[0][name] for name in ("parameters", "loaded", "missing", "dtype", "device")] == [
        "6",
        "2",
        "0",
        "float32",
        "cpu",
    ]
    assert rows[4]["error"] == "the job's process was killed by signal 9 (SIGKILL) before the job was done"


def test_nothing_but_the_results_stays_in_the_folder(mixed: Swept) -> None:
    assert {path.name for path in mixed.folder.iterdir()} == {
        *"0123456",
        "multirun.yaml",
        "summary.json",
        "summary.csv",
        "summary.html",
    }


def test_files_and_literals_as_typed(folder: Path) -> None:
    done = sweep(
        "checkpoint.path=glob(*.pth)",
        "verify.input={shape: [1, 2]},{shape: [3, 2]}",
        "+experiment=state_dict",
        cwd=folder,
    )
    assert (done.code, done.err) == (0, "")
    reports = [json.loads((done.folder / job["report"]).read_text()) for job in done.summary["jobs"]]
    assert [Path(report["parts"][""]["path"]).name for report in reports] == ["epoch=2.pth"] * 2 + ["epoch=10.pth"] * 2
    assert [report["verification"]["outputs"][0]["shape"] for report in reports] == [[1, 2], [3, 2]] * 2
    assert done.summary["jobs"][3]["overrides"] == [
        TARGET,
        "checkpoint.path=epoch=10.pth",
        "verify.input={shape:[3,2]}",
        "experiment=state_dict",
    ]


def test_the_worst_refusal_is_the_sweeps_exit_code(folder: Path) -> None:
    done = sweep("checkpoint.path=epoch=2.pth,gone.pth", "device=cpu,cuda:99", cwd=folder)
    codes = [job["exit_code"] for job in done.summary["jobs"]]
    assert codes[:3] == [0, 6, 3]
    assert done.code == max(codes) == 6


def test_a_config_that_does_not_resolve_fails_its_own_job(folder: Path) -> None:
    done = sweep("checkpoint.path=${nope},epoch=2.pth", cwd=folder)
    assert done.statuses == ["failed", "ok"]
    assert done.code == 2
    assert done.summary["jobs"][0]["error"]["message"].startswith(
        "the config cannot be resolved (at 'checkpoint.path')"
    )
    assert json.loads((done.folder / "0" / "report.json").read_text())["status"] == "failed"


def test_the_process_that_sweeps_imports_no_torch(folder: Path) -> None:
    program = (
        "import sys; from loader.cli.main import run_command; "
        "code = run_command(sys.argv[1:]); print('torch' in sys.modules, code)"
    )
    arguments = ["-m", TARGET, "checkpoint.path=epoch=2.pth", "seed=1,2"]
    done = run(sys.executable, "-c", program, *arguments, cwd=folder, PYTHONPATH=str(REPOSITORY))
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


def test_a_stale_report_is_not_taken_for_a_new_one(folder: Path) -> None:
    (folder / "sweep" / "0").mkdir(parents=True)
    (folder / "sweep" / "0" / "report.json").write_text('{"status": "ok"}')
    again = sweep("checkpoint.path=epoch=2.pth", "model.behave=dies", cwd=folder)
    assert again.statuses == ["crashed"]
    assert json.loads((again.folder / "0" / "report.json").read_text())["error"]["type"] == "Crashed"


@pytest.mark.parametrize(
    ("number", "code", "expected"),
    [(signal.SIGINT, 130, "interrupted\n"), (signal.SIGTERM, 143, ""), (signal.SIGHUP, 129, "")],
    ids=["ctrl-c", "terminated", "terminal closed"],
)
def test_a_sweep_that_is_stopped_still_says_how_far_it_came(
    folder: Path, number: signal.Signals, code: int, expected: str
) -> None:
    arguments = [
        "model._target_=own_models.Net",
        "checkpoint.path=epoch=2.pth",
        "model.behave=well,slowly,well",
        "hydra.sweep.dir=sweep",
    ]
    with in_own_session(number, *RUN, *arguments, cwd=folder) as process:
        line = printed(folder / "sweep", "job slowly")
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
        out, err = process.communicate(timeout=60)
    hint = f"sweep.resume={folder}/sweep"
    ended = f"error  jobs 1, 2 were not run to the end, as the sweep ended before\n  try  {hint}\n"
    assert (process.returncode, without_progress(err)) == (code, ended + expected)
    done = Swept(code, out, err, folder / "sweep")
    assert done.statuses == ["ok", "crashed", "not run"]
    assert [(job["error"] or {}).get("hint") for job in done.summary["jobs"]] == [None, hint, hint]
    assert done.summary["jobs"][1]["report"] == "1/report.json"
    report = json.loads((folder / "sweep" / "1" / "report.json").read_text())
    assert (report["status"], report["exit_code"]) == ("failed", 130)
    assert report["error"] == done.summary["jobs"][1]["error"]
    assert [job["exit_code"] for job in done.summary["jobs"]] == [0, 130, None]
    assert [(job["error"] or {}).get("message") for job in done.summary["jobs"]] == [
        None,
        "interrupted before the job was done",
        "the sweep ended before this job was started",
    ]
    assert "1 of 3 jobs ok" in out
    with pytest.raises(ProcessLookupError):
        os.kill(int(line.split()[2]), 0)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the processes of a session are listed nowhere")
def test_jobs_do_not_outlive_a_sweep_that_is_killed(folder: Path) -> None:
    arguments = [TARGET, "checkpoint.path=epoch=2.pth", "model.behave=slowly", "hydra.sweep.dir=sweep"]
    with subprocess.Popen([*RUN, *arguments], cwd=folder, stdout=subprocess.PIPE, start_new_session=True) as process:
        printed(folder / "sweep", "job slowly")
        assert len(of_session(process.pid)) > 2
        process.kill()
        process.wait(timeout=60)
        deadline = time.monotonic() + 30
        while of_session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert of_session(process.pid) == []
