"""Dtypes: the policy, what a cast does to values, and what torch cannot cast."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loader import FitError, load_into
from loader.keys.plan import Wanted
from loader.module.dtype import Loss, can_cast, cast, dtype_names, final_dtype, floating_dtype
from tests.jobs import carry_out, checks, save

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


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


# Dtypes that torch holds and cannot compute with


HELD = ["float4_e2m1fn_x2", "bits8", "bits16"]


class Packed(nn.Module):
    """A buffer of any dtype, beside a layer."""

    packed: torch.Tensor

    def __init__(self, dtype: str = "bits8") -> None:
        super().__init__()
        self.register_buffer("packed", packed(dtype, 0))
        self.layer = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


def packed(dtype: str, value: int) -> torch.Tensor:
    return torch.full((8,), value, dtype=torch.uint8).view(getattr(torch, dtype))


def raw(tensor: torch.Tensor) -> list[int]:
    found: list[int] = tensor.view(torch.uint8).tolist()
    return found


def test_what_torch_can_cast_is_asked_of_torch() -> None:
    assert can_cast(torch.float32, torch.float16)
    assert can_cast(torch.float8_e4m3fn, torch.float32)
    assert can_cast(torch.bits8, torch.bits8)
    assert not can_cast(torch.bits8, torch.float32)
    assert not can_cast(torch.float32, torch.bits16)


@pytest.mark.parametrize("dtype", HELD)
def test_packed_tensors_load_and_are_read_back(dtype: str, tmp_path: Path) -> None:
    state = {**Packed(dtype).state_dict(), "packed": packed(dtype, 9)}
    path = save(state, tmp_path / "packed.pt")
    node = {"_target_": f"{__name__}.Packed", "dtype": dtype}
    verify = {"input": {"shape": [1, 2]}}
    loaded = carry_out(node, path, verify=verify)
    assert raw(loaded.model.get_buffer("packed")) == [9] * 8
    assert checks(loaded.report)["read back"]
    half = carry_out(node, path, verify=verify, dtype="float16").model
    assert raw(half.get_buffer("packed")) == [9] * 8
    assert half.get_parameter("layer.weight").dtype == torch.float16
    live = Packed(dtype)
    load_into(live, path, verify=verify)
    assert raw(live.packed) == [9] * 8


@pytest.mark.parametrize("mode", ["plan", "load"])
@pytest.mark.parametrize(("theirs", "mine"), [("float4_e2m1fn_x2", "uint8"), ("bits8", "uint8"), ("uint8", "bits8")])
def test_a_cast_that_torch_does_not_have_is_refused_before_anything_is_read(
    mode: str, theirs: str, mine: str, tmp_path: Path
) -> None:
    path = save({**Packed(mine).state_dict(), "packed": packed(theirs, 9)}, tmp_path / "packed.pt")
    with pytest.raises(FitError) as refusal:
        carry_out({"_target_": f"{__name__}.Packed", "dtype": mine}, path, mode=mode)
    assert refusal.value.message == f"packed is {theirs} in the file and {mine} in the model"
    assert refusal.value.hint == "build the model with the same layout, or save the tensor in the model's layout"
