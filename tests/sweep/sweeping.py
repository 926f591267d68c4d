"""Runs sweeps as a user does, over a model that behaves as it is expected."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.command import REPOSITORY, run

RUN = [sys.executable, str(REPOSITORY / "run.py"), "-m"]
TARGET = "model._target_=own_models.Net"

OWN_MODULE = """
import os, signal, sys, time
from torch import nn

class Net(nn.Linear):
    def __init__(self, behave="well"):
        print("job", behave, os.getpid(), os.getcwd(), os.environ.get("OWN"), flush=True)
        super().__init__(2, 2)
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

    @property
    def statuses(self) -> list[str]:
        return [job["status"] for job in self.summary["jobs"]]


def sweep(*overrides: str, cwd: Path, **environment: str) -> Swept:
    done = run(*RUN, TARGET, *overrides, "hydra.sweep.dir=sweep", cwd=cwd, **environment)
    return Swept(done.returncode, done.stdout, done.stderr, cwd / "sweep")


def make_folder(folder: Path) -> Path:
    (folder / "own_models.py").write_text(OWN_MODULE)
    for name in ("epoch=2.pth", "epoch=10.pth"):
        torch.save(torch.nn.Linear(2, 2).state_dict(), folder / name)
    return folder
