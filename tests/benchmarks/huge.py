"""What planning a sharded checkpoint of 1 TB costs: ``python -m tests.benchmarks.huge [--rounds N]``.

The shards are sparse files, which take no room on the disk. Each round is a whole `run.py mode=plan` in a process of
its own; shown are medians of its seconds (imports included), of the job's own seconds, and its largest memory.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from torch import nn

from tests.benchmarks.measuring import REPOSITORY
from tests.formats.sharding import write_sparse

SHARDS = 200
WIDTHS = {2: 25_000, 50: 5_000}
"""Tensors in a shard of 5 GB, and how wide each of them is."""
_MEGABYTE = 10**6


class Deep(nn.Sequential):
    """Square layers without biases."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__(*(nn.Linear(width, width, bias=False) for _ in range(layers)))


def main() -> None:
    """Measures and shows."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.huge")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the sparse files are made, and removed again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for tensors, width in WIDTHS.items():
            folder = write_sparse(Path(name) / f"of-{tensors}", SHARDS, tensors, width)
            rounds = [_plan(folder, SHARDS * tensors, width) for _ in range(options.rounds)]
            size = sum(file.stat().st_size for file in folder.iterdir())
            seconds, inside, peak = (statistics.median(column) for column in zip(*rounds, strict=True))
            sys.stdout.write(
                f"{size / 10**12:.3f} TB, {SHARDS} shards, {SHARDS * tensors:,} tensors: process {seconds:.2f} s, "
                f"job {inside:.2f} s, peak {peak / _MEGABYTE:.0f} MB\n"
            )


def _plan(folder: Path, layers: int, width: int) -> tuple[float, float, float]:
    """Seconds of the process and of the job inside it, and the process's peak memory in bytes."""
    with tempfile.TemporaryDirectory() as output:
        command = [
            *(sys.executable, "run.py", "mode=plan", "device=cpu"),
            f"model={{_target_: tests.benchmarks.huge.Deep, layers: {layers}, width: {width}}}",
            f"checkpoint.path={folder}",
            f"hydra.run.dir={output}",
        ]
        start = time.perf_counter()
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL) as process:
            # The peak of this one process; getrusage would tell that of the largest child so far.
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"run.py mode=plan ended with {process.returncode}")
        report = json.loads((Path(output) / "report.json").read_text(encoding="utf-8"))
    return seconds, float(report["timings"]["total"]), usage.ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
