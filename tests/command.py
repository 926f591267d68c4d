"""Runs the loader as a user does: a new process, from a folder of its own.

Importing torch takes most of a short command's time. So `run` forks `run.py` from a process that has already done it,
wherever the command cannot see the difference (`tests.warm`); `run_afresh` always starts a new one, for tests of what
happens at the start. Both give the same result: `test_warm.py`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.warm import Warm

REPOSITORY = Path(__file__).resolve().parent.parent

TIMEOUT = 300
"""Seconds for one command."""

_WARM = Warm(os.environ)


@dataclass(frozen=True)
class Finished:
    """What a run left behind."""

    code: int
    out: str
    err: str
    report: dict[str, Any]
    """Its report.json; empty where it wrote none."""


def run_loader(*overrides: str, cwd: Path, **environment: str) -> Finished:
    """Runs run.py in a folder, with its output in `cwd/run`."""
    command = [sys.executable, str(REPOSITORY / "run.py"), *overrides, f"hydra.run.dir={cwd / 'run'}"]
    done = run(*command, cwd=cwd, **environment)
    report = cwd / "run" / "report.json"
    return Finished(
        done.returncode, done.stdout, done.stderr, json.loads(report.read_text()) if report.is_file() else {}
    )


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command with a terminal's width fixed and no colors."""
    env = _environment(environment)
    if _WARM.fits(command, cwd, env):
        return _WARM.run(command, cwd=cwd, env=env, timeout=TIMEOUT)
    return run_afresh(*command, cwd=cwd, **environment)


def run_afresh(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in the same way, in a process that has imported nothing yet."""
    env = _environment(environment)
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=TIMEOUT)


def _environment(more: dict[str, str]) -> dict[str, str]:
    # An option for this run of pytest is none for one that a test starts.
    return {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "PYTEST_ADDOPTS": "", **more}


@contextmanager
def heeded(number: signal.Signals) -> Iterator[None]:
    """Gives a signal its default effect, here and in processes started here: background jobs of a shell ignore some."""
    before = signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def in_own_session(number: signal.Signals, *command: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Starts a command that is going to get a signal, in a session of its own.

    An interruption can then be sent to all of its processes, as a keyboard does.
    """
    pipe = subprocess.PIPE
    with (
        heeded(number),
        subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process,
    ):
        yield process
