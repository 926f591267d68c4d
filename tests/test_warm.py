"""A command that is forked from the warm process cannot see that, and gives the same result as one in a new process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import REPOSITORY, run, run_afresh
from tests.sweep.sweeping import without_progress
from tests.warm import Warm

SLOW = pytest.mark.slow
RUN = [sys.executable, str(REPOSITORY / "run.py")]

OWN = """
import gc, json, logging, os, random, signal, sys, threading, warnings
import numpy, torch
from torch import nn

print("drew", random.random(), numpy.random.rand(), os.getpid())

def surroundings():
    main = sys.modules["__main__"]
    handlers = {number.name: str(signal.getsignal(number)) for number in signal.Signals if number.name != "SIGRTMAX"}
    return {
        "argv": sys.argv, "orig_argv": sys.orig_argv, "path": sys.path, "cwd": os.getcwd(), "env": dict(os.environ),
        "main": [main.__file__, main.__name__, main.__spec__, sorted(vars(main))],
        "streams": [[s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.isatty(), s.fileno()] for s in (
            sys.stdin, sys.__stdout__, sys.__stderr__)],
        "signals": handlers, "masked": [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "threads": threading.active_count(), "in torch": torch.get_num_threads(),
        "files": sorted(int(name) for name in os.listdir("/dev/fd"))[:4], "umask": os.umask(0o22),
        "session": os.getsid(0), "group": os.getpgrp(), "seed": torch.initial_seed(),
        "loggers": [str(handler) for handler in logging.lastResort and [logging.lastResort]],
        "warnings": [str(kind) for kind in warnings.filters], "options": [str(sys.flags), sys.warnoptions],
        "collector": [gc.isenabled(), gc.get_threshold()],
    }

class Net(nn.Linear):
    def __init__(self, behave="well"):
        super().__init__(2, 2)
        if behave == "looks":
            with open("surroundings.json", "w") as file:
                json.dump(surroundings(), file, indent=1, sort_keys=True)
        if behave == "dies":
            print("last words")
            os._exit(9)
        if behave == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if behave == "exits":
            sys.exit("the model's own last words")
        if behave == "interrupted":
            raise KeyboardInterrupt
        if behave == "at exit":
            import atexit
            atexit.register(print, "after everything")
            threading.Thread(target=lambda: print("in a thread")).start()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import torch

    (tmp_path / "own_models.py").write_text(OWN)
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "own.pth")
    return tmp_path


CHANGING = "|".join(
    [
        r"drew .*",
        r"\d+\.\d+ ?(ms|s|MB|GB)\b",
        r"\d+\.\d\d",
        r"\d{4}-\d\d-\d\d",
        r"\d\d:\d\d:\d\d,\d+",
        r"\d\d-\d\d-\d\d-\d+",
    ]
)
"""What two runs of one command print differently: chance, times and sizes."""


def constant(text: str) -> str:
    return re.sub(CHANGING, "#", text)


def own(behave: str) -> list[str]:
    return ["model._target_=own_models.Net", f"model.behave={behave}", "checkpoint.path=own.pth", "hydra.run.dir=run"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        pytest.param(["--cfg", "job"], marks=SLOW),
        pytest.param(["--nope"], marks=SLOW),
        ["chekpoint.path=x"],
        pytest.param(["checkpoint.path=gone.pth", "hydra.run.dir=run"], marks=SLOW),
        pytest.param(["device=cpu", "hydra.run.dir=run"], marks=SLOW),
        own("dies"),
        pytest.param(own("killed"), marks=SLOW),
        own("exits"),
        pytest.param(own("interrupted"), marks=SLOW),
        pytest.param(own("'at exit'"), marks=SLOW),
        pytest.param(["-m", *own("well,dies,killed"), "hydra.sweep.dir=sweep"], marks=SLOW),
    ],
    ids=" ".join,
)
def test_the_same_comes_of_a_command(arguments: list[str], folder: Path) -> None:
    forked = run(*RUN, *arguments, cwd=folder)
    for name in ("run", "sweep"):
        shutil.rmtree(folder / name, ignore_errors=True)
    afresh = run_afresh(*RUN, *arguments, cwd=folder)
    assert forked.args == [*afresh.args]
    assert forked.returncode == afresh.returncode
    assert constant(forked.stdout) == constant(afresh.stdout)
    assert constant(without_progress(forked.stderr)) == constant(without_progress(afresh.stderr))


@SLOW
def test_a_bug_prints_the_same_traceback(folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "conf" / "broken.yaml").write_text("hydra: {job_logging: {version: 2}}\ndefaults: [config, _self_]\n")
    typed = [*RUN, "--config-dir", "conf", "--config-name", "broken", "mode=plan", "hydra.run.dir=run"]
    forked, afresh = (how(*typed, cwd=folder) for how in (run, run_afresh))
    assert "Traceback" in afresh.stderr
    assert (forked.returncode, forked.stderr) == (afresh.returncode, afresh.stderr)


def test_a_model_sees_the_same_surroundings(folder: Path) -> None:
    seen = []
    for how in (run, run_afresh):
        assert how(*RUN, *own("looks"), cwd=folder, PYTHONPATH="elsewhere:.", OWN="x").returncode == 0
        seen.append((folder / "surroundings.json").read_text())
    assert seen[0] == seen[1]


def test_each_command_has_its_own_randomness(folder: Path) -> None:
    drawn = [line for _ in range(2) for line in run(*RUN, *own("well"), cwd=folder).stdout.splitlines()]
    first, second = ([*line.split()] for line in drawn if line.startswith("drew"))
    assert not {*first[1:]} & {*second[1:]}


def test_the_command_is_forked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.command.run_afresh", None)
    assert run(*RUN, "--version", cwd=folder).returncode == 0


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONSAFEPATH": "1"}, {"LC_ALL": "C"}, {"OMP_NUM_THREADS": "1"}, {"PYTHONPATH": "mine"}, {"PYTHONPATH": "its"}],
    ids=str,
)
def test_a_command_whose_start_makes_a_difference_is_not_forked(environment: dict[str, str], folder: Path) -> None:
    for path in ("mine/hydra.py", "its/torch/__init__.py"):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).touch()
    warm = Warm(os.environ)
    assert warm.fits(RUN, folder, os.environ)
    assert not warm.fits(RUN, folder, {**os.environ, **environment})
    (folder / "loader.py").touch()
    assert not warm.fits(RUN, folder, os.environ)


def test_only_run_py_is_forked(folder: Path) -> None:
    warm = Warm(os.environ)
    assert warm.fits([sys.executable, os.path.relpath(RUN[1], folder), "--help"], folder, os.environ)
    for command in ([sys.executable, "-X", "importtime", RUN[1]], [sys.executable, "-m", "loader"], ["bash"], RUN[:1]):
        assert not warm.fits(command, folder, os.environ)
    assert not warm.fits(["python", RUN[1]], folder, os.environ)


def test_a_command_that_takes_too_long_is_ended(folder: Path) -> None:
    warm = Warm(os.environ)
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run([*RUN, "--version"], cwd=folder, env=os.environ, timeout=0)
    assert warm.run([*RUN, "--version"], cwd=folder, env=os.environ, timeout=60).returncode == 0
