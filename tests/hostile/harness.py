"""Puts hostile files before the loader in a child process, and says which promise each of them broke."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.case import WEIGHT, Case
from tests.hostile.running import MARKS
from tests.hostile.samples import SAMPLES

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 3600
"""Seconds for one child; it has its own limits for each case."""


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of one case."""

    name: str
    codes: Mapping[str, int]
    """The exit code of each step."""
    broken: Sequence[str]
    """The promises that did not hold."""
    grown: int = 0
    """Bytes of memory that it took at most."""
    size: int = 0
    """Bytes of all its files."""
    seconds: float = 0.0
    """Processor time of all steps."""


def write(cases: Iterable[Case], parent: Path) -> list[dict[str, Any]]:
    """Writes the files; returns what the child has to know of them."""
    written = []
    for case in cases:
        folder = case.folder(parent)
        folder.mkdir(parents=True)
        path = case.write(folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        written.append(
            {
                "name": case.name,
                "path": str(path),
                "folder": os.path.realpath(folder),
                "size": size,
                "outcome": case.outcome,
            }
        )
    return written


def examine(cases: Sequence[Case], folder: Path, child: str = "tests.hostile.child") -> dict[str, Examined]:
    """Writes the cases and has them examined, with a new child behind each one that ended the last.

    Args:
        cases: All in one go: to start a child takes longer than a hundred of them.
        folder: For files, manifests and logs.
        child: The module that is run.
    """
    marks = folder / "cases" / MARKS
    marks.mkdir(parents=True)
    written = write(cases, folder / "cases")
    honest = [str(written["path"]) for written in write(_honest(), folder / "honest")]
    found: dict[str, Examined] = {}
    waiting = list(written)
    while waiting:
        done, culprit = _run(child, {"cases": waiting, "honest": honest, "marks": str(marks)}, folder)
        found |= {examined.name: examined for examined in done}
        waiting = [case for case in waiting if case["name"] not in found]
        if culprit is not None:
            found[culprit.name] = culprit
            waiting = [case for case in waiting if case["name"] != culprit.name]
    return found


def _honest() -> list[Case]:
    cases = [
        Case(f"honest {name}", lambda folder, writer=writer: writer(folder, {"weight": WEIGHT}))  # type: ignore[misc]
        for name, writer in SAMPLES.items()
    ]
    misfit = Case("honest misfit", lambda folder: SAMPLES["torch-zip"](folder, {"wait": WEIGHT}))
    return [*cases, misfit]


def _run(child: str, manifest: Mapping[str, Any], folder: Path) -> tuple[list[Examined], Examined | None]:
    number = len(list(folder.glob("manifest-*")))
    given, log = folder / f"manifest-{number}", folder / f"log-{number}"
    given.write_text(json.dumps(manifest))
    command = [sys.executable, "-m", child, str(given), str(log)]
    environment = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    try:
        ended = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE
        )
        how = _how(ended.returncode, ended.stderr)
    except subprocess.TimeoutExpired:
        how = f"hung for {DEADLINE} seconds"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = [Examined(**line) for line in lines if "begins" not in line]
    begun = [line["begins"] for line in lines if "begins" in line]
    if len(begun) > len(done):
        return done, Examined(begun[-1], {}, [how])
    assert len(done) == len(manifest["cases"]), f"the child stopped between two cases: {how}"
    return done, None


def _how(code: int, errors: str) -> str:
    name = signal.Signals(-code).name if code < 0 else str(code)
    return f"the process ended with {name}: {errors[-1500:]}"
