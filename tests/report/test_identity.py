from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from loader.files import file as files
from loader.report import identity as module
from loader.report.identity import Identity, difference, identity_of
from tests.command import REPOSITORY, run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(files, "_opened", None)
    (tmp_path / "own_nets.py").write_text("from own_layers import Layer\n\nclass Net(Layer):\n    pass\n")
    (tmp_path / "own_layers.py").write_text("from torch.nn import Linear as Layer\n")
    (tmp_path / "own_metrics.py").write_text("def error(prediction, target):\n    return 0.0\n")
    save_file(nn.Linear(2, 2).state_dict(), tmp_path / "a.safetensors")
    save_file({"input": torch.ones(1, 2)}, tmp_path / "input.safetensors")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one.csv").write_text("1,2\n")
    time.sleep(0.02)  # what is written while the job runs, or just before, counts as changed
    yield tmp_path
    for name in ("own_nets", "own_layers", "own_metrics"):
        sys.modules.pop(name, None)


def config(**more: Any) -> dict[str, Any]:
    return {
        "model": {"_target_": "own_nets.Net", "in_features": 2, "out_features": 2},
        "checkpoint": {"path": "a.safetensors", "sha256": None},
        "rules": {"a": {"strip": "a."}, "b": {"strip": "b."}},
        "verify": {"input": {"path": "input.safetensors"}, "golden": "auto"},
        "evaluate": {"data": {"_target_": "builtins.open", "file": "data/one.csv"}, "metrics": {"error": METRIC}},
        "convert": {"path": "out/1.safetensors"},
        "hydra": {"job": {"num": 3}},
        "sweep": {"resume": None},
        **more,
    }


METRIC = {"_target_": "own_metrics.error"}


def recorded(of: dict[str, Any]) -> dict[str, Any]:
    """What the report of a job holds that imported its targets and opened its checkpoint."""
    known = Identity(of)
    importlib.import_module("own_nets")
    importlib.import_module("own_metrics")
    files.CheckpointFile(Path("a.safetensors").absolute()).close()
    result: dict[str, Any] = json.loads(json.dumps(known.complete()))
    return result


def now(**more: Any) -> str | None:
    return difference(recorded(config()), identity_of(config(**more)))


def test_the_same_job_is_the_same(folder: Path) -> None:
    assert now() is None


def test_sections_and_paths_of_the_output_do_not_count(folder: Path) -> None:
    assert (
        now(hydra={"job": {"num": 4}}, sweep={"resume": "a"}, track={"uri": "a"}, convert={"path": "out/2.safetensors"})
        is None
    )


@pytest.mark.parametrize(
    "more",
    [
        {"seed": 1},
        {"checkpoint": {"path": "./a.safetensors", "sha256": None}},
        {"rules": {"b": {"strip": "b."}, "a": {"strip": "a."}}},
        {"convert": {"path": "out/1.safetensors", "embed": False}},
    ],
    ids=["a value", "a path", "an order", "beside an output path"],
)
def test_another_config_is_another_job(folder: Path, more: dict[str, Any]) -> None:
    assert now(**more) == "the config"


def touch(path: str) -> Callable[[], None]:
    return lambda: os.utime(path, ns=(1, 1))


def write(path: str) -> Callable[[], None]:
    def written() -> None:
        Path(path).write_text("# changed\n" + (Path(path).read_text() if Path(path).exists() else ""))

    return written


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (touch("a.safetensors"), "a.safetensors"),
        (write("a.safetensors.golden.safetensors"), "a.safetensors.golden.safetensors"),
        (touch("input.safetensors"), "input.safetensors"),
        (lambda: Path("input.safetensors").unlink(), "input.safetensors"),
        (write("data/one.csv"), "data/one.csv"),
        (write("own_nets.py"), "own_nets.py"),
        (write("own_layers.py"), "own_layers.py"),
        (write("own_metrics.py"), "own_metrics.py"),
    ],
    ids=["checkpoint", "golden", "input", "gone", "data", "model", "module of the model", "metric"],
)
def test_a_file_that_changed_makes_another_job(folder: Path, change: Callable[[], None], name: str) -> None:
    known = recorded(config())
    change()
    found = difference(known, identity_of(config()))
    assert found is not None
    assert Path(found).name == Path(name).name


def test_a_source_file_that_was_only_touched_is_the_same(folder: Path) -> None:
    known = recorded(config())
    os.utime("own_nets.py", ns=(1, 1))
    assert difference(known, identity_of(config())) is None


def test_a_source_file_that_changed_during_the_job_is_never_the_same(folder: Path) -> None:
    known = Identity(config())
    importlib.import_module("own_nets")
    write("own_nets.py")()
    os.utime("own_nets.py", ns=(time.time_ns() + 10**9,) * 2)
    found = difference(json.loads(json.dumps(known.complete())), identity_of(config()))
    assert found == str(folder / "own_nets.py")


def test_a_folder_is_all_of_its_files(folder: Path) -> None:
    of = config(evaluate={"data": {"root": "data"}})
    known = recorded(of)
    assert difference(known, identity_of(of)) is None
    (folder / "data" / "deep").mkdir()
    (folder / "data" / "deep" / "two.csv").touch()
    assert difference(known, identity_of(of)) == "data"


def test_an_opened_file_that_no_config_names_counts(folder: Path) -> None:
    known = Identity(config())
    shard = folder / "shard-1.safetensors"
    save_file({"a": torch.ones(1)}, shard)
    files.CheckpointFile(shard).close()
    found = json.loads(json.dumps(known.complete()))
    assert difference(found, identity_of(config())) is None
    shard.unlink()
    assert difference(found, identity_of(config())) == str(shard)


def test_a_digest_decides_where_it_is_set(folder: Path) -> None:
    digest = module._sha256(folder / "a.safetensors")
    of = config(checkpoint={"path": "a.safetensors", "sha256": digest})
    known = recorded(of)
    os.utime("a.safetensors", ns=(1, 1))
    assert difference(known, identity_of(of)) is None
    content = bytearray((folder / "a.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "a.safetensors").write_bytes(content)
    assert difference(known, identity_of(of)) == "a.safetensors"


def test_a_url_is_the_same_only_by_its_digest(folder: Path) -> None:
    url = "https://user:secret@example.org/a.pt"
    loose = config(checkpoint={"path": url, "sha256": None})
    known = recorded(loose)
    assert "secret" not in json.dumps(known)
    assert difference(known, identity_of(loose)) is not None
    pinned = config(checkpoint={"path": url, "sha256": "0" * 64})
    assert difference(recorded(pinned), identity_of(pinned)) is None


@pytest.mark.parametrize("name", ["torch", "loader"])
def test_another_version_is_another_job(folder: Path, name: str) -> None:
    known = recorded(config())
    known["versions"][name] = "0.0.1"
    assert difference(known, identity_of(config())) == "the version of torch or of the loader"


@pytest.mark.parametrize("damage", [{"files": None}, {"sources": 3}, {"files": {"a.safetensors": 1}}])
def test_a_damaged_record_is_the_same_as_nothing(folder: Path, damage: dict[str, Any]) -> None:
    assert difference({**recorded(config()), **damage}, identity_of(config())) is not None


def test_a_file_in_a_package_is_a_file(folder: Path) -> None:
    name = "pkg://loader.examples/weights/simple_net.safetensors"
    of = config(checkpoint={"path": name, "sha256": None})
    known = recorded(of)
    assert known["files"][name]["bytes"] > 0
    assert difference(known, identity_of(of)) is None
    known["files"][name]["mtime_ns"] -= 1
    assert difference(known, identity_of(of)) == name


def test_odd_texts_are_no_files(folder: Path) -> None:
    odd = {"a": ["\0", "x" * 10_000, "~nobody/x", "/dev/null", "", {"b": 3, "c": None}]}
    of = config(evaluate=odd)
    assert set(identity_of(of)["files"]) >= {"/dev/null"}
    assert difference(recorded(of), identity_of(of)) == "/dev/null"  # a device gives another content each time


def test_the_sources_are_those_of_targets_and_of_the_user(folder: Path) -> None:
    of = config(model={"_target_": "loader.examples.SimpleNet"}, evaluate={"data": {"_target_": "torch.nn.Linear"}})
    importlib.import_module("loader.examples.models")
    names = {Path(file).name for file in recorded(of)["sources"]}
    assert {"models.py", "linear.py", "own_nets.py", "own_layers.py"} <= names
    assert "callback.py" not in names


def test_it_is_computed_without_torch(folder: Path) -> None:
    code = (
        "import sys\nfrom loader.report.identity import identity_of\n"
        "found = identity_of({'model': {'_target_': 'torch.nn.Linear'}, 'checkpoint': {'path': 'a.safetensors'}})\n"
        "print(found['versions']['torch'], 'torch' in sys.modules)"
    )
    done = run(sys.executable, "-c", code, cwd=folder, PYTHONPATH=str(REPOSITORY))
    assert done.stdout == f"{torch.__version__} False\n"
