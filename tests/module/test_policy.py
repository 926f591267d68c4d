"""The setting ``dtype``: one for all tensors, or globs over the model's keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import loader
from loader import ConfigError, FitError
from loader.builder.record import Record, to_text
from loader.module.policy import dtype_for, resolve_dtype, takes_checkpoint
from tests.command import run_loader


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        (None, None),
        ("checkpoint", "checkpoint"),
        ("float16", "float16"),
        ("torch.bfloat16", "bfloat16"),
        ("FP32", "float32"),
        ("half", "float16"),
        ("bf16", "bfloat16"),
        ("float", "float32"),
        ("double", "float64"),
        ("fp64", "float64"),
    ],
)
def test_dtypes_are_known_by_their_names_and_short_names(name: str | None, policy: str | None) -> None:
    assert resolve_dtype(name) == policy


@pytest.mark.parametrize(
    ("name", "told", "hint"),
    [
        ("flaot16", " (did you mean 'float16'?)", "dtype=float16"),
        ("checkpiont", " (did you mean 'checkpoint'?)", "dtype=checkpoint"),
        ("int8", "", "dtype=null   # each as the model declares it"),
        ("complex64", "", "dtype=null   # each as the model declares it"),
    ],
)
def test_another_dtype_is_refused(name: str, told: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_dtype(name)

    assert refused.value.message == (
        f"'dtype' is '{name}', expected null, checkpoint or one of float16, bfloat16, float32, float64{told}"
    )
    assert refused.value.hint == hint


def test_a_mapping_gives_each_glob_a_dtype() -> None:
    assert resolve_dtype({"*": "bf16", "*.norm.*": "torch.float32", "x": None, "y": "checkpoint"}) == {
        "*": "bfloat16",
        "*.norm.*": "float32",
        "x": None,
        "y": "checkpoint",
    }


def test_another_dtype_in_a_mapping_is_refused_with_its_glob() -> None:
    with pytest.raises(ConfigError) as refused:
        resolve_dtype({"*": "bfloat16", "*.norm.*": "flaot32"})
    assert refused.value.message == (
        "'dtype' is 'flaot32' for '*.norm.*', expected null, checkpoint or one of float16, bfloat16, float32, float64 "
        "(did you mean 'float32'?)"
    )
    assert refused.value.hint == "'dtype={*: bfloat16, *.norm.*: float32}'"


@pytest.mark.parametrize(
    ("key", "policy"),
    [("a.weight", "bfloat16"), ("a.norm.weight", "float32"), ("a.norm.bias", "float16"), ("norm.weight", "bfloat16")],
)
def test_the_last_glob_that_matches_decides(key: str, policy: str) -> None:
    globs = {"*": "bfloat16", "*.norm.*": "float32", "*.bias": "float16"}
    assert dtype_for(globs, key) == policy


def test_a_key_that_no_glob_matches_keeps_its_dtype() -> None:
    assert dtype_for({"*.norm.*": "float32"}, "a.weight") is None
    assert dtype_for({}, "a.weight") is None
    assert dtype_for("float16", "a.weight") == "float16"


def test_a_policy_may_take_the_files_dtypes() -> None:
    assert takes_checkpoint("checkpoint")
    assert takes_checkpoint({"*": "float16", "a": "checkpoint"})
    assert not takes_checkpoint({"checkpoint": "float16"})
    assert not takes_checkpoint(None)


class Net(nn.Module):
    """A model with tensors of several kinds."""

    table: torch.Tensor

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.block = nn.Module()
        self.block.norm = nn.BatchNorm1d(3)
        self.register_buffer("table", torch.randn(3), persistent=False)
        if tied:
            self.head = nn.Linear(3, 3, bias=False)
            self.head.weight = self.lin.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs all of it."""
        lin: torch.Tensor = self.lin(x).float()
        made: torch.Tensor = self.block.norm(lin)  # type: ignore[operator]
        return made + self.table


GLOBS = {"*": "bfloat16", "*.norm.*": "float32"}
MIXED = {
    "lin.weight": torch.bfloat16,
    "lin.bias": torch.bfloat16,
    "block.norm.weight": torch.float32,
    "block.norm.bias": torch.float32,
    "block.norm.running_mean": torch.float32,
    "block.norm.running_var": torch.float32,
    "block.norm.num_batches_tracked": torch.int64,
}


def dtypes(model: nn.Module) -> dict[str, torch.dtype]:
    return {key: value.dtype for key, value in model.state_dict().items()}


def saved(tmp_path: Path, model: nn.Module, name: str = "m.pt") -> Path:
    torch.save(model.state_dict(), tmp_path / name)
    return tmp_path / name


def load_net(path: Path, dtype: Any, **config: Any) -> loader.Loaded:
    model = {"_target_": f"{__name__}.Net", **config.pop("model", {})}
    verify = {"forward": False}
    return loader.load(
        {"model": model, "checkpoint": {"path": str(path)}, "dtype": dtype, "verify": verify, "device": "cpu", **config}
    )


def test_loaded_tensors_and_the_models_own_end_in_the_dtypes_of_their_globs(tmp_path: Path) -> None:
    net = Net()
    job = load_net(saved(tmp_path, net), {**GLOBS, "table": "float16"})
    assert dtypes(job.model) == MIXED
    table = job.model.table
    assert isinstance(table, torch.Tensor)
    assert table.dtype == torch.float16
    assert torch.equal(job.model.state_dict()["lin.weight"], net.lin.weight.bfloat16())
    assert [(row["key"], row["model"]) for row in job.report.keys.cast] == [
        ("lin.weight", "bfloat16"),
        ("lin.bias", "bfloat16"),
    ]
    assert all(check.ok for check in job.report.verification.checks)


def test_some_tensors_may_keep_the_files_dtype(tmp_path: Path) -> None:
    path = saved(tmp_path, Net().half())
    job = load_net(path, {"lin.*": "checkpoint"})
    assert dtypes(job.model) == {
        **dict.fromkeys(MIXED, torch.float32),
        "lin.weight": torch.float16,
        "lin.bias": torch.float16,
        "block.norm.num_batches_tracked": torch.int64,
    }


def test_globs_are_over_the_keys_of_the_whole_model(tmp_path: Path) -> None:
    path = saved(tmp_path, nn.Linear(3, 3))
    parts = {"lin": {"path": str(path)}}
    job = load_net(path, {"lin.weight": "float16"}, parts=parts, allow={"missing": ["block.*"]})
    assert dtypes(job.model)["lin.weight"] == torch.float16
    assert dtypes(job.model)["lin.bias"] == torch.float32


def test_a_glob_that_matches_nothing_is_noted(tmp_path: Path) -> None:
    globs = {"*": "bfloat16", "*.nrom.*": "float32", "table": "float32"}
    job = load_net(saved(tmp_path, Net()), globs)
    assert job.report.parts[""].note == "dtype: no key of the model matches *.nrom.*"


def test_names_of_one_tensor_are_matched_alike(tmp_path: Path) -> None:
    path = saved(tmp_path, Net(tied=True))
    tied = {"model": {"tied": True}}
    with pytest.raises(FitError) as refused:
        load_net(path, {"*": "bfloat16", "head.*": "float32"}, **tied)
    assert refused.value.message == (
        "'dtype' gives names of one tied tensor different dtypes: lin.weight (bfloat16) and head.weight (float32)"
    )
    assert refused.value.hint == "'dtype={*: bfloat16, head.*: float32, head.weight: bfloat16}'"
    job = load_net(path, {"*": "bfloat16", "head.*": "float32", "head.weight": "bfloat16"}, **tied)
    assert job.model.get_parameter("lin.weight") is job.model.get_parameter("head.weight")


@pytest.mark.parametrize("mapping", ["{*: bfloat16, *.norm.*: float32}", "{'*': bfloat16, '*.norm.*': float32}"])
def test_the_command_line_takes_a_mapping(tmp_path: Path, mapping: str) -> None:
    path = saved(tmp_path, nn.ModuleDict({"norm": nn.LayerNorm(4), "block": nn.ModuleDict({"norm": nn.LayerNorm(4)})}))
    norm = "{norm: {_target_: torch.nn.LayerNorm, normalized_shape: 4}"
    block = f"block: {{_target_: torch.nn.ModuleDict, modules: {norm}}}}}"
    model = f"model={{_target_: torch.nn.ModuleDict, modules: {norm}, {block}}}}}"
    done = run_loader(model, f"checkpoint.path={path}", f"dtype={mapping}", "verify.forward=false", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.report["model"]["dtypes"] == ["bfloat16", "float32"]
    assert [row["key"] for row in done.report["keys"]["cast"]] == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize("typed", [torch.bfloat16, "bfloat16"])
def test_python_takes_a_mapping_of_torchs_dtypes(tmp_path: Path, typed: Any) -> None:
    path = saved(tmp_path, Net())
    node = {"_target_": f"{__name__}.Net"}
    model = loader.load_model(node, path, dtype={"*": typed, "*.norm.*": torch.float32}, device="cpu")
    assert dtypes(model) == MIXED
    live = loader.load_model(Net(), path, dtype={"*": typed, "*.norm.*": torch.float32}, device="cpu")
    assert dtypes(live) == MIXED


def test_a_module_that_is_built_does_not_take_the_files_dtypes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype=checkpoint needs the model as a config"):
        loader.load_model(Net(), saved(tmp_path, Net()), dtype={"lin.*": "checkpoint"}, device="cpu")


def test_a_cast_that_loses_values_is_refused_for_its_glob_alone(tmp_path: Path) -> None:
    net = Net()
    net.lin.weight.data[0, 0] = 1e6
    path = saved(tmp_path, net)
    with pytest.raises(FitError, match=r"a cast would change values: lin.weight \(float32 → float16: 1 element"):
        load_net(path, {"*": "float16"})
    assert dtypes(load_net(path, {"*": "float16", "lin.weight": None}).model)["lin.bias"] == torch.float16


def convert(tmp_path: Path, path: Path, dtype: Any) -> Path:
    made = tmp_path / "made.safetensors"
    node = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 3}
    loader.load(
        {"mode": "convert", "model": node, "checkpoint": {"path": str(path)}, "dtype": dtype, "device": "cpu"}
        | {"convert": {"path": str(made)}, "verify": {"forward": False}}
    )
    return made


def test_a_converted_file_keeps_its_dtypes_and_builds_its_model_in_them(tmp_path: Path) -> None:
    made = convert(tmp_path, saved(tmp_path, nn.Linear(3, 3)), {"*": "bf16", "bias": "float32"})
    assert {key: value.dtype for key, value in load_file(made).items()} == {
        "weight": torch.bfloat16,
        "bias": torch.float32,
    }
    job = loader.load(["model=embedded", f"checkpoint.path={made}", "device=cpu", "verify.forward=false"])
    assert dtypes(job.model) == {"weight": torch.bfloat16, "bias": torch.float32}
    assert job.report.config["dtype"] is None


def test_a_conversion_with_other_dtypes_does_not_replace_a_file(tmp_path: Path) -> None:
    path = saved(tmp_path, nn.Linear(3, 3))
    convert(tmp_path, path, {"*": "bf16", "bias": "float32"})
    with pytest.raises(ConfigError, match=r"was converted with dtype=\{\*: bfloat16, bias: float32\}"):
        convert(tmp_path, path, {"*": "bf16"})


@pytest.mark.parametrize(
    "hostile",
    [
        {"*": "int8"},
        {"*": {"*": "float16"}},
        {"x" * 1001: "float16"},
        {f"{at}": "float16" for at in range(101)},
        ["float16"],
        7,
    ],
)
def test_a_record_with_invalid_dtypes_is_refused(tmp_path: Path, hostile: Any) -> None:
    text = to_text(Record({}, {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 3}, None, hostile))
    save_file({"weight": torch.ones(3, 3), "bias": torch.ones(3)}, tmp_path / "x.safetensors", {"hydra_loader": text})
    with pytest.raises(loader.CheckpointError, match=r"invalid conversion record in .*: invalid 'dtype'"):
        loader.load(["model=embedded", f"checkpoint.path={tmp_path / 'x.safetensors'}", "device=cpu"])


def test_a_mapping_replaces_that_of_another_config() -> None:
    config: Mapping[str, Any] = loader.schema.overlay({"dtype": {"*": "float16"}}, {"dtype": {"a": "float32"}})
    assert config["dtype"] == {"a": "float32"}
