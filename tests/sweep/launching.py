"""What a sweep does under every launcher; the launchers that are installed apart have a file of their own."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from pathlib import Path

from tests.command import REPOSITORY, run
from tests.sweep.sweeping import RUN, TARGET, Swept, sweep

WEIGHTS = "checkpoint.path=epoch=2.pth"
MARK = "SWEEP_OF_A_TEST"


def lines_of_the_page(word: str) -> list[str]:
    """The commands with a word in docs/launchers.md that can be run anywhere."""
    page = (REPOSITORY / "docs" / "launchers.md").read_text()
    lines = [
        line
        for block in re.findall(r"^```sh\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    return [line for line in lines if word in line]


def runs_as_typed(line: str, folder: Path) -> None:
    """Asserts that a command of the page does what it is for."""
    python, script, *arguments = shlex.split(line)
    assert (python, script) == ("python", "run.py")
    done = run(*RUN[:2], *arguments, cwd=folder)
    assert (done.returncode, "note" in done.stderr) == (0, False), done.stdout + done.stderr


def as_basic(folder: Path, *launcher: str) -> Swept:
    """Asserts that each way a job can end is what it is in a sweep without a launcher."""
    behaviour = "model.behave=well,misfits,raises,exits,dies,killed,finely"
    done = sweep(behaviour, WEIGHTS, *launcher, cwd=folder)
    jobs = done.summary["jobs"]
    assert done.statuses == ["ok", "failed", "failed", "failed", "crashed", "crashed", "ok"], done.out + done.err
    assert [job["exit_code"] for job in jobs] == [0, 4, 2, 2, 9, 137, 0]
    assert [job["job"] for job in jobs] == [*range(7)]
    assert done.code == 1
    assert "Traceback" not in done.out + done.err
    messages = [(job["error"] or {}).get("message", "") for job in jobs]
    assert "own_models.Net raised RuntimeError: something the user did" in messages[2]
    assert messages[4:6] == [
        "the job's process ended with code 9 before the job was done",
        "the job's process was killed by signal 9 (SIGKILL) before the job was done",
    ]
    assert all((folder / "sweep" / str(number) / "report.json").is_file() for number in range(7))
    return done


def survives_a_lost_worker(folder: Path, *launcher: str) -> Swept:
    """Asserts that a worker that is killed costs no job its result."""
    behaviour = "model.behave=well,'costs its worker',misfits,finely,well"
    done = sweep(behaviour, WEIGHTS, *launcher, cwd=folder)
    assert (folder / "cost").exists(), done.out + done.err
    assert done.statuses == ["ok", "ok", "failed", "ok", "ok"], done.out + done.err
    assert done.code == 4
    assert "Traceback" not in done.out + done.err
    (note,) = [line for line in done.err.splitlines() if "no result from" in line]
    assert "run again on this machine" in note
    return done


def leaves_nothing(folder: Path, *launcher: str) -> None:
    """Asserts that no process of a sweep outlives it if it is killed."""
    arguments = [TARGET, WEIGHTS, "model.behave=slowly,slowly", "hydra.sweep.dir=sweep", *launcher]
    environment = {**os.environ, MARK: str(folder)}
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*RUN, *arguments], cwd=folder, env=environment, stdout=quiet, stderr=quiet) as process:
        records = folder / "sweep" / ".jobs"
        assert _within(120, lambda: any(records.glob("[0-9]*.json")))
        assert len(_marked(folder)) > 1
        process.kill()
        process.wait(timeout=60)
    assert _within(60, lambda: not _marked(folder)), _marked(folder)


def _within(seconds: float, condition: object) -> bool:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _marked(folder: Path) -> list[str]:
    """The commands of the processes that a sweep in this folder has started, and that have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={folder}".encode() in (process / "environ").read_bytes().split(b"\0"):
                ended = (process / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                command = (process / "cmdline").read_text().replace("\0", " ").strip()
                found += [] if ended or "Agent" in command else [command]  # ray's own end somewhat later
        except OSError:  # it ended meanwhile
            continue
    return found
