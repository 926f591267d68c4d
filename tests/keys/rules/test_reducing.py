"""Axes that `rearrange` sums or averages, through whole loads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import loader
from loader import FitError
from tests.laws import examples


def rearranged(value: torch.Tensor, shape: tuple[int, ...], pattern: str, **rule: Any) -> torch.Tensor:
    model = nn.Module()
    model.register_buffer("x", torch.zeros(shape, dtype=value.dtype))
    loader.load_into(model, {"x": value}, rules={"r": {"rearrange": "x", "pattern": pattern, **rule}})
    made = model.x
    assert isinstance(made, torch.Tensor)
    return made


@settings(max_examples=examples(60), deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 4)] * 3),
    how=st.sampled_from(["sum", "mean"]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    kept=st.permutations("abc").flatmap(lambda axes: st.integers(0, 3).map(lambda count: axes[:count])),
)
def test_axes_that_disappear_are_reduced(
    sizes: tuple[int, int, int], how: str, dtype: torch.dtype, kept: list[str]
) -> None:
    value = torch.randn(sizes, generator=torch.Generator().manual_seed(1)).to(dtype)
    wide = value.to(torch.float64 if dtype == torch.float64 else torch.float32)
    gone = tuple("abc".index(axis) for axis in "abc" if axis not in kept)
    left = [axis for axis in "abc" if axis in kept]
    expected = (wide.sum(gone) if how == "sum" else wide.mean(gone)) if gone else wide
    expected = expected.permute([left.index(axis) for axis in kept]).to(dtype)

    pattern = f"a b c -> {' '.join(kept)}"
    made = rearranged(value, tuple(expected.shape), pattern, **({"reduce": how} if gone else {}))

    torch.testing.assert_close(made, expected, rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=1e-6)


def test_a_part_of_a_dim_can_be_reduced() -> None:
    value = torch.randn(6, 4)
    made = rearranged(value, (2, 4), "(h r) i -> h i", axes={"r": 3}, reduce="mean")
    torch.testing.assert_close(made, value.view(2, 3, 4).mean(1), rtol=1e-6, atol=1e-6)


def test_integers_are_not_reduced() -> None:
    value = torch.ones(6, 4, dtype=torch.int64)
    with pytest.raises(FitError, match=r"x \[6, 4\] is int64, and arithmetic needs floating-point numbers"):
        rearranged(value, (4,), "o i -> i", reduce="sum")


def test_an_axis_of_one_integer_goes_without_arithmetic() -> None:
    value = torch.tensor([[2**60 + 1, 2**60 + 3]])
    assert torch.equal(rearranged(value, (2,), "one i -> i", reduce="sum"), value[0])


def test_a_tensor_far_larger_than_its_reduction_is_refused() -> None:
    value = torch.ones(1).expand(1 << 17, 1)
    with pytest.raises(FitError, match=r"x \[131072, 1\] has 131,072 elements, more than the 65,536 times as large"):
        rearranged(value, (1,), "a b -> b", reduce="mean")
