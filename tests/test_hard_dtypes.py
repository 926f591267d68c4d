"""Every dtype, layout and cast that a file can bring, and the devices it was saved on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader import FitError, load_into
from tests.jobs import assert_same_state, carry_out, raw, same_tensor, save, target
from tests.models import Two, filled

# Dtypes, layouts and where a file was saved.

PLAIN = ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"]
PLAIN += ["complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"]


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("dtype", PLAIN)
def test_every_dtype_is_loaded_as_it_is(dtype: str, mmap: bool, tmp_path: Path) -> None:
    weight = _values(dtype)
    path = save({"weight": weight, "count": torch.arange(3)}, tmp_path / "typed.pt")
    loaded = carry_out(target("Typed", dtype=dtype), path, checkpoint={"mmap": mmap}, verify={"input": {"shape": [1]}})
    assert same_tensor(loaded.model.get_parameter("weight"), weight)
    assert loaded.report.keys.cast == []


def _values(dtype: str) -> torch.Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    base = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.5, 1.5]])
    return torch.complex(base, base + 1).to(kind) if kind.is_complex else base.to(kind)


@pytest.mark.parametrize("name", ["view", "transposed", "strided", "expanded"])
def test_views_and_strides_become_tensors_of_their_own(name: str, tmp_path: Path) -> None:
    large = torch.rand(64, 64)
    weight = {
        "view": large[3:5, 7:10],
        "transposed": large[:3, :2].t(),
        "strided": large[:4:2, :9:3],
        "expanded": large[:1, :3].expand(2, 3),
    }[name]
    path = save({"weight": weight, "count": torch.arange(3)}, tmp_path / "views.pt")
    parameter = carry_out("Typed", path).model.get_parameter("weight")
    assert same_tensor(parameter, weight.contiguous())
    assert parameter.is_contiguous()
    assert parameter.untyped_storage().nbytes() <= 64 * 64 * 4


def test_tensors_that_share_a_storage_in_the_file_become_independent(tmp_path: Path) -> None:
    base = torch.rand(4, 4)
    state = {"first.weight": base, "first.bias": base[0], "second.weight": base.t(), "second.bias": base[0]}
    model: Any = carry_out("Two", save(state, tmp_path / "aliased.pt")).model
    expected = {key: value.clone() for key, value in state.items()}
    with torch.no_grad():
        model.first.weight.zero_()
    for key in ("first.bias", "second.weight", "second.bias"):
        assert same_tensor(model.get_parameter(key), expected[key]), key
    with torch.no_grad():
        model.second.bias.zero_()
    assert same_tensor(model.first.bias, expected["first.bias"])


def test_channels_last_weights_keep_the_models_layout(tmp_path: Path) -> None:
    saved: Any = nn.Conv2d(3, 4, 2)
    saved = saved.to(memory_format=torch.channels_last)
    path = save(saved.state_dict(), tmp_path / "conv.pt")
    node = {"_target_": "torch.nn.Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 2}
    weight = carry_out(node, path).model.get_parameter("weight")
    assert same_tensor(weight, saved.weight)
    assert weight.is_contiguous()


def test_conjugate_and_negative_views(tmp_path: Path) -> None:
    weight = torch.complex(torch.rand(2, 3), torch.rand(2, 3)).conj()
    path = save({"weight": weight, "count": torch.arange(3)}, tmp_path / "conj.pt")
    model = carry_out(target("Typed", dtype="complex64"), path, verify={"input": {"shape": [1]}}).model
    assert torch.equal(model.get_parameter("weight"), weight.resolve_conj())


def test_sparse_tensors_fill_sparse_ones_only(tmp_path: Path) -> None:
    sparse = torch.eye(3).to_sparse()
    path = save({"table": sparse}, tmp_path / "sparse.pt")
    live = nn.Module()
    live.register_buffer("table", torch.zeros(3, 3).to_sparse())
    load_into(live, path)
    assert torch.equal(live.get_buffer("table").to_dense(), torch.eye(3))
    dense = nn.Module()
    dense.register_buffer("table", torch.zeros(3, 3))
    with pytest.raises(FitError) as refusal:
        load_into(dense, path)
    assert refusal.value.message == "table is sparse_coo in the file and strided in the model"
    assert refusal.value.hint == "build the model with the same layout, or save the tensor in the model's layout"


def test_sparse_tensors_are_cast_like_others(tmp_path: Path) -> None:
    path = save({"table": torch.eye(3, dtype=torch.float64).to_sparse() * 1e300}, tmp_path / "sparse.pt")
    live = nn.Module()
    live.register_buffer("table", torch.zeros(3, 3).to_sparse())
    with pytest.raises(FitError, match=r"table \(float64 → float32: 3 elements become inf or nan\)"):
        load_into(live, path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantized_tensors_fill_quantized_ones_only(tmp_path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.rand(2, 3), 0.1, 3, torch.quint8)
    path = save({"table": quantized}, tmp_path / "quantized.pt")
    live = nn.Module()
    live.register_buffer("table", torch.quantize_per_tensor(torch.zeros(2, 3), 0.1, 3, torch.quint8))
    load_into(live, path)
    assert torch.equal(live.get_buffer("table").int_repr(), quantized.int_repr())
    with pytest.raises(FitError, match="weight is quantized in the file and strided in the model"):
        carry_out("Typed", save({"weight": quantized, "count": torch.arange(3)}, tmp_path / "q.pt"))


@pytest.mark.parametrize("location", ["cuda:0", "cuda:7", "mps", "xla:1", "meta", "nonsense"])
def test_the_device_in_a_file_is_only_text(location: str, tmp_path: Path) -> None:
    saved = filled(Two()).state_dict()
    path = _tagged(saved, tmp_path / "tagged.pt", location)
    assert_same_state(carry_out("Two", path).model, saved)


def _tagged(state: Any, path: Path, location: str) -> Path:
    from torch.serialization import register_package

    registry = torch.serialization._package_registry
    register_package(-1000, lambda _: location, lambda storage, _: storage)
    try:
        return save(state, path)
    finally:
        registry[:] = [entry for entry in registry if entry[0] != -1000]


def test_a_tensor_that_was_saved_without_data_is_refused(tmp_path: Path) -> None:
    state = {**filled(Two()).state_dict(), "second.weight": torch.empty(4, 4, device="meta")}
    path = save(state, tmp_path / "meta.pt")
    told = r"meta\.pt holds no data for second\.weight: saved on the meta device"
    with pytest.raises(loader.CheckpointError, match=told):
        carry_out("Two", path)
    with pytest.raises(loader.CheckpointError, match=told):
        load_into(Two(), path)
    with pytest.raises(loader.CheckpointError, match=r"holds no data for second\.weight"):
        load_into(Two(), state)


# Casts.


def test_a_cast_is_listed(tmp_path: Path) -> None:
    saved = filled(Two()).to(torch.float64).state_dict()
    report = carry_out("Two", save(saved, tmp_path / "double.pt")).report
    assert report.keys.cast[0] == {"key": "first.weight", "checkpoint": "float64", "model": "float32", "loss": ""}
    assert len(report.keys.cast) == 4


def test_a_cast_that_makes_inf_is_refused(tmp_path: Path) -> None:
    path = save({"weight": torch.tensor([[1e6, 1, 1], [1, 1, -1e6]]), "count": torch.arange(3)}, tmp_path / "big.pt")
    node = target("Typed", dtype="float16")
    with pytest.raises(FitError) as refusal:
        carry_out(node, path)
    assert refusal.value.message == (
        "a cast would change values: weight (float32 → float16: 2 elements become inf or nan)"
    )
    assert refusal.value.hint == (
        "dtype=checkpoint   # keeps the dtypes of the file\n"
        "'allow.mismatched=[weight]'   # accepts the loss of precision"
    )
    inf = {"forward": False, "expect": {"finite": False}}
    allowed = carry_out(node, path, allow={"mismatched": ["weight"]}, verify=inf)
    assert allowed.model.get_parameter("weight")[0, 0].item() == float("inf")
    assert allowed.report.keys.cast[0]["loss"] == "2 elements become inf or nan"
    kept = carry_out(node, path, dtype="checkpoint")
    assert kept.model.get_parameter("weight").dtype == torch.float32


def test_values_that_are_infinite_already_are_no_loss_of_a_cast(tmp_path: Path) -> None:
    weight = torch.tensor([[float("inf"), float("nan"), 1.0]] * 2, dtype=torch.float64)
    path = save({"weight": weight, "count": torch.arange(3)}, tmp_path / "inf.pt")
    report = carry_out("Typed", path, verify={"forward": False, "expect": {"finite": False}}).report
    assert report.keys.cast[0]["loss"] == ""


CHANGED = [
    ("int64", torch.full((2, 3), 300), "int8", 6),
    ("int64", torch.full((2, 3), 2**24 + 1), "float32", 6),
    ("float32", torch.tensor([[1.5, 2.0, -1.0], [0.0, 0.0, 0.25]]), "int32", 2),
    ("int64", torch.full((2, 3), -1), "uint8", 6),
    ("float32", torch.full((2, 3), 2.0), "bool", 6),
    ("complex64", torch.complex(torch.ones(2, 3), torch.eye(3)[:2]), "float32", 2),
    ("int32", torch.full((2, 3), 70_000, dtype=torch.int32), "uint16", 6),
    ("uint16", torch.full((2, 3), 60_000, dtype=torch.uint16), "int16", 6),
    ("float32", torch.full((2, 3), float("nan")), "int64", 6),
]


@pytest.mark.parametrize(("offered", "weight", "declared", "changed"), CHANGED, ids=[f"{c[0]}-{c[2]}" for c in CHANGED])
def test_a_cast_that_changes_numbers_is_refused(
    offered: str, weight: torch.Tensor, declared: str, changed: int, tmp_path: Path
) -> None:
    path = save({"weight": weight, "count": torch.arange(3)}, tmp_path / "numbers.pt")
    told = rf"weight \({offered} → {declared}: {changed} elements change their value\)"
    with pytest.raises(FitError, match=told):
        carry_out(target("Typed", dtype=declared), path)


@pytest.mark.parametrize(
    ("offered", "declared"),
    [("int64", "int32"), ("uint8", "float32"), ("float32", "int64"), ("bool", "float32"), ("uint16", "int32"),
     ("float32", "complex64"), ("float8_e4m3fn", "float32"), ("int32", "uint16"), ("float32", "float8_e5m2")],
)  # fmt: skip
def test_a_cast_that_keeps_every_number_is_taken_and_listed(offered: str, declared: str, tmp_path: Path) -> None:
    weight = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]]).to(getattr(torch, offered))
    path = save({"weight": weight, "count": torch.arange(3)}, tmp_path / "numbers.pt")
    loaded = carry_out(target("Typed", dtype=declared), path)
    assert raw(loaded.model.get_parameter("weight")) == raw(weight.to(getattr(torch, declared)))
    assert [cast["key"] for cast in loaded.report.keys.cast] == ["weight"]
