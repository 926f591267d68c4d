"""Arithmetic on tensors, compared with torch's own."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

from loader.formats.formulas.compute import compute
from loader.formats.formulas.records import Formula, Reduced, Resized, Scaled, Summed, WeightNormed
from tests.laws import examples


def computed(formula: Formula, *values: torch.Tensor) -> torch.Tensor:
    """Computes a formula, and checks that its inputs stay as they were and are not part of the result."""
    before = [value.clone() for value in values]
    inputs: list[Callable[[], torch.Tensor]] = [lambda value=value: value for value in values]  # type: ignore[misc]
    made = compute(formula, inputs)
    assert all(map(torch.equal, before, values))
    assert made.dtype in (torch.float32, torch.float64)
    assert not {made.untyped_storage().data_ptr()} & {one.untyped_storage().data_ptr() for one in values if one.numel()}
    return made


@settings(max_examples=examples(100), deadline=None)
@given(
    shape=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
    how=st.sampled_from(["sum", "mean"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    data=st.data(),
)
def test_a_reduction_is_torchs(shape: tuple[int, ...], how: str, dtype: torch.dtype, data: st.DataObject) -> None:
    dims = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    value = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    wide = value.to(torch.float64 if dtype == torch.float64 else torch.float32)

    made = computed(Reduced(dims, how), value)  # type: ignore[arg-type]

    expected = wide.sum(dims) if how == "sum" else wide.mean(dims)
    assert made.dtype == wide.dtype
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=1e-6)


def test_three_terms_are_added_one_after_the_other() -> None:
    value = torch.randn(8, 3, 5, 5)
    assert torch.equal(computed(Reduced((1,), "sum"), value), value.sum(1))
    assert torch.equal(computed(Reduced((1,), "sum"), value), (value[:, 0] + value[:, 1]) + value[:, 2])


def test_a_long_sum_is_as_exact_as_torchs() -> None:
    value = torch.rand(10_001, 3)
    true = value.double().sum(0)
    error, theirs = (computed(Reduced((0,), "sum"), value) - true).abs(), (value.sum(0) - true).abs()
    assert error.max() <= max(theirs.max().item(), 2e-3)


@pytest.mark.parametrize("shape", [(5, 3, 70_000), (70_000, 3, 2), (3, 100_001), (300, 2, 300)])
def test_a_reduction_of_several_blocks_is_torchs(shape: tuple[int, ...]) -> None:
    value = torch.rand(shape)
    for dims in ((0,), (len(shape) - 1,), (0, 1), tuple(range(len(shape)))):
        made = computed(Reduced(dims, "mean"), value)
        torch.testing.assert_close(made, value.double().mean(dims).float(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("how", "empty"), [("sum", 0.0), ("mean", torch.nan)])
def test_nothing_sums_to_nought_and_has_no_mean(how: str, empty: float) -> None:
    made = computed(Reduced((0,), how), torch.empty(0, 2))  # type: ignore[arg-type]
    torch.testing.assert_close(made, torch.full((2,), empty), equal_nan=True)


def test_a_reduction_over_no_dim_is_the_value_in_memory_of_its_own() -> None:
    value = torch.randn(2, 3)
    assert torch.equal(computed(Reduced((), "sum"), value), value)
    assert torch.equal(computed(Reduced((0,), "mean"), value[:1]), value[0])


def test_a_reduction_of_float8_is_computed_in_float32() -> None:
    value = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]).to(torch.float8_e4m3fn)
    assert computed(Reduced((0,), "sum"), value).tolist() == [9.0, 12.0]


@settings(max_examples=examples(50), deadline=None)
@given(
    count=st.integers(1, 5),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    weighted=st.booleans(),
    mean=st.booleans(),
)
def test_a_sum_of_tensors_is_torchs(count: int, dtype: torch.dtype, weighted: bool, mean: bool) -> None:
    generator = torch.Generator().manual_seed(count)
    values = [torch.randn(4, 3, generator=generator).to(dtype) for _ in range(count)]
    weights = tuple(0.5 * index - 1 for index in range(count)) if weighted else ()

    made = computed(Summed(weights, mean=mean), *values)

    wide = torch.stack(values).to(made.dtype)
    expected = (wide * torch.tensor(weights or [1.0] * count)[:, None, None].to(made.dtype)).sum(0)
    torch.testing.assert_close(made, expected / count if mean else expected, rtol=1e-6, atol=1e-6)


def test_a_float64_among_the_terms_makes_the_sum_float64() -> None:
    made = computed(Summed(), torch.tensor([2.0**30]), torch.tensor([1.0], dtype=torch.float64))
    assert made.item() == 2**30 + 1


def test_terms_are_in_memory_one_at_a_time() -> None:
    events = []

    def reads(name: str) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            value = torch.ones(3)
            events.append(f"read {name}")
            weakref.finalize(value, events.append, f"freed {name}")
            return value

        return read

    made = compute(Summed(mean=True), [reads("a"), reads("b"), reads("c")])
    assert made.tolist() == [1.0, 1.0, 1.0]
    assert events.index("freed a") < events.index("read b")
    assert [event for event in events if "read" in event] == ["read a", "read b", "read c"]


@pytest.mark.parametrize("dim", [0, 1, 2, 3, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weight_norm_is_torchs_bit_for_bit(dim: int | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 5, 2, dtype=dtype)
    new: Any = parametrizations.weight_norm(copy.deepcopy(plain), dim=dim)  # type: ignore[arg-type]
    with pytest.warns(FutureWarning, match="weight_norm"):
        old: Any = weight_norm(copy.deepcopy(plain), dim=dim)  # type: ignore[arg-type]
    magnitude = torch.rand_like(old.weight_g)
    new.parametrizations.weight.original0.data.copy_(magnitude)
    old.weight_g.data.copy_(magnitude)
    old(torch.ones(1, 3, 4, 4, dtype=dtype))

    made = computed(WeightNormed(dim), magnitude, old.weight_v.detach())

    assert torch.equal(made, new.weight)
    assert torch.equal(made, old.weight)


def test_weight_norm_computes_half_precision_in_float32() -> None:
    direction, magnitude = torch.randn(4, 6).bfloat16(), torch.rand(4, 1).bfloat16()
    made = computed(WeightNormed(0), magnitude, direction)
    assert torch.equal(made, torch._weight_norm(direction.float(), magnitude.float(), 0))


def test_formulas_say_which_results_are_the_same_on_every_machine() -> None:
    exact = [Scaled(2.0), Summed(), Reduced((0,), "mean")]
    others = [WeightNormed(0), Resized((0, 1), (2, 2), "bicubic")]
    assert all(formula.exact for formula in exact)
    assert not any(formula.exact for formula in others)
