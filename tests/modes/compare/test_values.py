"""How far two tensors are apart."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.formats.tensor import DTYPES
from loader.modes.compare import values
from loader.modes.compare.values import Numbers, numbers
from tests.laws import examples


@pytest.fixture(autouse=True)
def no_notes_of_torch() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layouts and dtypes that torch calls experimental
        yield


@settings(max_examples=examples(100), deadline=None)
@given(
    st.integers(0, 40),
    st.sampled_from(["float64", "float32", "bfloat16", "float16", "int32", "int8", "uint8", "bool"]),
    st.sampled_from(["float64", "float32", "bfloat16", "int16", "bool"]),
    st.integers(1, 7),
    st.integers(0, 2**32 - 1),
)
def test_they_are_the_numbers_of_numpy(count: int, left: str, right: str, block: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    one = (torch.randn(count, generator=draw) * 3).to(DTYPES[left])
    kept = torch.rand(count, generator=draw) < 0.7
    other = torch.where(kept, one.double(), torch.randn(count, generator=draw).double()).to(DTYPES[right])
    before, values.BLOCK = values.BLOCK, block
    try:
        found = numbers(one, other)
    finally:
        values.BLOCK = before
    ours, theirs = one.double().numpy(), other.double().numpy()
    apart = np.abs(ours - theirs)
    assert found.differing == np.count_nonzero(apart)
    assert found.max_abs == apart.max(initial=0)
    assert found.mean_abs == pytest.approx(apart.mean() if count else 0, rel=1e-12, abs=0)
    lengths = np.linalg.norm(ours) * np.linalg.norm(theirs)
    if not apart.any():
        assert found.cosine == 1
    elif lengths:
        assert found.cosine == pytest.approx(float(ours @ theirs / lengths), abs=1e-12)
    else:
        assert found.cosine is None


@pytest.mark.parametrize("name", sorted(name for name in DTYPES if not name.startswith(("q", "bool"))))
def test_a_tensor_of_any_dtype_is_equal_to_itself(name: str) -> None:
    content = torch.arange(48, dtype=torch.uint8).clone().untyped_storage()
    one = torch.empty(0, dtype=DTYPES[name]).set_(content, 0, (48 // DTYPES[name].itemsize,), (1,))
    assert numbers(one, one.clone()) == values.EQUAL


def test_what_has_no_values_is_equal_by_its_bytes_or_has_no_number() -> None:
    one = torch.tensor([1, 2], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    other = torch.tensor([1, 3], dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    assert numbers(one, one.clone()).equal
    assert numbers(one, other) == values.apart("float4_e2m1fn_x2 has no values in torch")


@pytest.mark.parametrize(
    ("left", "right", "apart"),
    [
        (torch.tensor([2**60, 5]), torch.tensor([2**60 + 1, 5]), 1),
        (torch.tensor([2**63 - 1]), torch.tensor([-(2**63)]), 2.0**64),
        (torch.tensor([2**63 + 5], dtype=torch.uint64), torch.tensor([2**63 - 1]), 6),
        (torch.tensor([2**60 + 1]), torch.tensor([2.0**60]), 1),
        (torch.tensor([True, False]), torch.tensor([1, 1], dtype=torch.int8), 1),
    ],
)
def test_integers_are_subtracted_exactly(left: torch.Tensor, right: torch.Tensor, apart: float) -> None:
    assert numbers(left, right).max_abs == numbers(right, left).max_abs == apart
    assert numbers(left, right).differing == 1


def test_nan_and_infinity_are_equal_to_themselves_and_beyond_any_number() -> None:
    one = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    assert numbers(one, one.double()).equal
    found = numbers(one, torch.tensor([math.nan, math.inf, -math.inf, 1.5]))
    assert (found.differing, found.max_abs, found.mean_abs, found.cosine, found.note) == (1, 0.5, 0.125, None, "")
    found = numbers(one, torch.tensor([0.0, math.inf, math.inf, 1.0]))
    assert found == Numbers(2, None, None, None, "2 elements: NaN or infinity on one side")
    most = torch.tensor([1.7e308], dtype=torch.float64)
    assert numbers(most, -most).note == "the difference is beyond float64"


def test_complex_numbers_are_apart_by_their_distance() -> None:
    one, other = torch.tensor([1 + 1j, 0]), torch.tensor([4 + 5j, 0])
    found = numbers(one, other)
    assert (found.max_abs, found.mean_abs) == (5, 2.5)
    assert found.cosine == pytest.approx(9 / math.sqrt(2 * 41))
    assert numbers(one, torch.tensor([1.0, 0])).max_abs == 1
    assert numbers(torch.tensor([1.0, 0]), one).max_abs == 1
    assert numbers(one.to(torch.complex32), one).equal


def test_minus_zero_is_zero() -> None:
    assert numbers(torch.tensor([0.0]), torch.tensor([-0.0])).equal


def test_strides_and_lazy_bits_do_not_count() -> None:
    one = torch.randn(5, 7)
    assert numbers(one.T, one.T.contiguous()).equal
    assert numbers(one[:, 1], one[:, 1].clone()).equal
    turned = torch.randn(4, dtype=torch.complex64).conj()
    assert numbers(turned, turned.resolve_conj()).equal


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr])
def test_sparse_tensors_are_compared_by_their_values(layout: torch.layout) -> None:
    dense = torch.diag(torch.tensor([1.0, 2, 3, 4]))
    changed = dense.clone()
    changed[0, 1], changed[2, 2] = 2.0, 0.0
    one = dense.to_sparse(layout=layout, blocksize=(2, 2) if layout == torch.sparse_bsr else None)
    expected = numbers(dense, changed)
    assert numbers(one, one.clone()).equal
    assert numbers(one, dense).equal
    for found in (numbers(one, changed), numbers(one, changed.to_sparse()), numbers(dense, changed.to_sparse())):
        assert (found.max_abs, found.mean_abs) == (expected.max_abs, expected.mean_abs)
        assert found.cosine == pytest.approx(expected.cosine)


def test_a_huge_sparse_tensor_takes_the_memory_of_what_it_stores() -> None:
    one = torch.sparse_coo_tensor(torch.tensor([[0, 2**39]]), torch.ones(2, 3), (2**40, 3), check_invariants=True)
    found = numbers(one, one * 2)
    assert (found.differing, found.max_abs, found.cosine) == (6, 1, 1)
    most = torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (2**62,), check_invariants=True)
    assert numbers(most, most * 2).max_abs == 1


def test_quantized_tensors_are_compared_by_the_values_that_they_stand_for() -> None:
    plain = torch.tensor([[0.5, 1.0], [-0.25, 0.0]])
    one = torch.quantize_per_tensor(plain, 0.25, 0, torch.qint8)
    channels = torch.quantize_per_channel(plain, torch.tensor([0.25, 0.5]), torch.tensor([0, 0]), 0, torch.qint8)
    assert numbers(one, one.clone()).equal
    assert numbers(one, plain).equal
    assert numbers(one, channels).max_abs == 0.25


def test_nested_tensors_are_compared_part_by_part() -> None:
    parts = [torch.ones(2), torch.ones(3)]
    one = torch.nested.nested_tensor(parts)
    assert numbers(one, torch.nested.nested_tensor(parts)).equal
    assert numbers(one, torch.nested.nested_tensor([parts[0], parts[1] * 3])).max_abs == 2
    assert numbers(one, torch.ones(5)) == values.apart("shapes differ")


def test_equal_runs_are_passed_over_and_count_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "BLOCK", 4)
    one = torch.arange(12.0)
    other = one.clone()
    other[9] += 1
    moved = list[int]()
    found = numbers(one, other, moved.append)
    assert moved == [4, 4, 4]
    assert found.mean_abs == 1 / 12
    assert found.cosine == pytest.approx(float(torch.cosine_similarity(one.double(), other.double(), dim=0)))
