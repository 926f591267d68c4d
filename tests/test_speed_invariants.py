"""What makes loading fast, held without timing anything.

Bytes that are not read, pages that are not copied, values that are not computed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import loader
from loader.files.file import CheckpointFile
from loader.parts.open import open_checkpoint
from tests.benchmarks import machine
from tests.command import run
from tests.formats.dcp_writer import write_distributed
from tests.formats.unpacking import note_unpacked

REPOSITORY = Path(__file__).resolve().parent.parent
LAYERS, WIDTH = 12, 2048
STACK = {"_target_": "tests.test_speed_invariants.Stack", "layers": LAYERS, "width": WIDTH}
on_linux = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells of a process's pages")


class Stack(nn.Module):
    """Linear layers of one size: 16 MB of float32 each by default."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layers(values)
        return result


def state(layers: int = LAYERS, width: int = WIDTH) -> dict[str, torch.Tensor]:
    shapes = {"weight": (width, width), "bias": (width,)}
    return {
        f"layers.{index}.{name}": torch.full(shape, 0.5) for index in range(layers) for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of 200 MB of weights: by themselves, beside an optimizer, and in both formats."""
    folder = tmp_path_factory.mktemp("large")
    weights = state()
    torch.save(weights, folder / "weights.pt")
    save_file(weights, folder / "weights.safetensors")
    save_file({key: value.bfloat16() for key, value in weights.items()}, folder / "half.safetensors")
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many bytes each read of a checkpoint's file took."""
    lengths: list[int] = []
    pread, fill = CheckpointFile.pread, CheckpointFile.fill

    def counted(self: CheckpointFile, offset: int, length: int) -> bytes:
        lengths.append(length)
        return pread(self, offset, length)

    def counted_into(self: CheckpointFile, target: memoryview, offset: int) -> None:
        lengths.append(len(target))
        fill(self, target, offset)

    def no_mapping(self: CheckpointFile) -> None:
        pytest.fail("the file is mapped, and was asked not to be")

    monkeypatch.setattr(CheckpointFile, "pread", counted)
    monkeypatch.setattr(CheckpointFile, "fill", counted_into)
    monkeypatch.setattr(CheckpointFile, "mapping", property(no_mapping))
    yield lengths
    monkeypatch.undo()


def in_a_new_process(body: str, *arguments: Path) -> dict[str, Any]:
    """Runs `body` after a first small load, so that only the load itself is measured, and returns its `result`."""
    code = f"""
import json, sys, torch, loader
from pathlib import Path
from tests import test_speed_invariants as here
from tests.benchmarks import machine
paths = [Path(argument) for argument in sys.argv[1:]]
small = paths[0].with_name("small.pt")
torch.save(here.state(1, 4), small)
loader.load_model(here.STACK | {{"layers": 1, "width": 4}}, small, dtype="bfloat16")
machine.forget_peak()
before = machine.memory()
{body}
print(json.dumps(result))
"""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def resident_in_file(path: Path) -> int:
    """Bytes of a file that this process has in its memory through mappings."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if "-" in name.split(" ")[0]:
            inside = line.endswith(str(path))
        elif inside and name == "Rss":
            total += int(value.split()[0]) * 1024
    return total


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_loaded_model_is_the_page_cache_and_not_a_copy_of_it(folder: Path, name: str) -> None:
    found = in_a_new_process(
        """
model = loader.load_model(here.STACK, paths[0])
total = sum(float(p.sum()) for p in model.parameters())
after = machine.memory()
result = {name: after[name] - before["resident" if name == "peak" else name] for name in after}
result |= {"total": total, "mapped": here.resident_in_file(paths[0])}
""",
        folder / name,
    )
    size = (folder / name).stat().st_size
    assert found["total"] == LAYERS * (WIDTH * WIDTH + WIDTH) * 0.5
    assert found["mapped"] > 0.99 * size
    assert found["private"] < 0.1 * size
    assert found["peak"] < 1.05 * size


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize(
    ("name", "dtype", "growth"),
    [("weights.pt", "bfloat16", 0.5), ("weights.safetensors", "bfloat16", 0.5), ("half.safetensors", "float32", 2)],
)
def test_a_cast_needs_the_result_and_one_tensor(folder: Path, name: str, dtype: str, growth: float) -> None:
    found = in_a_new_process(
        f"""
model = loader.load_model(here.STACK, paths[0], dtype={dtype!r})
after = machine.memory()
result = {{"peak": after["peak"] - before["resident"], "mapped": here.resident_in_file(paths[0])}}
""",
        folder / name,
    )
    tensor = WIDTH * WIDTH * 4
    assert found["mapped"] < tensor
    # The checksums take a few pieces of 2 MB at a time.
    assert found["peak"] < (folder / name).stat().st_size * growth + 2 * tensor


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("mmap", [True, False])
def test_loading_into_a_live_model_needs_its_old_values_once(folder: Path, mmap: bool) -> None:
    found = in_a_new_process(
        f"""
model = here.Stack(here.LAYERS, here.WIDTH)
machine.forget_peak()
before = machine.memory()
loader.load_into(model, {{"path": str(paths[0]), "mmap": {mmap}}})
after = machine.memory()
total = sum(float(p.sum()) for p in model.parameters())
result = {{"peak": after["peak"] - before["resident"], "mapped": here.resident_in_file(paths[0]), "total": total}}
""",
        folder / "weights.pt",
    )
    size, tensor = (folder / "weights.pt").stat().st_size, WIDTH * WIDTH * 4
    assert found["total"] == LAYERS * (WIDTH * WIDTH + WIDTH) * 0.5
    assert found["mapped"] < tensor
    assert found["peak"] < size + 2 * tensor


@pytest.mark.slow
@on_linux
@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_a_tenth_of_a_file_touches_a_tenth_of_its_bytes(tmp_path: Path, container: str) -> None:
    weights = {f"branch{part}.{key}": value for part in range(10) for key, value in state(2, 1024).items()}
    path = tmp_path / f"branches.{container}"
    if container == "pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    found = in_a_new_process(
        """
rules = {"one": {"keep": "branch4.*"}, "root": {"strip": "branch4."}}
model = loader.load_model(here.STACK | {"layers": 2, "width": 1024}, paths[0], rules=rules)
total = sum(float(p.sum()) for p in model.parameters())
result = {"total": total, "mapped": here.resident_in_file(paths[0])}
""",
        path,
    )
    assert found["total"] == 2 * (1024 * 1024 + 1024) * 0.5
    assert 0.09 * path.stat().st_size < found["mapped"] < 0.12 * path.stat().st_size


@pytest.mark.slow
@on_linux
def test_an_optimizer_beside_the_weights_is_never_touched(tmp_path: Path) -> None:
    weights = state(3, 1024)
    moments = [
        {"exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)} for value in weights.values()
    ]
    path = tmp_path / "training.pt"
    torch.save({"optimizer": {"state": dict(enumerate(moments))}, "model": weights, "epoch": 3}, path)
    found = in_a_new_process(
        """
model = loader.load_model(here.STACK | {"layers": 3, "width": 1024}, {"path": str(paths[0]), "key": "model"})
total = sum(float(p.sum()) for p in model.parameters())
result = {"total": total, "mapped": here.resident_in_file(paths[0])}
""",
        path,
    )
    assert found["total"] == 3 * (1024 * 1024 + 1024) * 0.5
    assert 0.33 * path.stat().st_size < found["mapped"] < 0.36 * path.stat().st_size


@on_linux
def test_what_is_wanted_is_read_ahead_and_the_rest_is_not(folder: Path) -> None:
    path = folder / "weights.safetensors"
    if machine.drop_from_cache([path]) != 0:
        pytest.skip("the system keeps the file in its cache")
    layer = WIDTH * WIDTH * 4
    with open_checkpoint(path) as checkpoint:
        checkpoint.will_need([checkpoint.root.tensors()["layers.5.weight"]])
    deadline = time.monotonic() + 60
    while (machine.cached([path]) or 0) * path.stat().st_size < layer and time.monotonic() < deadline:
        time.sleep(0.01)
    # The system rounds up to what it reads at once.
    assert layer <= (machine.cached([path]) or 0) * path.stat().st_size < 3 * layer


@pytest.mark.parametrize("check", ["structure", "crc"])
@pytest.mark.parametrize("container", ["pt", "safetensors"])
def test_without_a_mapping_each_wanted_byte_is_read_once(
    tmp_path: Path, read: list[int], container: str, check: str
) -> None:
    weights = {f"branch{part}.{key}": value for part in range(10) for key, value in state(2, 512).items()}
    path = tmp_path / f"branches.{container}"
    if container == "pt":
        torch.save(weights, path)
    else:
        save_file(weights, path)
    rules = {"one": {"keep": "branch4.*"}, "root": {"strip": "branch4."}}
    checkpoint = {"path": str(path), "mmap": False, "check": check}
    loader.load_model(STACK | {"layers": 2, "width": 512}, checkpoint, rules=rules)
    wanted = sum(value.nbytes for key, value in weights.items() if key.startswith("branch4."))
    # The end of the archive may be a comment of 64 KiB; the pickle and the headers take the rest.
    assert wanted <= sum(read) < wanted + 0.05 * path.stat().st_size


def test_without_a_mapping_a_whole_model_is_read_once(tmp_path: Path, read: list[int]) -> None:
    path = tmp_path / "whole.pt"
    torch.save(nn.Sequential(nn.Linear(1024, 1024), nn.Linear(1024, 1024)), path)
    admitted = [
        *("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear"),
        *("builtins.set", "__builtin__.set"),
    ]
    checkpoint = {"path": str(path), "mmap": False, "allow_globals": admitted}
    model = loader.load_model(None, checkpoint, rules={})
    wanted = sum(value.nbytes for value in model.state_dict().values())
    assert wanted <= sum(read) < wanted + 0.05 * path.stat().st_size


def test_without_a_mapping_a_distributed_checkpoint_is_read_once(tmp_path: Path, read: list[int]) -> None:
    folder = write_distributed(tmp_path / "dcp", state(2, 1024))
    checkpoint = {"path": str(folder), "mmap": False, "key": "model"}
    loader.load_model(STACK | {"layers": 2, "width": 1024}, checkpoint, rules={})
    wanted = sum(value.nbytes for value in state(2, 1024).values())
    # Each of its items is an archive of its own.
    assert wanted <= sum(read) < 1.1 * wanted


@pytest.mark.parametrize("mmap", [True, False])
def test_what_is_deflated_is_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmap: bool) -> None:
    unpacked = note_unpacked(monkeypatch)
    arrays: dict[str, Any] = {key: value.numpy() for key, value in state(2, 64).items()}
    np.savez_compressed(tmp_path / "weights.npz", **arrays)
    checkpoint = {"path": str(tmp_path / "weights.npz"), "mmap": mmap}
    model = loader.load_model(STACK | {"layers": 2, "width": 64}, checkpoint, rules={})
    assert all(bool((value == 0.5).all()) for value in model.state_dict().values())
    assert len(unpacked) == len(set(unpacked)) == 4


def test_an_unbuilt_model_draws_and_fills_nothing(tmp_path: Path) -> None:
    path = tmp_path / "small.pt"
    torch.save(state(2, 64), path)
    assert {"aten.uniform_"} <= operations(lambda: Stack(2, 64))
    computed = operations(lambda: loader.load_model(STACK | {"layers": 2, "width": 64}, path))
    assert not {name for name in computed if name.removeprefix("aten.") in DRAWING_OR_FILLING}


DRAWING_OR_FILLING = {"uniform_", "normal_", "bernoulli_", "random_", "fill_", "zero_", "copy_", "clone", "_to_copy"}


def operations(call: Callable[[], object]) -> set[str]:
    """The operations that torch carries out during a call."""
    seen: set[str] = set()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add(str(func).rpartition(".")[0])
            return func(*args, **(kwargs or {}))

    with Watch():  # type: ignore[no-untyped-call]
        call()
    return seen


NOT_FOR_A_LOAD = (
    *(
        "loader.suggest.advice",
        "loader.suggest",
        "loader.evaluate",
        "loader.examples.data",
        "loader.modes.convert",
        "loader.modes.inspect",
        "loader.modes.scaffold",
        "rich",
    ),
    *("loader.sweep.child", "loader.sweep.preload", "loader.sweep.records", "loader.sweep.summary", "subprocess"),
    *("filelock", "fsspec", "huggingface_hub", "platformdirs"),
    *("torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes", "sympy"),
)
"""What a load that goes well does without: refusals, sweeps, other modes, colors, locks, URLs, torch's compiler."""


def test_a_load_imports_only_what_it_uses(tmp_path: Path) -> None:
    baseline = imported("-c", "import torch, hydra", cwd=tmp_path)
    found = imported(str(REPOSITORY / "run.py"), cwd=tmp_path)
    assert {"loader.pipeline", "loader.verify.checks"} <= found
    assert not {name for name in found - baseline if name.startswith(NOT_FOR_A_LOAD)}


@pytest.mark.parametrize(
    ("name", "own", "others"),
    [
        ("weights.safetensors", "loader.formats.safetensors", ("loader.formats.pickle", "loader.formats.zip")),
        ("weights.pt", "loader.formats.torch_zip", ("loader.formats.safetensors", "loader.formats.numpy")),
    ],
)
def test_only_the_reader_of_the_files_format_is_imported(
    folder: Path, tmp_path: Path, name: str, own: str, others: tuple[str, ...]
) -> None:
    code = f"from loader.parts.open import open_checkpoint; open_checkpoint({str(folder / name)!r}).close()"
    done = run(sys.executable, "-c", f"{code}; import sys; print(*sys.modules)", cwd=tmp_path)
    found = set(done.stdout.split())
    assert own in found
    assert not {name for name in found if name.startswith((*others, "loader.formats.gguf", "loader.formats.foreign"))}


def imported(*arguments: str, cwd: Path) -> set[str]:
    """The modules that a Python process imports."""
    done = run(sys.executable, "-X", "importtime", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_importing_the_loader_imports_no_torch() -> None:
    code = "import sys, loader, loader.cli.main; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
