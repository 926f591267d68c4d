"""What the command line costs beside the load itself: the whole process of a job, and the later jobs of a sweep."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import AS_INSTALLED, REPOSITORY

_JOBS = (1, 4)
"""Lengths of the sweeps that are compared."""


def measure_startup(rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of whole processes, medians.

    Returns:
        `imports`: ``import torch, hydra``; `run`: ``run.py`` with the shipped example; `inside`: what that job's report
        says its load took; `beyond`: what run.py costs beyond the two; `job`: one more job of a sweep beyond its load;
        `help`: ``run.py --help``.
    """
    rows = []
    with tempfile.TemporaryDirectory() as warmed:
        _seconds("run.py", f"hydra.run.dir={warmed}")
    for number in range(rounds):
        tell(f"round {number + 1} of {rounds}: start-up and sweep")
        rows.append(_one_round())
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _one_round() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        imports = _seconds("-c", "import torch, hydra")
        run = _seconds("run.py", f"hydra.run.dir={folder / 'run'}")
        inside = _inside(folder / "run")
        sweeps = {count: _sweep(folder, count) for count in _JOBS}
        (fewer, (fewer_s, fewer_loads)), (more, (more_s, more_loads)) = sweeps.items()
        job = (more_s - fewer_s - (sum(more_loads) - sum(fewer_loads))) / (more - fewer)
        helped = _seconds("run.py", "--help")
    return {
        "imports": imports, "run": run, "inside": inside, "beyond": run - imports - inside, "job": job, "help": helped,
    }  # fmt: skip


def _sweep(folder: Path, count: int) -> tuple[float, list[float]]:
    """Seconds of a sweep, and of the loads inside it."""
    place = folder / f"sweep-{count}"
    seeds = ",".join(map(str, range(count)))
    seconds = _seconds("run.py", "-m", f"seed={seeds}", f"hydra.sweep.dir={place}")
    return seconds, [_inside(place / str(number)) for number in range(count)]


def _inside(folder: Path) -> float:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return float(report["timings"]["total"])


def _seconds(*arguments: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=AS_INSTALLED, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    return seconds
