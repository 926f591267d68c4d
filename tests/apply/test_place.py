"""Devices, and the move of a loaded model to one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import FitError, load_model
from loader.apply import place
from loader.apply.place import own_random_state, settle
from loader.errors import DeviceError
from loader.schema import AllowConfig
from tests.jobs import carry_out, save, snapshot

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def machine(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    monkeypatch.setattr(place, "_count", lambda kind: counts.get(kind, 0))


def refusal(name: str) -> DeviceError:
    with pytest.raises(DeviceError, match="available: ") as refused:
        place.resolve_device(name)
    return refused.value


# Devices


@pytest.mark.parametrize(
    ("counts", "device"),
    [
        ({}, "cpu"),
        ({"cuda": 1}, "cuda"),
        ({"mps": 1}, "mps"),
        ({"xpu": 2}, "xpu"),
        ({"xpu": 1, "mps": 1}, "mps"),
        ({"cuda": 2, "mps": 1, "xpu": 1}, "cuda"),
    ],
)
def test_auto_takes_the_first_accelerator_there_is_or_the_cpu(
    counts: dict[str, int], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **counts)

    assert place.resolve_device("auto") == torch.device(device)


@pytest.mark.parametrize("name", ["cpu", "meta", "cuda", "cuda:1", "mps"])
def test_a_device_that_is_there_is_taken_as_it_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2, mps=1)

    assert place.resolve_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cpu:0", "cpu:3", "meta:1"])
def test_cpus_are_not_counted(name: str) -> None:
    assert place.resolve_device(name) == torch.device(name.partition(":")[0])


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "xpu:1", "hpu", "xla"])
def test_an_absent_device_is_refused_with_what_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)

    error = refusal(name)

    assert error.message == f"device '{name}' is not on this machine; available: cpu, meta"
    assert error.hint == "device=auto   # takes the first available accelerator, or the CPU"
    assert error.exit_code == 6


def test_a_device_beyond_the_last_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2, mps=1)

    assert refusal("cuda:2").message == (
        "device 'cuda:2' is not on this machine; available: cpu, cuda:0, cuda:1, mps, meta"
    )


def test_every_device_is_for_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2)
    error = refusal("cuda:*")
    assert error.message == (
        "device 'cuda:*' is one job for each CUDA device, and a single run accepts one; "
        "available: cpu, cuda:0, cuda:1, meta"
    )
    assert error.hint == "-m 'device=cuda:*'"


def test_where_there_is_no_cuda_the_line_to_leave_it_out_is_one_of_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    _, leaves_out = refusal("cuda:*").fixes
    assert leaves_out.line == "-m 'sweep.skip=[cuda*]'"


GONE = "which is not on this machine"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cuda0", f"'cuda0' is not a device (did you mean 'cuda', {GONE}?); available: cpu, meta"),
        ("mpss", f"'mpss' is not a device (did you mean 'mps', {GONE}?); available: cpu, meta"),
        ("atuo", "'atuo' is not a device (did you mean 'auto'?); available: cpu, meta"),
        ("cuda:-1", f"'cuda:-1' is not a device (did you mean 'cuda', {GONE}?); available: cpu, meta"),
        ("gpu", f"'gpu' is not a device (did you mean 'cuda', {GONE}?); available: cpu, meta"),
        ("", "'' is not a device; available: cpu, meta"),
        ("\x1b[2J", "'\\x1b[2J' is not a device; available: cpu, meta"),
    ],
)
def test_a_name_that_is_no_device_is_refused_with_the_nearest_one(
    name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch)

    error = refusal(name)

    assert (error.message, error.hint) == (told, "device=auto")


@pytest.mark.parametrize(
    ("name", "there", "meant"),
    [
        ("gpu", {"cuda": 2}, "cuda"),
        ("GPU:1", {"cuda": 2}, "cuda:1"),
        ("gpu", {"mps": 1}, "mps"),
        ("cuda0", {"cuda": 1}, "cuda"),
        ("cup", {}, "cpu"),
    ],
)
def test_the_device_that_is_meant_and_there_is_the_one_to_type(
    name: str, there: dict[str, int], meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, **there)

    error = refusal(name)

    assert f"'{name}' is not a device (did you mean '{meant}'?); " in error.message
    assert error.hint == f"device={meant}"
    assert str(place.resolve_device(meant)) == meant


# Settling


def test_settling_moves_what_a_load_did_not_place() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))

    settle(model, torch.device("cpu"), "float64", AllowConfig())

    assert {tensor.dtype for tensor in model.parameters()} == {torch.float64}
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert model[1].running_mean.dtype == torch.float64


@pytest.mark.parametrize("policy", [None, "checkpoint", "float32"])
def test_settling_leaves_a_model_that_is_in_place_alone(policy: str | None) -> None:
    model = nn.Linear(2, 2)
    weight, version = model.weight, model.weight._version

    settle(model, torch.device("cpu"), policy, AllowConfig())

    assert (model.weight, model.weight._version) == (weight, version)


def test_settling_keeps_complex_tensors_complex() -> None:
    model = nn.Linear(2, 2, dtype=torch.float32)
    model.register_buffer("phases", torch.tensor([1 + 2j]))

    settle(model, torch.device("cpu"), "float16", AllowConfig())

    assert model.weight.dtype == torch.float16
    assert torch.equal(model.get_buffer("phases"), torch.tensor([1 + 2j]))


def test_settling_on_meta_leaves_no_data() -> None:
    model = nn.Linear(2, 2)

    settle(model, torch.device("meta"), None, AllowConfig())

    assert all(parameter.is_meta for parameter in model.parameters())


def test_settling_leaves_a_model_without_data_for_the_check_that_names_it() -> None:
    model = nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))

    settle(model, torch.device("cpu"), "float64", AllowConfig())

    assert [parameter.is_meta for parameter in model.parameters()] == [True, True, False, False]


def test_settling_keeps_ties() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(4, 2), "head": nn.Linear(2, 4, bias=False)})
    model["head"].weight = model["embed"].weight

    settle(model, torch.device("cpu"), "float16", AllowConfig())

    assert model["head"].weight is model["embed"].weight


def test_the_random_state_is_given_back_also_after_an_error() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)

    def fail() -> None:
        with own_random_state(torch.device("cpu")):
            torch.manual_seed(2)
            raise KeyError(torch.rand(5))

    with pytest.raises(KeyError):
        fail()

    assert torch.equal(torch.rand(3), expected)


# What stays unloaded


class Wide(nn.Module):
    """A parameter of its own that float16 cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.wide = nn.Parameter(torch.tensor([1.0, 1e30]))


UNPROVEN = {"forward": False, "expect": {"finite": False}}
NODE = {"_target_": f"{__name__}.Wide"}


@pytest.mark.parametrize("way", ["live", "built"])
def test_values_that_stay_unloaded_do_not_become_infinite(way: str, tmp_path: Path) -> None:
    path = save(nn.Linear(2, 2).state_dict(prefix="layer."), tmp_path / "layer.pt")
    live = Wide()
    before = snapshot(live)
    ways: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
        "live": lambda allow: load_model(live, path, dtype="float16", allow=allow, device="cpu"),
        "built": lambda allow: carry_out(NODE, path, dtype="float16", allow=allow, verify=UNPROVEN).model,
    }
    with pytest.raises(FitError) as refusal:
        ways[way]({"missing": ["wide"]})
    assert refusal.value.message == (
        "a cast would change values: wide (float32 → float16: 1 element becomes inf or nan)"
    )
    assert refusal.value.hint == (
        "dtype=null   # keeps the dtypes of the model\n'allow.mismatched=[wide]'   # accepts the loss of precision"
    )
    assert snapshot(live) == before
    model = ways[way]({"missing": ["wide"], "mismatched": ["wide"]})
    assert model.get_parameter("wide").tolist() == [1.0, float("inf")]
