"""Sweeps that limit their jobs: by time, by number of failures, by device."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from loader.errors import ConfigError
from loader.sweep.control import _DEVICE
from loader.sweep.record import BAD, STOPPED, JobRecord
from loader.sweep.records import count_bad, forget, keep
from tests.sweep.sweeping import RUN, make_folder, sweep

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the processes of a session are listed nowhere"
)

BUSY_MODULE = """
import os, re, signal, subprocess, sys, time
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

class Slow(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        note()
        time.sleep(300)

def note(number=None):
    with open("processes", "a") as file:
        file.write(f"{number or os.getpid()}\\n")

class Net(nn.Linear):
    def __init__(self, behave="well"):
        super().__init__(2, 2)
        if behave == "well":
            return
        note()
        if behave == "raises":
            raise RuntimeError("something the user did")
        if behave in ("stubborn", "calm"):
            note(subprocess.Popen(["sleep", "300"]).pid)
            note(subprocess.Popen(["sleep", "300"], start_new_session=True).pid)
        if behave == "leaves":
            note(subprocess.Popen(["sleep", "300"]).pid)
            note(subprocess.Popen(["sleep", "300"], start_new_session=True).pid)
            left = ["sh", "-c", "sleep 300 >/dev/null & echo $!"]
            note(int(subprocess.check_output(left, start_new_session=True)))
            return
        if behave == "stubborn":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        if behave == "loads":
            print(next(iter(DataLoader(Slow(), num_workers=2))))
        if behave == "holds":  # the interpreter's lock, for hours
            open("holding", "w").close()
            re.match("(a+)+$", "a" * 48 + "b")
        time.sleep(300)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_folder(tmp_path)
    (tmp_path / "own_models.py").write_text(BUSY_MODULE)
    return tmp_path


def noted(folder: Path) -> list[int]:
    file = folder / "processes"
    return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def running(numbers: list[int]) -> list[int]:
    """Those processes that have not ended."""
    found = []
    for number in numbers:
        try:
            state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        found += [number] if state != "Z" else []
    return found


def ended(numbers: list[int], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while running(numbers) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not running(numbers)


def test_a_job_that_takes_too_long_is_ended_with_all_its_processes(folder: Path) -> None:
    done = sweep("checkpoint.path=epoch=2.pth", "model.behave=leaves,calm,well", "sweep.timeout=2.5", cwd=folder)
    assert done.statuses == ["ok", "timed out", "ok"]
    assert done.code == 1
    assert len(set(noted(folder))) == 4 + 3
    assert running(noted(folder)) == []
    assert "Traceback" not in done.err
    late = done.summary["jobs"][1]
    assert late["exit_code"] == 124
    assert late["error"] == {
        "type": "TimedOut",
        "message": "the job was not done in time: it was ended 2.5 s after its process began (sweep.timeout=2.5)",
        "hint": "sweep.timeout=5   # allows more time, and null any",
        "fixes": [{"line": "sweep.timeout=5", "note": "allows more time, and null any"}],
    }
    assert 2.5 <= late["seconds"] < 30
    report = json.loads((done.folder / late["report"]).read_text())
    assert (report["status"], report["exit_code"], report["error"]) == ("error", 124, late["error"])
    totals = {name: done.summary[name] for name in ("total", "ok", "failed", "skipped", "not_run")}
    assert totals == {"total": 3, "ok": 2, "failed": 1, "skipped": 0, "not_run": 0}


@pytest.mark.slow
def test_a_job_that_heeds_no_request_is_ended_with_all_its_processes(folder: Path) -> None:
    done = sweep("checkpoint.path=epoch=2.pth", "model.behave=stubborn,loads,holds", "sweep.timeout=4", cwd=folder)
    assert done.statuses == ["timed out"] * 3
    assert [job["exit_code"] for job in done.summary["jobs"]] == [124] * 3
    assert done.code == 1
    assert len(set(noted(folder))) >= 3 + 2 + 1
    assert running(noted(folder)) == []


@pytest.mark.parametrize("behave", ["stubborn", "loads", "holds"])
def test_no_process_of_a_job_outlives_a_sweep_that_is_killed(folder: Path, behave: str) -> None:
    arguments = ["model._target_=own_models.Net", "checkpoint.path=epoch=2.pth", "hydra.sweep.dir=sweep"]
    with subprocess.Popen([*RUN, *arguments, f"model.behave={behave}"], cwd=folder, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while len(noted(folder)) < (1 if behave == "holds" else 3) and time.monotonic() < deadline:
            time.sleep(0.05)
        if behave == "holds":
            while not (folder / "holding").exists():
                time.sleep(0.05)
            time.sleep(0.5)
        others = [number for number in of_session(process.pid) if number != process.pid]
        assert set(noted(folder)) & set(others)
        process.kill()
        process.wait(timeout=60)
    assert ended([*others, *noted(folder)])


def test_a_job_ends_its_processes_even_if_no_guard_is_left(folder: Path) -> None:
    arguments = ["model._target_=own_models.Net", "checkpoint.path=epoch=2.pth", "hydra.sweep.dir=sweep"]
    with subprocess.Popen([*RUN, *arguments, "model.behave=stubborn"], cwd=folder, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while len(noted(folder)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        others = [number for number in of_session(process.pid) if number != process.pid]
        (guard,) = [number for number in others if os.getpgid(number) == number and number not in noted(folder)]
        os.kill(guard, signal.SIGKILL)
        process.kill()
        process.wait(timeout=60)
    assert ended([*others, *noted(folder)])


def of_session(session: int) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found += [int(file.parent.name)] if fields[3] == str(session) and fields[0] != "Z" else []
    return found


def test_a_whole_group_that_is_killed_leaves_nothing(folder: Path) -> None:
    arguments = ["model._target_=own_models.Net", "checkpoint.path=epoch=2.pth", "hydra.sweep.dir=sweep"]
    with subprocess.Popen([*RUN, *arguments, "model.behave=holds"], cwd=folder, start_new_session=True) as process:
        while not (folder / "holding").exists():
            time.sleep(0.05)
        others = of_session(process.pid)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert ended(others)


def test_a_sweep_stops_after_enough_failures(folder: Path) -> None:
    behaviour = "model.behave=raises,well,raises,well,raises"
    done = sweep("checkpoint.path=epoch=2.pth", behaviour, "sweep.stop_after=2", cwd=folder)
    assert done.statuses == ["failed", "ok", "failed", "not run", "not run"]
    assert done.code == 2  # of the worst job that ran
    row = done.summary["jobs"][3]
    assert row["error"] == {
        "type": STOPPED,
        "message": "2 jobs did not end well, and sweep.stop_after=2 starts no more then",
        "hint": f"sweep.resume={folder}/sweep",
        "fixes": [{"line": f"sweep.resume={folder}/sweep", "note": ""}],
    }
    assert (row["exit_code"], row["seconds"], row["report"]) == (None, None, None)
    assert (done.summary["failed"], done.summary["not_run"]) == (2, 2)


@pytest.mark.slow
def test_failures_of_parallel_jobs_count(folder: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    behaviour = "model.behave=raises,well,raises,well,raises,well"
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = sweep("checkpoint.path=epoch=2.pth", behaviour, "sweep.stop_after=1", *launcher, cwd=folder)
    assert done.statuses[0] == "failed"
    assert done.statuses[3:] == ["not run"] * 3
    assert done.code == 2


def test_a_device_that_may_be_absent_is_skipped(folder: Path) -> None:
    devices = "device=cpu,cuda:93,mps:93,cudaa"
    done = sweep("checkpoint.path=epoch=2.pth", devices, "sweep.skip=[cuda*,cpu]", cwd=folder)
    assert done.statuses == ["ok", "skipped", "failed", "failed"]
    assert [job["exit_code"] for job in done.summary["jobs"]] == [0, 0, 6, 6]
    assert done.code == 6
    reason = done.summary["jobs"][1]["error"]
    assert reason["type"] == "Skipped"
    assert reason["message"].startswith("device 'cuda:93' is not on this machine; available: ")
    assert (done.summary["ok"], done.summary["skipped"], done.summary["failed"]) == (1, 1, 2)


def test_a_sweep_of_skipped_jobs_ends_well(folder: Path) -> None:
    done = sweep("checkpoint.path=epoch=2.pth", "device=cuda:93,cpu", "sweep.skip=cuda*", cwd=folder)
    assert "error" not in done.err
    assert done.statuses == ["skipped", "ok"]
    assert done.code == 0


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:*", "mps", "xpu:1"])
def test_an_accelerator_may_be_absent(name: str) -> None:
    assert _DEVICE.fullmatch(name)


@pytest.mark.parametrize("name", ["cpu", "auto", "meta", "cudaa", "cuda:x", "cuda*", "gpu", ""])
def test_a_mistyped_device_is_never_absent(name: str) -> None:
    assert not _DEVICE.fullmatch(name)


def test_the_devices_are_those_that_torch_knows() -> None:
    for name in ("cuda", "mps", "xpu", "hpu", "mtia", "xla", "ipu", "hip", "maia", "ve", "fpga", "privateuseone"):
        assert torch.device(name).type == name


def test_bad_ends_are_counted_over_processes(tmp_path: Path) -> None:
    for number, status in enumerate(("ok", *BAD, "skipped", "running", "not run")):
        keep(JobRecord(number, status=status), tmp_path)
    assert count_bad(tmp_path) == len(BAD)
    keep(JobRecord(1, status="ok"), tmp_path)  # run again
    assert count_bad(tmp_path) == len(BAD) - 1
    forget(tmp_path)
    assert count_bad(tmp_path) == 0


@pytest.mark.parametrize(
    ("typed", "message", "hint"),
    [
        (
            "sweep.timeout=0",
            "'sweep.timeout' is '0.0', expected a number of seconds above 0, or null for no limit",
            "sweep.timeout=null",
        ),
        ("sweep.timeout=soon", "'sweep.timeout' is 'soon', expected a number or null", "sweep.timeout=null"),
        (
            "sweep.stop_after=0",
            "'sweep.stop_after' is '0', expected a number of jobs from 1, or null to start all",
            "sweep.stop_after=1",
        ),
        (
            "+sweep.tiemout=3",
            "unknown config key 'sweep.tiemout' (did you mean 'timeout'?)",
            "sweep.timeout=3.0 '~sweep.tiemout'",
        ),
    ],
)
def test_a_limit_that_is_none_is_refused(typed: str, message: str, hint: str) -> None:
    from loader.config.sweeps import parse_sweep

    key, value = typed.lstrip("+").removeprefix("sweep.").split("=")
    raw: dict[str, Any] = {key: float(value) if value.isdigit() else value}
    if key == "stop_after":
        raw = {key: int(value)}
    with pytest.raises(ConfigError) as caught:
        parse_sweep(raw)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_a_limit_that_is_invalid_starts_no_job(folder: Path) -> None:
    done = sweep("checkpoint.path=epoch=2.pth", "seed=1,2", "sweep.timeout=-1", cwd=folder)
    assert (done.code, done.out) == (2, "")
    assert "'sweep.timeout' is '-1.0', expected a number of seconds above 0, or null for no limit" in done.err
    assert not done.folder.exists()
