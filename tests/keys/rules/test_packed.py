"""Dequantizers of GPTQ and AWQ, compared with packers that are written here, element by element."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loader.errors import CheckpointError
from loader.keys.rules.tensors import Unfit
from tests.keys.rules.dequantizing import entry_of, join, values_of
from tests.laws import examples


def numbers(high: int, *shape: int, low: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(high + sum(shape)))


def halves(*shape: int) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.1).half()


def signed(words: list[list[int]]) -> Tensor:
    """Words of 32 bits as the int32 with these bits."""
    return torch.tensor([[word - (1 << 32 if word >> 31 else 0) for word in row] for row in words], dtype=torch.int32)


def down_the_columns(codes: Tensor, bits: int) -> Tensor:
    """Packs each column as one long number, its first element in the lowest bits."""
    columns = [sum(int(code) << bits * at for at, code in enumerate(column)) for column in codes.t()]
    count = codes.shape[0] * bits // 32
    return signed([[column >> 32 * word & 0xFFFFFFFF for column in columns] for word in range(count)])


def gptq(bits: int, rows: int, out: int, groups: int, zero: int = 1, act_order: bool = False) -> tuple[Any, Tensor]:
    """The tensors of a layer by role, and its weight as ``[out, in]``."""
    codes, zeros, scales = (
        numbers(1 << bits, rows, out),
        numbers((1 << bits), groups, out),
        halves(groups, out),
    )
    group = torch.arange(rows) // -(-rows // groups)
    if act_order:
        group = group[torch.randperm(rows, generator=torch.Generator().manual_seed(0))]
    members = {
        "qweight": down_the_columns(codes, bits),
        "qzeros": down_the_columns((zeros - zero & (1 << bits) - 1).t(), bits).t().contiguous(),
        "scales": scales,
        "g_idx": group.int(),
    }
    weight = torch.empty(out, rows)
    for row in range(rows):
        for column in range(out):
            at = int(group[row])
            weight[column, row] = (int(codes[row, column]) - int(zeros[at, column])) * float(scales[at, column])
    return members, weight


@settings(max_examples=examples(40), deadline=None)
@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    rows=st.integers(1, 3),
    out=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    zero=st.sampled_from([0, 1]),
    act_order=st.booleans(),
)
def test_gptq_of_both_versions(bits: int, rows: int, out: int, groups: int, zero: int, act_order: bool) -> None:
    members, weight = gptq(bits, 32 * rows, 32 * out, groups, zero, act_order)

    assert torch.equal(values_of(join("gptq", bits=bits, zero=zero), members), weight)
    if not act_order and (32 * rows) % groups == 0:
        del members["g_idx"]
        assert torch.equal(values_of(join("gptq", bits=bits, zero=zero), members), weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_zero_point_of_0_is_stored_by_version_1_as_the_highest_number(bits: int) -> None:
    members, _ = gptq(bits, 32, 32, 1)
    members["qweight"] = down_the_columns(torch.ones(32, 32, dtype=torch.int64), bits)
    members["qzeros"] = down_the_columns(torch.full((32, 1), (1 << bits) - 1), bits).t().contiguous()

    assert torch.equal(values_of(join("gptq", bits=bits), members), members["scales"].float().t().expand(32, 32))


@pytest.mark.parametrize("bits", [5, 6, 7])
def test_gptq_of_bits_that_straddle_words(bits: int) -> None:
    members, weight = gptq(bits, 64, 32, 2)

    assert torch.equal(values_of(join("gptq", bits=bits), members), weight)


def test_the_last_group_may_be_short_where_g_idx_or_the_config_says_so() -> None:
    members, weight = gptq(4, 40, 8, 3)  # groups of 14, 14 and 12 rows

    assert torch.equal(values_of(join("gptq"), members), weight)
    del members["g_idx"]
    assert torch.equal(values_of(join("gptq"), members, {"group_size": 14}), weight)
    with pytest.raises(Unfit, match=r"scales \[3, 8\]: expected 40 rows in equal groups, or a g_idx that says which"):
        entry_of(join("gptq"), members)


def test_bits_are_those_of_the_option_then_of_the_folders_config_then_4() -> None:
    (four, plain), (eight, wide) = gptq(4, 32, 8, 2), gptq(8, 32, 8, 2)

    assert torch.equal(values_of(join("gptq"), four), plain)
    assert torch.equal(values_of(join("gptq"), eight, {"bits": 8}), wide)
    assert torch.equal(values_of(join("gptq", bits=4), four, {"bits": 8}), plain)


def test_the_version_is_that_of_the_option_then_of_the_folders_config_then_1() -> None:
    (first, one), (second, two) = gptq(4, 32, 8, 2, zero=1), gptq(4, 32, 8, 2, zero=0)

    assert torch.equal(values_of(join("gptq"), first), one)
    assert torch.equal(values_of(join("gptq"), first, {"checkpoint_format": "gptq"}), one)
    assert torch.equal(values_of(join("gptq"), second, {"checkpoint_format": "gptq_v2"}), two)
    assert torch.equal(values_of(join("gptq", zero=1), first, {"checkpoint_format": "gptq_v2"}), one)


def test_the_dtype_is_that_of_the_scales() -> None:
    members, _ = gptq(4, 32, 8, 2)

    entry = entry_of(join("gptq"), members)

    assert (entry.dtype, entry.shape) == ("float16", (8, 32))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_zero_points_that_contradict_the_version_are_refused_when_they_are_read(bits: int) -> None:
    members, _ = gptq(bits, 32, 16, 2)
    middle = 1 << bits - 1
    for stored, zero in ((middle, 1), (middle - 1, 0)):
        members["qzeros"] = down_the_columns(torch.full((16, 2), stored), bits).t().contiguous()
        entry_of(join("gptq", bits=bits, zero=zero), members)

        with pytest.raises(CheckpointError) as refused:
            values_of(join("gptq", bits=bits, zero=zero), members)

        assert refused.value.message == (
            f"every zero point is {stored}, as in symmetric GPTQ files of version {1 + zero}, which need "
            f"zero: {1 - zero}; the rule has zero: {zero}"
        )
        assert refused.value.hint == (
            f"'rules.gptq.by={{gptq: {{bits: {bits}, zero: {1 - zero}}}}}'   # where the rule is called gptq"
        )
        values_of(join("gptq", bits=bits, zero=1 - zero), members)


@pytest.mark.parametrize("index", [-1, 2, 1 << 30])
def test_an_index_out_of_range_is_refused(index: int) -> None:
    members, _ = gptq(4, 32, 8, 2)
    members["g_idx"][5] = index

    with pytest.raises(
        CheckpointError, match=r"g_idx of 32 rows has groups from -?\d+ to \d+, outside the 2 that have"
    ):
        values_of(join("gptq"), members)


def changed(members: dict[str, Tensor], **changes: Tensor) -> dict[str, Tensor]:
    return {**members, **changes}


FOUR = gptq(4, 32, 8, 2)[0]
GPTQ_FAULTS: dict[str, tuple[dict[str, Tensor], str]] = {
    "bits of another number": (
        gptq(8, 32, 8, 2)[0],
        r"qweight \[8, 8\], qzeros \[2, 2\], scales \[2, 8\], g_idx \[32\]: expected .* for 4 bits",
    ),
    "columns that differ": (changed(FOUR, scales=halves(2, 9)), r"scales \[2, 9\], g_idx \[32\]: expected qweight"),
    "groups that differ": (changed(FOUR, scales=halves(3, 8)), r"scales \[3, 8\], g_idx \[32\]: expected qweight"),
    "a short index": (changed(FOUR, g_idx=torch.zeros(31, dtype=torch.int32)), r"g_idx \[31\]: expected g_idx \[32\]"),
    "a vector": (changed(FOUR, qweight=torch.zeros(8, dtype=torch.int32)), r"qweight \[8\], .*: expected matrices"),
    "floats": (changed(FOUR, qweight=halves(4, 8)), r"qweight is float16, expected int32"),
    "scales of integers": (changed(FOUR, scales=numbers(4, 2, 8)), r"scales is int64, expected float16 or"),
    "more groups than rows": (
        changed(FOUR, qzeros=numbers(9, 64, 1).int(), scales=halves(64, 8)),
        r"expected g_idx \[32\], for at most as many groups",
    ),
    "no groups": (changed(FOUR, qzeros=numbers(9, 0, 1).int(), scales=halves(0, 8)), r"scales \[0, 8\]"),
}


@pytest.mark.parametrize("name", GPTQ_FAULTS)
def test_what_gptq_cannot_be_is_refused_with_the_shapes(name: str) -> None:
    members, message = GPTQ_FAULTS[name]

    with pytest.raises(Unfit, match=message):
        entry_of(join("gptq"), members)


@pytest.mark.parametrize("bits", [1, 9, "4", True, None, 4.0, [4], 10**30])
def test_bits_of_a_config_may_be_anything(bits: object) -> None:
    with pytest.raises(Unfit, match=r"config.json has bits: .*, expected a number from 2 to 8"):
        entry_of(join("gptq"), FOUR, {"bits": bits})


@pytest.mark.parametrize("size", [-1, 0, True, "128", 10**30, None, 7])
def test_a_group_size_of_a_config_that_does_not_fit_is_not_used(size: object) -> None:
    members, weight = gptq(4, 32, 8, 2)
    del members["g_idx"]

    assert torch.equal(values_of(join("gptq"), members, {"group_size": size}), weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "'by.gptq.bits' is 1, expected a number from 2 to 8"),
        ({"bits": "4"}, "'by.gptq.bits' is 4, expected a number"),
        ({"bits": True}, "'by.gptq.bits' is True, expected a number"),
        ({"zero": 2}, "'by.gptq.zero' is 2, expected 1, or 0 for version 2 of the format"),
        ({"zero": False}, "'by.gptq.zero' is False, expected 1, or 0"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        join("gptq", **options)


AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The column that each nibble of a word holds, from the lowest on, as AutoAWQ packs them."""


def awq_words(codes: Tensor) -> Tensor:
    words = codes.reshape(len(codes), -1, 8).tolist()
    rows = [[sum(word[column] << 4 * at for at, column in enumerate(AWQ_ORDER)) for word in row] for row in words]
    return signed(rows)


def awq(rows: int, out: int, groups: int) -> tuple[dict[str, Tensor], Tensor]:
    codes, zeros, scales = numbers(16, rows, out), numbers(16, groups, out), halves(groups, out)
    weight = torch.empty(out, rows)
    for row in range(rows):
        for column in range(out):
            at = row // (rows // groups)
            weight[column, row] = (int(codes[row, column]) - int(zeros[at, column])) * float(scales[at, column])
    return {"qweight": awq_words(codes), "qzeros": awq_words(zeros), "scales": scales}, weight


@pytest.mark.parametrize(("rows", "out", "groups"), [(8, 8, 1), (6, 24, 3), (128, 16, 2), (5, 8, 5)])
def test_awq(rows: int, out: int, groups: int) -> None:
    members, weight = awq(rows, out, groups)

    entry = entry_of(join("awq"), members, {"version": "GEMM", "bits": 4})

    assert (entry.dtype, entry.shape) == ("float16", (out, rows))
    assert torch.equal(values_of(join("awq"), members), weight)


def test_weights_of_many_chunks_are_dequantized_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.formats.formulas.packed._CHUNK", 100)
    for kind, (members, weight) in {"awq": awq(12, 24, 3), "gptq": gptq(4, 64, 8, 4, act_order=True)}.items():
        assert torch.equal(values_of(join(kind), members), weight)


AWQ_FAULTS: dict[str, tuple[dict[str, Tensor], str]] = {
    "GPTQ": (
        FOUR,
        r"qweight \[4, 8\], qzeros \[2, 1\], scales \[2, 8\], g_idx \[32\]: expected qweight \[in, out",
    ),
    "unequal groups": (changed(awq(6, 8, 3)[0], qweight=numbers(9, 7, 1).int()), r"qweight \[7, 1\]"),
    "no groups": (changed(awq(6, 8, 3)[0], qzeros=numbers(9, 0, 1).int(), scales=halves(0, 8)), r"scales \[0, 8\]"),
    "other columns": (changed(awq(6, 8, 3)[0], scales=halves(3, 9)), r"scales \[3, 9\]"),
    "a scalar": (changed(awq(6, 8, 3)[0], qweight=numbers(9).int()), r"qweight \[\]"),
    "words of 16 bits": (changed(awq(6, 8, 3)[0], qweight=numbers(9, 6, 1).short()), r"qweight is int16"),
}


@pytest.mark.parametrize("name", AWQ_FAULTS)
def test_what_awq_cannot_be_is_refused_with_the_shapes(name: str) -> None:
    members, message = AWQ_FAULTS[name]

    with pytest.raises(Unfit, match=message):
        entry_of(join("awq"), members)


@pytest.mark.parametrize("config", [{"version": "gemv"}, {"version": "marlin"}, {"bits": 8}, {"version": 7}])
def test_other_layouts_of_awq_are_refused_by_name(config: dict[str, Any]) -> None:
    with pytest.raises(Unfit, match=r"config.json has version: \w+, bits: \d, expected version: gemm, bits: 4"):
        entry_of(join("awq"), awq(6, 8, 3)[0], config)
