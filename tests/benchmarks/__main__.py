"""Compares the loader with other ways of loading the same checkpoints: ``python -m tests.benchmarks``.

    pip install -e '.[bench]'
    python -m tests.benchmarks                                  # small files, a first look in a few minutes
    python -m tests.benchmarks --size full --rounds 5           # the files of the README's table: 10 GB, an hour
    python -m tests.benchmarks --case pt --way ours --way torch # one cell or a few
    python -m tests.benchmarks --cold                           # with the checkpoint dropped from the page cache
    python -m tests.benchmarks --case sweep                     # what sweeps cost, beside the goals; ten minutes

Run it from the repository's root. Every measurement is a fresh process; rounds are interleaved; medians are shown, and
written with `--json FILE`. A way that is not installed, or cannot do a job, says so in its row.

Columns: seconds from the end of imports to the loaded model, of the first forward pass (batch 1, 16 tokens), of both,
the ratio of both to ours, processor seconds of both, and seconds of the whole process; peak resident memory above the
start, pages shared with the page cache included; private memory afterwards; bytes read by system calls, and bytes that
came from the disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import files, machine
from tests.benchmarks.cases import CASES
from tests.benchmarks.measuring import Key, applicable, measure_all
from tests.benchmarks.networks import SIZES
from tests.benchmarks.startup import measure_startup
from tests.benchmarks.sweeps import Figure, measure_sweeps
from tests.benchmarks.table import show
from tests.benchmarks.ways import WAYS

STARTUP = "startup"
SWEEP = "sweep"
"""Measured only when asked for: a thousand jobs take their time."""


def main() -> None:
    """Measures and shows what was asked for."""
    options = _options()
    chosen = options.case or [*CASES, STARTUP]
    cases = [name for name in CASES if name in chosen]
    for name in cases:
        _tell(f"making {name}")
        files.make(CASES[name], options.folder, options.size)
    wanted = {name: files.nbytes(CASES[name], options.size) for name in cases}
    pairs = applicable(cases, options.way or WAYS, cold=options.cold)
    results = measure_all(pairs, options.rounds, options.size, options.folder, _tell, cold=options.cold)
    sweeps = measure_sweeps(_tell) if SWEEP in chosen else []
    startup = measure_startup(options.rounds, _tell) if STARTUP in chosen and not options.cold else {}
    _say("\n".join(f"{name:<10} {value}" for name, value in machine.describe().items()))
    _say(f"size       {options.size}, {options.rounds} rounds, {'cold' if options.cold else 'warm'} page cache\n")
    if results:
        _say(show(results, wanted))
    if options.cold:
        _warn_if_warm(results)
    if startup:
        _say("\nstart-up, seconds: " + ", ".join(f"{name} {value:.3f}" for name, value in startup.items()))
    if sweeps:
        _say("\nsweeps\n" + "\n".join(map(str, sweeps)))
    if options.json:
        options.json.write_text(
            json.dumps(_as_json(results, startup, sweeps, options, wanted), indent=2), encoding="utf-8"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--case", action="append", choices=[*CASES, STARTUP, SWEEP], help="may be repeated; all by default"
    )
    parser.add_argument("--way", action="append", choices=WAYS, help="may be repeated; all by default")
    parser.add_argument("--cold", action="store_true", help="drop the files from the page cache before each load")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hydra-loader-benchmarks")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers too")
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    return options


def _warn_if_warm(results: dict[Key, dict[str, Any]]) -> None:
    warm = [f"{case}, {way}" for (case, way), result in results.items() if (result.get("cached") or 0) > 0.01]
    if warm:
        _say(f"\nnot cold, the system kept more than 1 % of the file: {'; '.join(warm)}")


def _as_json(
    results: dict[Key, dict[str, Any]],
    startup: dict[str, Any],
    sweeps: list[Figure],
    options: argparse.Namespace,
    wanted: dict[str, int],
) -> dict[str, Any]:
    return {
        "machine": machine.describe(),
        "settings": {"size": options.size, "rounds": options.rounds, "cold": options.cold},
        "results": [{"case": c, "way": w, "wanted": wanted[c], **result} for (c, w), result in results.items()],
        "startup": startup,
        "sweeps": [dataclasses.asdict(figure) for figure in sweeps],
    }


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    main()
