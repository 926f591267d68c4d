"""Runs the measurements.

Guarantees: each is a fresh process, and rounds are interleaved, so that a noisy minute hits every way alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tests.benchmarks.cases import CASES
from tests.benchmarks.ways import WAYS

REPOSITORY = Path(__file__).resolve().parents[2]
Key = tuple[str, str]
"""Case and way."""
_LONGEST = 900
AS_INSTALLED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Python's compiled files are kept, as an installer makes them for every package that is measured."""


def measure_all(
    pairs: Iterable[Key], rounds: int, size: str, folder: Path, tell: Callable[[str], None], *, cold: bool
) -> dict[Key, dict[str, Any]]:
    """Measures every pair of case and way.

    Returns:
        By pair the medians of the rounds, or a `note` where a way cannot do the job.
    """
    runs: dict[Key, list[dict[str, Any]]] = {pair: [] for pair in pairs}
    for number in range(rounds):
        for (case, way), results in runs.items():
            if results and "note" in results[0]:
                continue
            tell(f"round {number + 1} of {rounds}: {case}, {way}{', cold' if cold else ''}")
            results.append(_run_child(case, way, size, folder, cold=cold))
    return {pair: _medians(results) for pair, results in runs.items()}


def applicable(cases: Iterable[str], ways: Iterable[str], *, cold: bool) -> list[Key]:
    """The pairs that make sense."""
    chosen = [name for name in WAYS if name in set(ways) and (cold or not WAYS[name].only_cold)]
    return [(case, name) for case in cases for name in chosen if CASES[case].container in WAYS[name].containers]


def _run_child(case: str, way: str, size: str, folder: Path, *, cold: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.child", case, way, size, str(folder)]
    command += ["cold"] if cold else []
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=REPOSITORY, env=AS_INSTALLED, capture_output=True, text=True, timeout=_LONGEST, check=False
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        return {"note": f"failed: {last[0][:150]}"}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result if "note" in result else result | {"process": seconds}


def _medians(results: list[dict[str, Any]]) -> dict[str, Any]:
    notes = [result for result in results if "note" in result]
    if notes:
        return notes[0]
    merged: dict[str, Any] = {"rounds": len(results)}
    for name, first in results[0].items():
        values = [result[name] for result in results if isinstance(result.get(name), int | float)]
        merged[name] = statistics.median(values) if values else first
    merged["spread"] = [min(r["total"] for r in results), max(r["total"] for r in results)]
    return merged
