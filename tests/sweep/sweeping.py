"""Runs sweeps as a user does, over a model that behaves as it is expected."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.command import REPOSITORY, TIMEOUT, run

RUN = [sys.executable, str(REPOSITORY / "run.py"), "-m"]
TARGET = "model._target_=own_models.Net"

OWN_MODULE = """
import multiprocessing, os, pathlib, signal, sys, time
from torch import nn

class Net(nn.Linear):
    def __init__(self, behave="well"):
        print("job", behave, os.getpid(), os.getcwd(), os.environ.get("OWN"), flush=True)
        super().__init__(3 if behave == "misfits" else 2, 2)
        if behave == "raises":
            raise RuntimeError("something the user did")
        if behave == "exits":
            sys.exit(7)
        if behave == "dies":
            print("last words")
            os._exit(9)
        if behave == "vanishes":
            os._exit(0)
        if behave == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if behave == "slowly":
            time.sleep(60)
        if behave == "costs its worker" and not pathlib.Path("cost").exists():
            pathlib.Path("cost").touch()
            os.kill(multiprocessing.parent_process().pid, signal.SIGKILL)
            time.sleep(60)
"""


@dataclass(frozen=True)
class Swept:
    code: int
    out: str
    err: str
    folder: Path
    """The sweep's own folder."""

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "summary.json").read_text()))

    def output(self, job: int) -> str:
        """What a job printed."""
        return (self.folder / str(job) / "output.txt").read_text()

    @property
    def statuses(self) -> list[str]:
        return [job["status"] for job in self.summary["jobs"]]


def sweep(*overrides: str, cwd: Path, **environment: str) -> Swept:
    done = run(*RUN, TARGET, *overrides, "hydra.sweep.dir=sweep", cwd=cwd, **environment)
    return Swept(done.returncode, done.stdout, without_progress(done.stderr), cwd / "sweep")


def without_progress(err: str) -> str:
    """What a sweep printed on stderr besides its progress, which depends on how fast the machine is."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("sweep  "))


def printed(folder: Path, start: str) -> str:
    """Waits until a job of a sweep that is running prints a line; returns it."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for file in folder.glob("*/output.txt"):
            found = [line for line in file.read_text().splitlines() if line.startswith(start)]
            if found:
                return found[0]
        time.sleep(0.05)
    raise TimeoutError(start)


def of_session(number: int) -> list[str]:
    """The process ids of a session that have not ended."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            state, _parent, _group, session, *_ = file.read_text().rpartition(")")[2].split()
            found += [file.parent.name] if session == str(number) and state != "Z" else []
    return found


def make_folder(folder: Path) -> Path:
    (folder / "own_models.py").write_text(OWN_MODULE)
    for name in ("epoch=2.pth", "epoch=10.pth"):
        torch.save(torch.nn.Linear(2, 2).state_dict(), folder / name)
    return folder
