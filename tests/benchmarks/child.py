"""One measurement, in a process of its own: ``python -m tests.benchmarks.child CASE WAY SIZE FOLDER [cold]``.

Prints one line of JSON. Seconds count from when everything that the way imports by itself is imported; what a library
imports only while it loads counts as loading.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import machine
from tests.benchmarks.ways import WAYS, Load, NotHereError, job


def measure(case: str, way: str, size: str, folder: Path, *, cold: bool) -> dict[str, Any]:
    """Loads once and tells what it took."""
    work = job(case, folder, size)
    load = WAYS[way].prepare(work)
    example = work.kind.example()
    files = machine.files_of(work.path)
    cached = machine.drop_from_cache(files) if cold else machine.warm(files)
    gc.collect()
    machine.forget_peak()
    before = machine.memory() | machine.transferred()
    result = _timed(load, example)
    after = result.pop("after")
    result |= {name: _difference(after[name], before["resident" if name == "peak" else name]) for name in after}
    return result | {"cached": cached}


def _timed(load: Load, example: torch.Tensor) -> dict[str, Any]:
    start, worked = time.perf_counter(), time.process_time()
    model = load()
    loaded = time.perf_counter()
    if model is None:
        seconds = {"load": loaded - start, "total": loaded - start, "cpu": time.process_time() - worked}
        return seconds | {"after": machine.memory() | machine.transferred()}
    model.eval()
    with torch.no_grad():
        output = model(example)
    done, worked = time.perf_counter(), time.process_time() - worked
    after = machine.memory() | machine.transferred()
    if not torch.isfinite(output).all() or any(tensor.is_meta for tensor in model.state_dict().values()):
        raise RuntimeError("the model was not loaded")
    return {
        "load": loaded - start,
        "forward": done - loaded,
        "total": done - start,
        "cpu": worked,
        "after": after,
        "checksum": float(output.double().sum()),
        "dtype": str(next(model.parameters()).dtype),
    }


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before


def main() -> None:
    """Runs one measurement."""
    warnings.simplefilter("ignore")
    case, way, size, folder, *options = sys.argv[1:]
    try:
        result = measure(case, way, size, Path(folder), cold="cold" in options)
    except NotHereError as reason:
        result = {"note": str(reason)}
    sys.stdout.write("\n" + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
