"""What tensors cost that are made of others: ``python -m tests.benchmarks.derived [--rounds N] [--size full]``.

Fused projections into separate ones, the mean of five files, a LoRA adapter that is added to its base, and a plan of
10 000 experts that are stacked; each next to a plain load or a plain read, and to what others do with the same files.
Every measurement is a fresh process, rounds are interleaved, medians are shown. The mean is measured with its files
dropped from the page cache, the others with them in it. Memory is the peak above the start: resident, which counts
mapped pages that are shared with the page cache, and the weights' own size for comparison.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tests.benchmarks import machine
from tests.benchmarks.made import EXPERTS, FILES, Stacked, made, separate_class
from tests.benchmarks.measuring import AS_INSTALLED, REPOSITORY
from tests.benchmarks.networks import SEPARATE, SIZES, TRANSFORMER

Work = Callable[[], object]
_SPLIT = {
    "split": r"\.in_proj_(weight|bias)$",
    "into": [rf".{name}_proj.\1" for name in "qkv"],
}
"""The rule that cuts torch's fused projections."""
_KEPT: list[object] = []


@dataclass(frozen=True, slots=True)
class Setting:
    """Where the files are, and how large the model is."""

    folder: Path
    size: str

    def file(self, name: str) -> str:
        """The path of a file."""
        return str(self.folder / name)

    def node(self, target: str) -> dict[str, Any]:
        """The model's node of a config."""
        return {"_target_": target, **SIZES[self.size][TRANSFORMER]}


def plain(at: Setting) -> Work:
    """A load of separate projections, which nothing is done to."""
    return _ours(at.node(SEPARATE), {"path": at.file("separate.safetensors")})


def fused(at: Setting) -> Work:
    """Fused projections, split by a rule."""
    return _ours(at.node(SEPARATE), {"path": at.file("step0.safetensors")}, rules={"qkv": _SPLIT})


def fused_by_transformers(at: Setting) -> Work:
    """The same file, split by a weight converter of transformers."""
    load = separate_class(at.folder, SIZES[at.size][TRANSFORMER])
    return lambda: _kept(load())


def sequential(at: Setting) -> Work:
    """Reads the five files from start to end."""
    return lambda: machine.read_through(Path(at.file(name)) for name in FILES)


def mean(at: Setting) -> Work:
    """The mean of five files."""
    return _ours(at.node(TRANSFORMER), {"path": [at.file(name) for name in FILES], "combine": "mean"})


def mean_of_pickles(at: Setting) -> Work:
    """The mean of five files of torch.save, with their checksums."""
    names = [at.file(name.replace(".safetensors", ".pt")) for name in FILES]
    return _ours(at.node(TRANSFORMER), {"path": names, "combine": "mean"})


def sequential_pickles(at: Setting) -> Work:
    """Reads the five files of torch.save from start to end."""
    return lambda: machine.read_through(Path(at.file(name.replace(".safetensors", ".pt"))) for name in FILES)


def mean_tensor_by_tensor(at: Setting) -> Work:
    """As mergekit does it: safetensors opened lazily, each tensor summed in float32, then put into the model."""

    def load() -> None:
        with torch.device("meta"):
            model = _transformer(at)
        state = {}
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(at.file(name), "pt")) for name in FILES]
            for key in files[0].keys():  # noqa: SIM118  # it is no mapping
                total = files[0].get_tensor(key).to(torch.float32)
                for file in files[1:]:
                    total += file.get_tensor(key).to(torch.float32)
                state[key] = total / len(files)
        model.load_state_dict(state, assign=True)
        _kept(model)

    return load


def mean_of_whole_files(at: Setting) -> Work:
    """As training scripts do it: one state dict after the other is added to the first."""

    def load() -> None:
        total = load_file(at.file(FILES[0]))
        for name in FILES[1:]:
            for key, value in load_file(at.file(name)).items():
                total[key] += value
        model = _transformer(at)
        model.load_state_dict({key: value / len(FILES) for key, value in total.items()})
        _kept(model)

    return load


def base(at: Setting) -> Work:
    """A plain load of the adapter's base."""
    return _ours(at.node(TRANSFORMER), {"path": at.file("step0.safetensors")})


def lora(at: Setting) -> Work:
    """A LoRA adapter added to its base."""
    return _ours(
        at.node(TRANSFORMER), {"path": at.file("step0.safetensors")}, adapters={"lora": {"path": at.file("lora")}}
    )


def arithmetic(at: Setting) -> Work:
    """The products and sums of that merge alone, with everything in memory."""
    weights = {key: value.clone() for key, value in load_file(at.file("step0.safetensors")).items()}
    low = load_file(at.file("lora/adapter_model.safetensors"))

    def work() -> None:
        for key in list(low):
            if key.endswith("lora_A.weight"):
                own = key.removeprefix("base_model.model.").replace(".lora_A", "")
                _kept(weights[own] + 2.0 * (low[key.replace("lora_A", "lora_B")] @ low[key]))

    return work


def experts(at: Setting) -> Work:
    """A plan of 10 000 experts, one tensor each in the file, stacked by a rule."""
    import loader

    rule = {"merge": r"\.experts\.(\d+)\.w1\.weight$", "to": ".experts.w1"}
    model = {"_target_": f"{Stacked.__module__}.{Stacked.__qualname__}", "layers": EXPERTS[0], "experts": EXPERTS[1]}
    config = {"mode": "plan", "model": model, "checkpoint": {"path": at.file("experts.safetensors")}, "device": "cpu"}
    config["verify"] = {"forward": False}
    return lambda: loader.load({**config, "rules": {"stack": rule}})


def _transformer(at: Setting) -> Any:
    from tests.benchmarks.networks import Transformer

    return Transformer(**SIZES[at.size][TRANSFORMER])


def _ours(node: Mapping[str, Any], checkpoint: Mapping[str, Any], **more: Any) -> Work:
    import loader

    load_model = loader.load_model  # the package imports its own modules when they are asked for
    return lambda: _kept(load_model(node, checkpoint, device="cpu", **more))


def _kept(result: object) -> None:
    """Keeps what was made until it was measured."""
    _KEPT.append(result)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    name: str
    prepare: Callable[[Setting], Work]
    cold: tuple[str, ...] = ()
    """The files that are dropped from the page cache before."""
    beside: str = ""
    """The row that it is a multiple of."""
    goal: str = ""


PICKLES = tuple(name.replace(".safetensors", ".pt") for name in FILES)
ROWS = (
    Row("plain load of separate projections", plain),
    Row("fused into separate projections", fused, beside="plain load of separate projections", goal="≤ 1.1 x"),
    Row("the same, transformers", fused_by_transformers, beside="plain load of separate projections"),
    Row("sequential read of five files", sequential, FILES),
    Row("mean of five files", mean, FILES, "sequential read of five files", "≤ 1.5 x"),
    Row("the same, tensor by tensor (mergekit)", mean_tensor_by_tensor, FILES, "sequential read of five files"),
    Row("the same, one whole file after the other", mean_of_whole_files, FILES, "sequential read of five files"),
    Row("sequential read of five pickles", sequential_pickles, PICKLES),
    Row("mean of five pickles, checksums", mean_of_pickles, PICKLES, "sequential read of five pickles", "≤ 1.5 x"),
    Row("plain load of a base", base),
    Row("LoRA: products and sums alone", arithmetic),
    Row("LoRA added to the base", lora, beside="plain load of a base", goal="≤ 2 x plain + arithmetic"),
    Row("plan of 10 000 stacked experts", experts, goal="≤ 5 s"),
)


def main() -> None:
    """Measures and shows, or runs one measurement in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.derived")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "hydra-loader-derived")
    parser.add_argument("--row", action="append", type=int, help="a row by its number; may be repeated")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    at = Setting(options.folder.resolve() / options.size, options.size)
    if options.one is not None:
        sys.stdout.write("\n" + json.dumps(_measured(ROWS[options.one], at)) + "\n")
        return
    made(at.folder, at.size)
    chosen = options.row or range(len(ROWS))
    runs: dict[str, list[dict[str, Any]]] = {ROWS[number].name: [] for number in chosen}
    for turn in range(options.rounds):
        for number in chosen:
            sys.stderr.write(f"round {turn + 1} of {options.rounds}: {ROWS[number].name}\n")
            runs[ROWS[number].name].append(_run(number, options))
    sys.stdout.write("\n".join(f"{name:<10} {value}" for name, value in machine.describe().items()) + "\n\n")
    sys.stdout.write("\n".join(_lines(runs)) + "\n")


def _measured(row: Row, at: Setting) -> dict[str, Any]:
    warnings.simplefilter("ignore")
    work = row.prepare(at)
    files = [at.folder / name for name in row.cold]
    cached = machine.drop_from_cache(files) if files else None
    machine.forget_peak()
    before, start, worked = machine.memory(), time.perf_counter(), time.process_time()
    work()
    seconds, processor = time.perf_counter() - start, time.process_time() - worked
    peak, resident = machine.memory()["peak"], before["resident"]
    return {
        "seconds": seconds,
        "processor": processor,
        "peak": None if peak is None or resident is None else peak - resident,
        "cached": cached,
    }


def _run(number: int, options: argparse.Namespace) -> dict[str, Any]:
    own = ["--one", str(number), "--size", options.size, "--folder", str(options.folder)]
    command = [sys.executable, "-m", "tests.benchmarks.derived", *own]
    done = subprocess.run(command, cwd=REPOSITORY, env=AS_INSTALLED, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"note": (done.stderr.strip().splitlines() or ["failed"])[-1][:150]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _lines(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    medians = {
        name: {key: statistics.median(found[key] for found in results) for key in ("seconds", "processor", "peak")}
        for name, results in runs.items()
        if not any("note" in found for found in results)
    }
    lines = [f"{'':<42}{'s':>8}{'cpu s':>8}{'peak MB':>9}{'x':>7}  goal"]
    for row in (row for row in ROWS if row.name in runs):
        if row.name not in medians:
            lines.append(f"{row.name:<42}{runs[row.name][0]['note']}")
            continue
        found, other = medians[row.name], medians.get(row.beside)
        times = f"{found['seconds'] / other['seconds']:.2f}" if other else ""
        numbers = f"{found['seconds']:>8.3f}{found['processor']:>8.3f}{found['peak'] / 1e6:>9.0f}{times:>7}"
        lines.append(f"{row.name:<42}{numbers}  {row.goal}".rstrip())
    return lines


if __name__ == "__main__":
    main()
