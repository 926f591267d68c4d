from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loader.apply import place
from loader.apply.place import Loss, cast, dtype_names, final_dtype, floating_dtype, own_random_state
from loader.apply.settle import settle
from loader.errors import ConfigError, DeviceError
from loader.keys.plan import Wanted
from loader.schema import AllowConfig

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def machine(monkeypatch: pytest.MonkeyPatch, **counts: int) -> None:
    monkeypatch.setattr(place, "_count", lambda kind: counts.get(kind, 0))


def refusal(name: str) -> DeviceError:
    with pytest.raises(DeviceError, match="here there is") as refused:
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

    assert error.message == f"device '{name}' is not on this machine; here there is cpu, meta"
    assert error.hint == "device=auto takes the first accelerator there is, or the CPU"
    assert error.exit_code == 6


def test_a_device_beyond_the_last_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, cuda=2, mps=1)

    assert refusal("cuda:2").message == (
        "device 'cuda:2' is not on this machine; here there is cpu, cuda:0, cuda:1, mps, meta"
    )


GONE = "which is not on this machine"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cuda0", f"'cuda0' is not a device (did you mean 'cuda', {GONE}?); here there is cpu, meta"),
        ("mpss", f"'mpss' is not a device (did you mean 'mps', {GONE}?); here there is cpu, meta"),
        ("atuo", "'atuo' is not a device (did you mean 'auto'?); here there is cpu, meta"),
        ("cuda:-1", f"'cuda:-1' is not a device (did you mean 'cuda', {GONE}?); here there is cpu, meta"),
        ("gpu", f"'gpu' is not a device (did you mean 'cuda', {GONE}?); here there is cpu, meta"),
        ("", "'' is not a device; here there is cpu, meta"),
        ("\x1b[2J", "'\\x1b[2J' is not a device; here there is cpu, meta"),
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


# The policy


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
    assert place.resolve_dtype(name) == policy


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
        place.resolve_dtype(name)

    assert refused.value.message == (
        f"'dtype' is '{name}', expected null, checkpoint or one of float16, bfloat16, float32, float64{told}"
    )
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("declared", "offered", "policy", "final"),
    [
        ("float32", "float16", None, torch.float32),
        ("float32", "float16", "checkpoint", torch.float16),
        ("float32", "float32", "bfloat16", torch.bfloat16),
        ("int64", "int64", "bfloat16", torch.int64),
        ("bool", "uint8", "float16", torch.bool),
        ("complex64", "complex64", "float16", torch.complex64),
        ("int64", "float32", "checkpoint", torch.float32),
    ],
)
def test_a_policy_puts_floating_tensors_alone_into_another_dtype(
    declared: str, offered: str, policy: str | None, final: torch.dtype
) -> None:
    assert final_dtype(Wanted((1,), declared, "parameter", "key"), offered, policy) == final


# Casts

clipped = pytest.mark.skipif(
    not torch.tensor(1e6).to(torch.float8_e4m3fn).float().isfinite(), reason="torch 2.6 gives nan instead of clipping"
)


@pytest.mark.parametrize(
    ("values", "to", "loss"),
    [
        # Rounding is what a cast is for.
        (torch.tensor([0.1, 2.87, -7.0]), torch.float16, Loss()),
        (torch.tensor([0.1], dtype=torch.float64), torch.float32, Loss()),
        (torch.tensor([0.1]), torch.float64, Loss()),
        (torch.tensor([float("inf"), float("nan"), 1.0]), torch.float16, Loss()),
        # Overflow
        (torch.tensor([1e6, -1e6, 1.0]), torch.float16, Loss(nonfinite=2)),
        (torch.tensor([1e300, 1.0], dtype=torch.float64), torch.float32, Loss(nonfinite=1)),
        (torch.tensor([3.4e38]), torch.bfloat16, Loss(nonfinite=1)),
        (torch.tensor([float("inf"), 1e6]), torch.float16, Loss(nonfinite=1)),
        # Integers and booleans
        (torch.tensor([2.87, 3.0]), torch.int64, Loss(changed=1)),
        (torch.tensor([float("nan"), 1.0]), torch.int32, Loss(changed=1)),
        (torch.tensor([1e30]), torch.int32, Loss(changed=1)),
        (torch.tensor([1, 2**24]), torch.float32, Loss()),
        (torch.tensor([1, 2**24 + 1]), torch.float32, Loss(changed=1)),
        (torch.tensor([2049, 70_000]), torch.float16, Loss(changed=2)),
        # Out of range both ways: what comes back depends on the processor, and may look unchanged.
        (torch.tensor([-(2**31)], dtype=torch.int32), torch.float16, Loss(changed=1)),
        (torch.tensor([2**63 - 1]), torch.float32, Loss(changed=1)),
        (torch.tensor([2.0**31]), torch.int32, Loss(changed=1)),
        (torch.tensor([float("-inf"), -1.0]), torch.uint8, Loss(changed=2)),
        (torch.tensor([300, -1, 7]), torch.uint8, Loss(changed=2)),
        (torch.tensor([-1, 7], dtype=torch.int8), torch.uint8, Loss(changed=1)),
        (torch.tensor([200, 7], dtype=torch.uint8), torch.int8, Loss(changed=1)),
        (torch.tensor([-1], dtype=torch.int64), torch.uint64, Loss(changed=1)),
        (torch.tensor([40_000, 1], dtype=torch.uint16), torch.int16, Loss(changed=1)),
        (torch.tensor([0, 1, 2, -1]), torch.bool, Loss(changed=2)),
        (torch.tensor([0.0, 1.0, 0.5]), torch.bool, Loss(changed=1)),
        (torch.tensor([True, False]), torch.int8, Loss()),
        # Complex numbers
        (torch.tensor([1 + 0j, 2 + 1j]), torch.float32, Loss(changed=1)),
        (torch.tensor([1e6 + 0j, 2 + 1j]), torch.float16, Loss(nonfinite=1, changed=1)),
        (torch.tensor([0.1 + 0.2j], dtype=torch.complex128), torch.complex64, Loss()),
        (torch.tensor([1e300 + 0.2j], dtype=torch.complex128), torch.complex64, Loss(nonfinite=1)),
        (torch.tensor([0.1, float("nan")], dtype=torch.float64), torch.complex64, Loss()),
        (torch.tensor([2**24 + 1]), torch.complex64, Loss(changed=1)),
        (torch.tensor([1 + 1j]).conj(), torch.complex128, Loss()),
        # float8 has few operations, and some of them no infinity: torch clips to their largest number.
        pytest.param(torch.tensor([1e6, 464.0, 470.0, 0.1]), torch.float8_e4m3fn, Loss(changed=2), marks=clipped),
        pytest.param(torch.tensor([float("inf")]), torch.float8_e4m3fn, Loss(changed=1), marks=clipped),
        (torch.tensor([1e6, 1.0]), torch.float8_e5m2, Loss(nonfinite=1)),
        pytest.param(
            torch.tensor([1e4, 1.0]).to(torch.float8_e5m2), torch.float8_e4m3fn, Loss(changed=1), marks=clipped
        ),
        (torch.tensor([1e4, 1.5]).to(torch.float8_e5m2), torch.int32, Loss(changed=1)),
        (torch.tensor([1000, 1]), torch.float8_e5m2, Loss(changed=1)),
        # What is stored of a sparse tensor
        (torch.tensor([[0.0, 1e6], [1.0, 0.0]]).to_sparse(), torch.float16, Loss(nonfinite=1)),
        (torch.tensor([[0.0, 1.5], [1.0, 0.0]]).to_sparse(), torch.int32, Loss(changed=1)),
        (torch.empty(0), torch.int8, Loss()),
        (torch.tensor(1e6), torch.float16, Loss(nonfinite=1)),
    ],
)
def test_a_cast_counts_what_it_does_beyond_rounding(values: torch.Tensor, to: torch.dtype, loss: Loss) -> None:
    result, told = cast(values, to)

    assert told == loss
    assert result.dtype == to
    assert result.shape == values.shape


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_a_compressed_sparse_tensor_is_cast_and_counted() -> None:
    result, loss = cast(torch.tensor([[0.0, 1e6], [1.0, 0.0]]).to_sparse_csr(), torch.float16)

    assert (result.dtype, loss) == (torch.float16, Loss(nonfinite=1))


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS, torch.bool, torch.complex64])
def test_a_cast_to_its_own_dtype_is_the_tensor_itself(dtype: torch.dtype) -> None:
    tensor = torch.ones(3, dtype=dtype)

    result, loss = cast(tensor, dtype)

    assert result is tensor
    assert not loss


@given(
    st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=6),
    st.sampled_from(INTEGERS),
    st.sampled_from([*INTEGERS, *FLOATS]),
)
def test_a_cast_of_integers_tells_every_number_that_changed(
    numbers: list[int], source: torch.dtype, target: torch.dtype
) -> None:
    bits = torch.iinfo(source)
    values = [bits.min + number % (bits.max - bits.min + 1) for number in numbers]

    result, loss = cast(torch.tensor(values, dtype=source), target)

    # Python compares integers and floats exactly.
    assert loss.changed == sum(given != got for given, got in zip(values, result.tolist(), strict=True))


@given(
    st.lists(st.floats(width=64, allow_nan=False), min_size=1, max_size=6),
    st.sampled_from(FLOATS),
    st.sampled_from(FLOATS),
)
def test_a_cast_of_floats_tells_every_number_that_became_infinite(
    numbers: list[float], source: torch.dtype, target: torch.dtype
) -> None:
    values = torch.tensor(numbers, dtype=torch.float64).to(source)

    result, loss = cast(values, target)

    new = [
        now for was, now in zip(values.tolist(), result.tolist(), strict=True) if abs(was) < float("inf") == abs(now)
    ]
    assert loss == Loss(nonfinite=len(new))


def test_no_cast_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cast(torch.tensor([1 + 1j]), torch.float32)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (Loss(), ""),
        (Loss(nonfinite=1), "1 element becomes inf or nan"),
        (Loss(nonfinite=1200), "1,200 elements become inf or nan"),
        (Loss(changed=1), "1 element changes its value"),
        (Loss(2, 3), "2 elements become inf or nan and 3 elements change their value"),
    ],
)
def test_a_loss_is_told_in_words(loss: Loss, told: str) -> None:
    assert str(loss) == told
    assert bool(loss) == bool(told)


# The rest of a model


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


def test_inputs_take_the_first_dtype_that_computes() -> None:
    model = nn.Module()
    assert floating_dtype(model) == torch.float32
    model.register_buffer("counter", torch.zeros((), dtype=torch.int64))
    model.register_buffer("scale", torch.ones((), dtype=torch.float64))
    assert floating_dtype(model) == torch.float64
    model.weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    assert floating_dtype(model) == torch.bfloat16


def test_a_models_dtypes_are_named_in_order() -> None:
    model = nn.ParameterList([nn.Parameter(torch.ones(1, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)])

    assert dtype_names(model) == ["bfloat16", "float32"]
    assert dtype_names(nn.ReLU()) == []


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
