"""`mode=inspect` on every kind of file: its findings, its lines, and what it never imports or reads."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import loader
from loader.builder.record import KEY
from loader.errors import CheckpointError, FitError
from loader.modes import lines
from loader.modes.inspect.rows import FileRow
from loader.report.data import Report
from loader.suggest.nature import RECORD
from tests.command import REPOSITORY, run, run_loader
from tests.formats.saving import save_alone
from tests.formats.sharding import write_shards
from tests.jobs import save
from tests.models import Two, filled


class Layers(nn.Module):
    """A stack with tied ends."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight


def inspected(path: Path | str, **settings: Any) -> tuple[FileRow, Report]:
    wanted = {name: settings.pop(name) for name in ("depth", "filter") if name in settings}
    report = loader.load({"mode": "inspect", "checkpoint": {"path": str(path), **settings}, "inspect": wanted}).report
    assert report.inspection is not None
    (file,) = report.inspection["files"]
    return file, report


def text(report: Report) -> str:
    return "\n".join(f"{label:<10} {line}".rstrip() for label, line, _ in lines(report))


def state() -> dict[str, torch.Tensor]:
    return Layers().state_dict()


def untied() -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in state().items()}


def write_safetensors(folder: Path) -> Path:
    save_file(untied(), folder / "m.safetensors", metadata={"format": "pt"})
    return folder / "m.safetensors"


def write_sharded(folder: Path) -> Path:
    items = list(untied().items())
    return write_shards(folder / "shards", dict(items[:3]), dict(items[3:]))


def write_folder(folder: Path) -> Path:
    (folder / "hub").mkdir()
    save_file(untied(), folder / "hub" / "model.safetensors")
    return folder / "hub"


FORMATS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip": (lambda folder: save(untied(), folder / "m.pt"), "torch-zip"),
    "legacy": (lambda folder: save(untied(), folder / "m.pth", legacy=True), "torch-legacy"),
    "safetensors": (write_safetensors, "safetensors"),
    "sharded": (write_sharded, "safetensors-sharded"),
    "folder": (write_folder, "safetensors"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_listed_alike(kind: str, tmp_path: Path) -> None:
    write, name = FORMATS[kind]
    path = write(tmp_path)
    file, report = inspected(path)
    assert (file["format"], file["path"], file["part"], file["key"]) == (name, str(path), "", None)
    found = {row["key"]: (row["shape"], row["dtype"], row["bytes"], row["device"]) for row in file["tensors"]}
    assert found == {key: (list(value.shape), "float32", value.numel() * 4, "cpu") for key, value in untied().items()}
    assert file["totals"]["tensors"] == 8
    assert file["totals"]["elements"] == 7 * 4 + 3 * (16 + 4) + 28
    assert file["totals"]["bytes"] == file["totals"]["stored_bytes"] == 4 * file["totals"]["elements"]
    assert [(row["key"], row["role"]) for row in file["candidates"]] == [("", "weights")]
    assert {line.split()[0] for line in file["tree"]} >= {"layers.{0..2}"}
    assert f": {name}, " in text(report)
    assert report.parts[""].tensors == 8
    assert json.dumps(file, allow_nan=False)


def test_several_files_are_named(tmp_path: Path) -> None:
    file, report = inspected(write_sharded(tmp_path))
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert [(row["name"], row["tensors"]) for row in file["files"]] == [(names[0], 3), (names[1], 5)]
    assert file["tensors"][0]["file"] == names[0]
    assert f"in 2 files: {names[0]} (3), {names[1]} (5)" in text(report)


def test_one_file_is_not_named_again(tmp_path: Path) -> None:
    file, _ = inspected(write_safetensors(tmp_path))
    assert file["files"] == []
    assert all("file" not in row for row in file["tensors"])
    assert file["notes"] == {"format": "pt"}


def test_pieces_of_a_split_tensor_are_named(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_alone({"model": untied(), "epoch": 3}, checkpoint_id=tmp_path / "dcp")
    file, _ = inspected(tmp_path / "dcp")
    assert [(row["key"], row["role"]) for row in file["candidates"]] == [("model", "weights")]
    (piece,) = file["tensors"][0].get("pieces", [])
    assert (piece["shape"], piece["start"], piece["file"]) == ([7, 4], [0, 0], "__0_0.distcp")
    assert any(line.endswith("weight  [4, 4] float32") for line in file["tree"])


def test_the_header_of_an_array_makes_it_no_view(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.zeros((2, 2), np.float32))
    file, report = inspected(tmp_path / "a.npz")
    assert file["tree"] == ["w  [2, 2] float32"]
    assert "view" not in text(report)


def test_a_script_module_is_rebuilt_by_trust_alone(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "s.pt")  # type: ignore[no-untyped-call]
    file, _ = inspected(tmp_path / "s.pt")
    assert [(row["role"], row["why"]) for row in file["candidates"]] == [("model", "a TorchScript module")]
    assert file["globals"] == []
    assert not any("model=null" in line for line in file["next"])


def test_a_converted_file_says_that_it_needs_no_definition(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    source = save(nn.Linear(2, 2).state_dict(), tmp_path / "m.pt")
    loader.load(
        {"mode": "convert", "model": model, "checkpoint": {"path": str(source)}, "convert": {"path": str(path)}}
    )
    file, _ = inspected(path)
    assert file["next"][0] == f"hydra-loader model=embedded checkpoint.path={path}"
    assert RECORD == KEY


@pytest.mark.parametrize("key", ["net", "a b", "x=1,y", "{z}"])
def test_the_line_to_type_next_is_right(key: str, tmp_path: Path) -> None:
    state = {f"module._orig_mod.{name}": value for name, value in filled(Two()).state_dict().items()}
    file, _ = inspected(save({key: state, "epoch": 1}, tmp_path / "odd, name.pt"))
    (line,) = file["next"]
    program, *overrides = shlex.split(line.replace("my_pkg.Net", "tests.models.Two"))
    assert program == "hydra-loader"
    report = loader.load([*overrides, "device=cpu"]).report
    assert (report.mode, report.keys.loaded, report.keys.unexpected) == ("plan", 4, [])


def training_checkpoint(folder: Path) -> Path:
    net = Layers()
    optimizer = torch.optim.AdamW(net.parameters())
    net.head(net.emb(torch.zeros(1, dtype=torch.long))).sum().backward()
    optimizer.step()
    content = {
        "epoch": 3,
        "name": "a\x1b[31mb",
        "pytorch-lightning_version": "2.1.0",
        "state_dict": {f"model.{key}": value for key, value in net.state_dict().items()},
        "ema_state_dict": {f"module.{key}": value.clone() for key, value in net.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "hyper_parameters": argparse.Namespace(lr=0.1, layers=[1, 2]),
    }
    return save(content, folder / "last.ckpt")


def test_a_training_checkpoint_is_reported_in_one_screen(tmp_path: Path) -> None:
    path = training_checkpoint(tmp_path)
    file, report = inspected(path)
    roles = [(row["key"], row["role"], row["rules"]) for row in file["candidates"]]
    assert roles == [
        ("state_dict", "weights", ["rules=[lightning]"]),
        ("ema_state_dict", "average", ["rules=[ddp]"]),
        ("optimizer_states", "optimizer", []),
    ]
    shown = text(report).splitlines()
    assert len(shown) < 45
    plan = "hydra-loader mode=plan model._target_=my_pkg.Net"
    expected = [
        "weights    state_dict: 8 tensors, 88 parameters, 352 B; called 'state_dict'; all names look like parameters",
        "           every name has 'model.': 'rules=[lightning]' removes it",
        "average    ema_state_dict: 8 tensors, 116 parameters, 464 B; called 'ema_state_dict'",
        "inside     epoch                     = 3",
        "           name                      = 'a\\x1b[31mb'",
        "             lr     = 0.1",
        "             layers = [1, 2] (list)",
        "               layers.{0..2}  (6 tensors, 240 B)",
        "                 weight  [4, 4] float32",
        "               head.weight  [7, 4] float32 = state_dict.model.emb.weight",
        "names      argparse.Namespace: needed to rebuild its objects, not to load its weights",
        f"next       {plan} checkpoint.path={path} checkpoint.key=state_dict 'rules=[lightning]'",
    ]
    assert [line for line in expected if line not in shown] == []
    (optimizer,) = [line for line in shown if "optimizer_states  (list" in line]
    assert optimizer.endswith(": an optimizer's state: exp_avg, exp_avg_sq")
    assert not any("\x1b" in line for line in shown)


def test_json_holds_what_the_text_folds(tmp_path: Path) -> None:
    file, _ = inspected(training_checkpoint(tmp_path))
    keys = [row["key"] for row in file["tensors"]]
    assert "state_dict.model.layers.1.bias" in keys
    assert any(key.startswith("optimizer_states.0.state.0.") for key in keys)
    modules = {row["key"]: row for row in file["modules"]}
    assert modules["state_dict"]["type"] == "dict"
    assert (modules["state_dict.model.layers"]["kind"], modules["state_dict.model.layers"]["tensors"]) == ("prefix", 6)
    assert modules["state_dict.model.layers"]["bytes"] == 6 // 2 * (64 + 16)
    entries = {row["key"]: row["value"] for row in file["entries"]}
    assert (entries["epoch"], entries["hyper_parameters.lr"]) == (3, 0.1)
    assert file["globals"] == [{"name": "argparse.Namespace", "hostile": False}]


def test_shared_storages_and_odd_tensors_are_marked(tmp_path: Path) -> None:
    big = torch.zeros(100, 10)
    content = {
        "a": big[:2], "b": big[2:4], "again": big[:2], "turned": torch.zeros(3, 4).t(),
        "sparse": torch.eye(3).to_sparse(), "nowhere": torch.zeros(2, device="meta"),
    }  # fmt: skip
    file, report = inspected(save(content, tmp_path / "odd.pt"))
    rows = {row["key"]: row for row in file["tensors"]}
    assert rows["b"].get("shares") == rows["again"].get("same_as") == "a"
    assert rows["a"]["storage"] == {"id": 0, "bytes": 4000, "offset": 0, "stride": [10, 1]}
    assert rows["b"]["storage"] == {"id": 0, "bytes": 4000, "offset": 20, "stride": [10, 1]}
    assert set(rows["sparse"].get("components", {})) == {"indices", "values"}
    assert rows["nowhere"]["storage"] is None
    shown = text(report)
    for line in (
        "a        [2, 10] float32 (a view of 4.0 kB)",
        "b        [2, 10] float32 in the storage of a (a view of 4.0 kB)",
        "again    [2, 10] float32 = a (a view of 4.0 kB)",
        "turned   [4, 3] float32 stride [1, 4]",
        "sparse   [3, 3] float32 sparse_coo",
        "nowhere  [2] float32 meta (no data in the file)",
    ):
        assert line in shown
    assert "of the file belong to no tensor: the tensors are views of larger storages" in shown


def test_a_whole_pickled_model_is_named_and_what_it_needs_is_offered(tmp_path: Path) -> None:
    path = save(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), tmp_path / "whole.pt")
    file, _ = inspected(path)
    (row,) = file["candidates"]
    assert (row["role"], row["why"]) == ("model", "a whole pickled torch.nn.modules.container.Sequential")
    (rebuild,) = [line for line in file["next"] if "model=null" in line]
    names = ",".join(row["globals"])
    assert "torch.nn.modules.linear.Linear" in row["globals"]
    assert shlex.split(rebuild.partition("   #")[0]) == [
        "hydra-loader", "model=null", f"checkpoint.path={path}", f"checkpoint.allow_globals=[{names}]",
    ]  # fmt: skip


class Hostile:
    """Would run a command when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def test_hostile_names_are_flagged_and_nothing_runs(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    model.extra = Hostile(tmp_path / "ran")  # type: ignore[assignment]
    file, report = inspected(save(model, tmp_path / "evil.pt"))
    assert {"name": f"{os.system.__module__}.system", "hostile": True} in file["globals"]
    assert "DANGER     the file names posix.system, which no model needs and an attack would use" in text(report)
    assert not any("allow_globals" in line for line in file["next"])
    assert not (tmp_path / "ran").exists()


def test_depth_and_filter_apply_to_text_and_rows(tmp_path: Path) -> None:
    path = save({"model": untied(), "epoch": 3}, tmp_path / "m.pt")
    file, _ = inspected(path, depth=2)
    assert file["tensors"] == []
    assert [row["key"] for row in file["modules"]] == ["model", "model.emb", "model.layers", "model.head"]
    assert file["tree"] == [
        "epoch = 3",
        "model  (dict, 8 tensors, 464 B)",
        "  {emb,head}  (2 tensors, 224 B)",
        "  layers  (6 tensors, 240 B)",
    ]
    file, _ = inspected(path, filter=["*.bias"])
    assert [row["key"] for row in file["tensors"]] == [f"model.layers.{n}.bias" for n in range(3)]
    assert file["entries"] == []
    assert file["tree"] == ["model  (dict, 3 tensors, 48 B)", "  layers.{0..2}.bias  [4] float32"]
    assert file["totals"]["tensors"] == 8


def test_a_filter_without_a_match_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError) as refusal:
        inspected(save(untied(), tmp_path / "m.pt"), filter=["emb.weigth"])
    assert "inspect.filter=emb.weigth matches none of the 8 keys of" in refusal.value.message
    assert "(did you mean 'emb.weight'?)" in refusal.value.message
    assert refusal.value.hint == "'inspect.filter=[*.weight]'   # globs over whole dotted keys"


def test_a_filter_cannot_match_a_tensor_without_a_name(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"matches none of the 1 key of .*; they are \(all of it\)\n"):
        inspected(save(torch.ones(2), tmp_path / "m.pt"), filter=["*.weight"])


def test_a_key_restricts_to_what_is_below_it(tmp_path: Path) -> None:
    path = save({"a": {"model": untied()}, "b": torch.zeros(1)}, tmp_path / "m.pt")
    file, _ = inspected(path, key="a")
    assert file["tensors"][0]["key"] == "model.emb.weight"
    assert "checkpoint.key=a.model" in file["next"][0]
    file, report = inspected(path, key="auto")
    assert file["key"] == "a.model"
    assert report.parts[""].applied == ["checkpoint.key=a.model"]
    for key, message in (("c", "the nested key 'c' is not in"), ("b", "the nested key 'b' of")):
        with pytest.raises(FitError) as refusal:
            inspected(path, key=key)
        assert message in refusal.value.message
        assert refusal.value.hint == "checkpoint.key=null   # all that is in the file"


def test_parts_are_inspected_each(tmp_path: Path) -> None:
    one, other = save({"x": untied()}, tmp_path / "one.pt"), save(untied(), tmp_path / "other.pt")
    parts = {"enc": {"path": str(one), "key": "x"}, "head": {"path": str(other)}}
    report = loader.load({"mode": "inspect", "parts": parts}).report
    assert report.inspection is not None
    found = [(file["part"], file["path"], file["key"]) for file in report.inspection["files"]]
    assert found == [("enc", str(one), "x"), ("head", str(other), None)]
    assert "→ head" in text(report)


def test_damaged_files_are_refused_as_ever(tmp_path: Path) -> None:
    path = save(untied(), tmp_path / "m.pt")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        inspected(path)


def test_large_files_are_cut_to_a_screen(tmp_path: Path) -> None:
    content = {f"{name}{n}.x{n}.y": torch.zeros(n + 1, k) for n in range(40) for k, name in enumerate("abc")}
    file, _ = inspected(save(content, tmp_path / "wide.pt"))
    assert len(file["tree"]) == 62
    assert file["tree"][-2:] == [
        "… and 60 more lines; everything is in report.json",
        "… all of it: inspect.depth=1, or some of it: 'inspect.filter=[NAME.*]'",
    ]
    deep = {f"top{t}.m{n}.weight": torch.zeros(n + 1, t + 1) for n in range(20) for t in range(5)}
    file, _ = inspected(save(deep, tmp_path / "deep.pt"))
    assert len(file["tree"]) == 6
    assert file["tree"][-1] == "… deeper: inspect.depth=2, or some of it: 'inspect.filter=[NAME.*]'"
    file, _ = inspected(tmp_path / "deep.pt", depth=3)
    assert len(file["tree"]) == 105


@pytest.mark.parametrize("write", [write_safetensors, training_checkpoint])
def test_the_command_needs_no_torch_and_pipes_json(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path = write(tmp_path)
    code = (
        "import sys; from loader.cli.main import run_command\n"
        f"code = run_command(['mode=inspect', 'checkpoint.path={path}', 'hydra.run.dir=run', '--json'])\n"
        "sys.exit(99 if 'torch' in sys.modules else code)"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["inspection"]["files"][0]["path"] == str(path)
    assert report["environment"]["torch"] == torch.__version__


def test_a_refusal_is_json_too(tmp_path: Path) -> None:
    done = run_loader("mode=inspect", "checkpoint.path=nowhere.pt", "--json", cwd=tmp_path)
    assert done.code == 3
    assert json.loads(done.out)["error"]["type"] == "CheckpointError"
    assert done.err.startswith("error  no such file")


@pytest.mark.parametrize("typed", ["w.[x]", r"w.\[x\]"])
def test_a_filter_that_names_a_key_with_glob_signs_is_answered_with_one_that_finds_it(
    typed: str, tmp_path: Path
) -> None:
    path = save({"w.[x]": torch.zeros(2), "other": torch.zeros(3)}, tmp_path / "m.pt")

    with pytest.raises(FitError) as refusal:
        inspected(path, filter=[typed])

    assert "(did you mean 'w.?x?'?)" in refusal.value.message
    assert refusal.value.hint == "'inspect.filter=[w.?x?]'   # globs over whole dotted keys"
    assert [row["key"] for row in inspected(path, filter=["w.?x?"])[0]["tensors"]] == ["w.[x]"]
