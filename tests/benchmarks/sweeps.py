"""The cost of sweeps beside their jobs' loads, with the goals: start, time and memory of a job, resuming, the page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.measuring import AS_INSTALLED, REPOSITORY

_FIRST_OF = 300
_LONG = 1_000
_FINISHED = 200
_COMPARED = (5, 45)
"""Lengths of the sweeps from whose difference the cost of one job is taken."""

_POLL = 0.005


@dataclass(frozen=True)
class Figure:
    """One measured number and its goal, a maximum."""

    name: str
    value: float
    goal: float
    unit: str

    def __str__(self) -> str:
        """Writes it in one line."""
        verdict = "ok" if self.value <= self.goal else "MISSED"
        return f"{self.name:<58} {self.value:>9.2f} {self.unit:<3} goal {self.goal:g} {self.unit:<3} {verdict}"


def measure_sweeps(tell: Callable[[str], None], *, long: int = _LONG) -> list[Figure]:
    """Measures whole sweeps of the shipped example, by their processes.

    Args:
        tell: Is told what is being measured.
        long: Number of jobs of the sweep whose memory is measured.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tell(f"the first job of a sweep of {_FIRST_OF}")
        figures = [Figure(f"the first job of a sweep of {_FIRST_OF} starts after", _first(folder), 3, "s")]
        tell("the cost of a job")
        figures.append(Figure("a job beyond its load and evaluation", _job(folder), 0.2, "s"))
        tell(f"memory over {long} jobs")
        figures.append(Figure(f"memory of the parent, per job over {long}", _memory(folder, long), 20, "kB"))
        tell(f"a sweep of {_FINISHED} that is resumed")
        figures.append(Figure(f"a resumed sweep of {_FINISHED} finished jobs", _resumed(folder), 10, "s"))
        tell(f"the page of {_FINISHED} jobs")
        figures.append(Figure(f"the page of {_FINISHED} jobs", _page(folder / "finished"), 2, "s"))
    return figures


@contextmanager
def _started(folder: Path, count: int, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a sweep over seeds, in a process group of its own, and ends it."""
    command = [sys.executable, "run.py", "-m", f"seed=range(0,{count})", "sweep.page=false"]
    command += [f"hydra.sweep.dir={folder}", *more]
    quiet = subprocess.DEVNULL
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=AS_INSTALLED, stdout=quiet, stderr=told, start_new_session=True
        )
        try:
            yield process
        except BaseException:
            told.seek(0)
            sys.stderr.write(told.read().decode(errors="replace")[-2_000:])
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _first(folder: Path) -> float:
    place = folder / "first"
    start = time.perf_counter()
    with _started(place, _FIRST_OF) as process:
        _wait(process, (place / ".jobs" / "0.json").exists)
        return time.perf_counter() - start


def _wait(process: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
    while not done():
        if process.poll() is not None:
            raise RuntimeError("the sweep ended early")
        time.sleep(_POLL)


def _whole(place: Path, count: int, *more: str) -> float:
    """Seconds of a whole sweep."""
    start = time.perf_counter()
    with _started(place, count, *more) as process:
        if process.wait():
            raise RuntimeError(f"a sweep ended with {process.returncode}")
    return time.perf_counter() - start


def _job(folder: Path) -> float:
    fewer, more = _COMPARED
    own = {count: _whole(folder / f"of-{count}", count) - _inside(folder / f"of-{count}") for count in _COMPARED}
    return (own[more] - own[fewer]) / (more - fewer)


def _inside(place: Path) -> float:
    """Seconds of the loads and evaluations of a sweep's jobs, as their reports say."""
    reports: Iterator[Any] = (json.loads(path.read_text(encoding="utf-8")) for path in place.glob("*/report.json"))
    return sum(float(report["timings"]["total"]) for report in reports)


def _memory(folder: Path, count: int) -> float:
    """Growth of the parent's highest memory in kB for each job, between a short sweep and a long one."""
    few = count // 10
    return (_highest(folder / "long", count) - _highest(folder / "short", few)) / (count - few)


def _highest(place: Path, count: int) -> int:
    """The highest resident memory in kB of the process that sweeps, its summary included."""
    highest = 0
    with _started(place, count) as process:
        while process.poll() is None:
            highest = _peak(process.pid) or highest
            time.sleep(_POLL)
    if process.returncode:
        raise RuntimeError(f"a sweep ended with {process.returncode}")
    return highest


def _peak(pid: int) -> int:
    """The highest resident memory of a process so far, in kB; 0 once it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def _resumed(folder: Path) -> float:
    _whole(folder / "finished", _FINISHED)
    return _whole(folder / "resumed", _FINISHED, f"sweep.resume={folder / 'finished'}")


_WRITE_PAGE = """
import json, sys, time
from pathlib import Path
from loader.page import write_sweep_page
folder = Path(sys.argv[1])
summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
start = time.perf_counter()
write_sweep_page(folder, summary)
print(time.perf_counter() - start)
"""


def _page(place: Path) -> float:
    command = [sys.executable, "-c", _WRITE_PAGE, str(place)]
    return float(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout)
