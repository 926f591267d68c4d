"""Dequantizers of fp8, MXFP4 and bitsandbytes, compared with the libraries that write such files."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loader.errors import CheckpointError
from loader.formats.formulas.schemes import Dequantized
from loader.keys.rules.joins import JOINS
from loader.keys.rules.tensors import Unfit
from tests.keys.rules.dequantizing import entry_of, join, values_of
from tests.laws import examples

FLOAT8 = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(math.prod(shape)))


def float8(*shape: int, dtype: torch.dtype = torch.float8_e4m3fn) -> Tensor:
    return random(*shape).to(dtype)


def by_element(weight: Tensor, scale: Tensor, rows: int, columns: int) -> Tensor:
    """Weight · scale in blocks, one element at a time."""
    made = torch.empty(weight.shape, dtype=torch.float32)
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            made[i, j] = weight[i, j].float() * scale[i // rows, j // columns].float()
    return made


@pytest.mark.parametrize("dtype", FLOAT8)
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_scale_is_for_all_elements(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    weight, scale = float8(4, 6, dtype=dtype), torch.full(shape, 0.37)

    assert torch.equal(values_of(join("fp8"), {"weight": weight, "scale": scale}), weight.float() * 0.37)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_scale_by_row(shape: tuple[int, ...]) -> None:
    weight, scale = float8(4, 6), random(*shape)

    made = values_of(join("fp8"), {"weight": weight, "scale": scale})

    assert torch.equal(made, weight.float() * scale.reshape(4, 1))


@pytest.mark.parametrize("shape", [(256, 128), (200, 300), (130, 1), (127, 129), (1, 257), (128, 128)])
def test_blocks_are_128_by_128_and_the_last_may_be_short(shape: tuple[int, int]) -> None:
    weight = float8(*shape)
    scale = random(-(-shape[0] // 128), -(-shape[1] // 128)).abs() + 0.5

    assert torch.equal(values_of(join("fp8"), {"weight": weight, "scale": scale}), by_element(weight, scale, 128, 128))


def test_blocks_of_another_size_are_those_of_the_option_or_the_folders_config() -> None:
    weight, scale = float8(50, 70), random(3, 3)
    by_20_and_32 = by_element(weight, scale, 20, 32)
    members = {"weight": weight, "scale": scale}

    assert torch.equal(values_of(join("fp8", block=[20, 32]), members), by_20_and_32)
    assert torch.equal(values_of(join("fp8"), members, {"weight_block_size": [20, 32]}), by_20_and_32)
    assert torch.equal(values_of(join("fp8", block=[20, 32]), members, {"weight_block_size": [128, 128]}), by_20_and_32)


def test_equal_blocks_of_a_power_of_two_need_no_option() -> None:
    weight, scale = float8(4, 96), random(4, 3)

    assert torch.equal(values_of(join("fp8"), {"weight": weight, "scale": scale}), by_element(weight, scale, 1, 32))


def test_blocks_that_two_sizes_would_fit_are_refused() -> None:
    with pytest.raises(Unfit, match=r"weight \[300, 10\], scale \[5, 1\]: expected one scale, one by row, or one for"):
        entry_of(join("fp8"), {"weight": float8(300, 10), "scale": random(5, 1)})


def test_stacked_experts_have_scales_of_their_own() -> None:
    weight = float8(3, 130, 140)
    blocks, rows, whole = random(3, 2, 2), random(3, 130, 1), random(3)

    each = [by_element(weight[at], blocks[at], 128, 128) for at in range(3)]
    assert torch.equal(values_of(join("fp8"), {"weight": weight, "scale": blocks}), torch.stack(each))
    assert torch.equal(values_of(join("fp8"), {"weight": weight, "scale": rows}), weight.float() * rows)
    by_expert = weight.float() * whole.reshape(3, 1, 1)
    assert torch.equal(values_of(join("fp8"), {"weight": weight, "scale": whole}), by_expert)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e8m0fnu])
def test_scales_of_bytes_are_exponents(dtype: torch.dtype) -> None:
    weight = float8(6, 6)
    exponents = torch.tensor([[0], [1], [126], [127], [128], [254]], dtype=torch.uint8)
    powers = torch.tensor([2.0 ** (int(one) - 127) for one in exponents.flatten()], dtype=torch.float64).float()

    made = values_of(join("fp8"), {"weight": weight, "scale": exponents.view(dtype)})

    assert torch.equal(made, weight.float() * powers[:, None])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float8_e8m0fnu])
def test_the_last_exponent_is_not_finite(dtype: torch.dtype) -> None:
    made = values_of(join("fp8"), {"weight": float8(1, 4), "scale": torch.tensor([255], dtype=torch.uint8).view(dtype)})

    assert not made.isfinite().any()


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [
        (torch.float32, "float32"), (torch.bfloat16, "bfloat16"), (torch.float16, "float16"),
        (torch.float64, "bfloat16"), (torch.uint8, "bfloat16"), (torch.float8_e8m0fnu, "bfloat16"),
    ],
)  # fmt: skip
def test_the_dtype_of_an_fp8_weight_is_that_of_its_scale_or_bfloat16(scale: torch.dtype, dtype: str) -> None:
    entry = entry_of(join("fp8"), {"weight": float8(2, 2), "scale": torch.ones(2, 1).to(scale)})

    assert entry.dtype == dtype
    assert isinstance(entry.formula, Dequantized)


def test_a_float64_scale_computes_in_float64() -> None:
    scale = torch.full((1,), 1 / 3, dtype=torch.float64)

    made = values_of(join("fp8"), {"weight": float8(2, 2), "scale": scale})

    assert torch.equal(made, float8(2, 2).double() * scale)


def test_the_scale_of_activations_changes_nothing() -> None:
    members = {"weight": float8(2, 2), "scale": torch.ones(1)}

    made = values_of(join("fp8"), {**members, "scale of activations": torch.full((1,), 7.0)})

    assert torch.equal(made, values_of(join("fp8"), members))


FP8_FAULTS: dict[str, tuple[dict[str, Tensor], str]] = {
    "floats": ({"weight": random(2, 2), "scale": random(1)}, r"weight is float32, expected float8_e4m3fn or"),
    "integers as scales": (
        {"weight": float8(2, 2), "scale": torch.ones(1, dtype=torch.int32)},
        r"scale is int32, expected float16 or",
    ),
    "scales by column": ({"weight": float8(4, 6), "scale": random(6)}, r"weight \[4, 6\], scale \[6\]: expected one"),
    "too many rows": ({"weight": float8(4, 6), "scale": random(5, 1)}, r"weight \[4, 6\], scale \[5, 1\]: expected"),
    "no scale": ({"weight": float8(4, 6), "scale": random(0)}, r"weight \[4, 6\], scale \[0\]: expected"),
    "more dims": ({"weight": float8(4, 6), "scale": random(4, 1, 1)}, r"scale \[4, 1, 1\]: expected"),
    "thirds": ({"weight": float8(6, 6), "scale": random(3)}, r"weight \[6, 6\], scale \[3\]: expected"),
    "sparse": ({"weight": float8(4, 6), "scale": random(4, 1).to_sparse()}, r"scale is sparse_coo"),
    "without data": ({"weight": float8(4, 6).to("meta"), "scale": random(4, 1)}, r"weight is strided or with"),
}


@pytest.mark.parametrize("name", FP8_FAULTS)
def test_what_an_fp8_weight_cannot_be_is_refused_with_both_shapes(name: str) -> None:
    members, message = FP8_FAULTS[name]

    with pytest.raises(Unfit, match=message):
        entry_of(join("fp8"), members)


@pytest.mark.parametrize("block", [[128], [0, 1], [1, -1], ["a", 1], "ab", [True, 1], [1.0, 1], 128])
def test_an_invalid_block_is_refused(block: Any) -> None:
    with pytest.raises(ValueError, match=r"'by.fp8.block' is .*, expected two sizes"):
        join("fp8", block=block)


@pytest.mark.slow
def test_fp8_values_are_those_of_transformers() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    theirs: Any = Fp8Dequantize(None)  # type: ignore[no-untyped-call]
    for shape, grid, dtype in [((256, 384), (2, 3), torch.float32), ((4, 64), (4, 2), torch.uint8)]:
        weight = float8(*shape)
        scale = (random(*grid).abs() * 3 + 120).to(dtype)
        entry = entry_of(join("fp8"), {"weight": weight, "scale": scale})
        made = values_of(join("fp8"), {"weight": weight, "scale": scale})

        expected = theirs._dequantize_one(weight, scale)

        assert entry.dtype == str(expected.dtype).removeprefix("torch.")
        assert torch.equal(made.to(expected.dtype), expected)


# MXFP4


def mxfp4(*shape: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "blocks": torch.randint(256, (*shape, 16), generator=generator, dtype=torch.uint8),
        "scales": torch.randint(100, 150, shape, generator=generator, dtype=torch.uint8),
    }


def test_mxfp4_by_hand() -> None:
    blocks = torch.zeros(1, 1, 1, 16, dtype=torch.uint8)
    blocks[0, 0, 0, 0] = 0x9 << 4 | 0x7  # 6, then -0.5
    scales = torch.full((1, 1, 1), 128, dtype=torch.uint8)

    made = values_of(join("mxfp4"), {"blocks": blocks, "scales": scales})

    assert made.shape == (1, 32, 1)
    assert made.flatten()[:3].tolist() == [12.0, -1.0, 0.0]


@pytest.mark.slow
def test_mxfp4_values_are_those_of_transformers() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    members = mxfp4(3, 5, 2)

    entry = entry_of(join("mxfp4"), members)

    assert (entry.dtype, entry.shape) == ("bfloat16", (3, 64, 5))
    made = values_of(join("mxfp4"), members)
    assert torch.equal(made.bfloat16(), convert_moe_packed_tensors(members["blocks"], members["scales"]))
    assert torch.equal(made.bfloat16().float(), made)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"blocks": mxfp4(1, 2, 3)["blocks"], "scales": mxfp4(1, 3, 2)["scales"]}, r"blocks \[1, 2, 3, 16\], scales"),
        ({"blocks": mxfp4(1, 2, 3)["blocks"][..., :8], "scales": mxfp4(1, 2, 3)["scales"]}, r"blocks \[1, 2, 3, 8\]"),
        ({"blocks": random(1, 2, 3, 16), "scales": mxfp4(1, 2, 3)["scales"]}, r"blocks is float32, expected uint8"),
        ({"blocks": mxfp4(3)["blocks"], "scales": mxfp4(3)["scales"]}, r"blocks \[3, 16\], scales \[3\]: expected"),
    ],
)
def test_what_mxfp4_cannot_be_is_refused(members: dict[str, Tensor], message: str) -> None:
    with pytest.raises(Unfit, match=message):
        entry_of(join("mxfp4"), members)


@pytest.mark.parametrize("shape", [(0, 2, 1), (2, 0, 1), (2, 3, 0)])
def test_mxfp4_without_elements(shape: tuple[int, ...]) -> None:
    assert values_of(join("mxfp4"), mxfp4(*shape)).shape == (shape[0], shape[2] * 32, shape[1])


# bitsandbytes


def packed(content: object) -> Tensor:
    """A record as bitsandbytes writes it."""
    return torch.tensor(list(json.dumps(content).encode()), dtype=torch.uint8)


STATE = {"quant_type": "nf4", "blocksize": 4, "dtype": "float16", "shape": [2, 5]}
NESTED = {**STATE, "nested_blocksize": 2, "nested_dtype": "float32", "nested_offset": 0.25}


def four_bits(**state: Any) -> dict[str, Tensor]:
    return {
        "weight": torch.tensor([[0x10], [0x32], [0x54], [0x76], [0x98]], dtype=torch.uint8),
        "absmax": torch.tensor([1.0, 10.0, 100.0]),
        "quant_map": torch.arange(16.0),
        "quant_state": packed({**STATE, **state}),
    }


def test_nibbles_are_high_first_and_the_last_run_may_be_short() -> None:
    entry, made = entry_of(join("bnb4"), four_bits()), values_of(join("bnb4"), four_bits())

    assert entry.dtype == "float16"
    assert made.tolist() == [[1.0, 0.0, 3.0, 2.0, 50.0], [40.0, 70.0, 60.0, 900.0, 800.0]]


def test_scales_of_scales() -> None:
    members = {
        **four_bits(),
        "absmax": torch.tensor([3, 5, 7], dtype=torch.uint8),
        "quant_state": packed(NESTED),
        "nested_absmax": torch.tensor([2.0, 4.0]),
        "nested_quant_map": torch.arange(256.0),
    }

    made = values_of(join("bnb4"), members)

    scales = [3 * 2 + 0.25] * 4 + [5 * 2 + 0.25] * 4 + [7 * 4 + 0.25] * 2
    codes = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8]
    assert made.flatten().tolist() == [code * scale for code, scale in zip(codes, scales, strict=True)]


def test_an_odd_number_of_elements_leaves_a_nibble() -> None:
    members = {**four_bits(shape=[3, 3])}

    assert values_of(join("bnb4"), members).flatten().tolist() == [1.0, 0.0, 3.0, 2.0, 50.0, 40.0, 70.0, 60.0, 900.0]


def test_codes_may_be_stored_in_another_dtype() -> None:
    members = four_bits(shape=[8], blocksize=8)
    members |= {"weight": members["weight"][:4].flatten().view(torch.float16).reshape(2, 1), "absmax": torch.ones(1)}

    assert values_of(join("bnb4"), members).tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_4_bit_values_are_those_of_bitsandbytes(kind: str, double: bool, dtype: torch.dtype) -> None:
    from bitsandbytes import functional

    for shape, blocksize in [((48, 64), 64), ((6, 50), 64), ((300, 64), 64), ((3, 7), 128)]:
        weight = (random(*shape) * 0.1).to(dtype)
        quantized, state = functional.quantize_4bit(
            weight, blocksize=blocksize, compress_statistics=double, quant_type=kind
        )
        written = {name.rpartition(".")[2]: value for name, value in state.as_dict(packed=True).items()}
        written["quant_state"] = written.pop(f"bitsandbytes__{kind}")

        entry = entry_of(join("bnb4"), {"weight": quantized, **written})
        made = values_of(join("bnb4"), {"weight": quantized, **written})

        assert entry.dtype == str(dtype).removeprefix("torch.")
        assert torch.equal(made.to(dtype), functional.dequantize_4bit(quantized, state))


@pytest.mark.slow
def test_int8_values_are_those_of_bitsandbytes() -> None:
    from bitsandbytes import functional

    weight = random(12, 20).half()
    codes, scales, _ = functional.int8_vectorwise_quant(weight)

    made = values_of(join("bnb8"), {"weight": codes, "SCB": scales})

    assert torch.equal(made, functional.int8_vectorwise_dequant(codes, scales))


def test_int8_by_hand() -> None:
    codes = torch.tensor([[127, -127], [64, 0]], dtype=torch.int8)
    members = {"weight": codes, "SCB": torch.tensor([2.0, 127.0]), "weight_format": torch.tensor(0, dtype=torch.uint8)}

    made = values_of(join("bnb8"), members)

    assert torch.allclose(made, torch.tensor([[2.0, -2.0], [64.0, 0.0]]), rtol=1e-6)
    assert entry_of(join("bnb8"), members).dtype == "float32"


def test_int8_in_a_layout_of_a_gpu_is_refused_when_it_is_read() -> None:
    members = {
        "weight": torch.ones(2, 2, dtype=torch.int8),
        "SCB": torch.ones(2),
        "weight_format": torch.tensor(2, dtype=torch.uint8),
    }

    with pytest.raises(CheckpointError, match="the int8 weights lie in layout 2 of bitsandbytes"):
        values_of(join("bnb8"), members)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"weight": torch.ones(2, 3, dtype=torch.int8), "SCB": torch.ones(3)}, r"weight \[2, 3\], SCB \[3\]: expected"),
        ({"weight": torch.ones(2, dtype=torch.int8), "SCB": torch.ones(2)}, r"weight \[2\], SCB \[2\]: expected"),
        ({"weight": torch.ones(2, 3), "SCB": torch.ones(2)}, r"weight is float32, expected int8"),
    ],
)
def test_what_int8_cannot_be_is_refused(members: dict[str, Tensor], message: str) -> None:
    with pytest.raises(Unfit, match=message):
        entry_of(join("bnb8"), members)


HOSTILE: dict[str, tuple[Any, str]] = {
    "no JSON": (b"\x00\x01", r"quant_state is not JSON"),
    "a deep list": (b"[" * 10_000, r"quant_state is not JSON"),
    "no mapping": (b"[1]", r"quant_state is not a mapping"),
    "a name twice": (b'{"shape": [1], "shape": [2]}', r"quant_state names 'shape' twice"),
    "larger than allowed": (b" " * 20_000, r"quant_state is uint8 of 20,000 bytes \(expected uint8 of at most 16,384"),
    "no shape": ({**STATE, "shape": None}, r"has shape: None, expected a list of sizes"),
    "a shape of text": ({**STATE, "shape": ["2", 5]}, r"has shape: .*, expected a list of sizes"),
    "a shape of booleans": ({**STATE, "shape": [True, 10]}, r"has shape: .*, expected a list of sizes"),
    "a negative shape": ({**STATE, "shape": [-2, -5]}, r"has shape: .*, expected sizes of a tensor"),
    "a huge shape": ({**STATE, "shape": [1 << 62, 1 << 62]}, r"has shape: .*, expected sizes of a tensor"),
    "a shape that is not the weight's": ({**STATE, "shape": [1 << 40, 7]}, r"weight has 5 bytes, expected 3,8"),
    "many dims": ({**STATE, "shape": [1] * 9}, r"has shape: .*, expected a list of sizes"),
    "a dtype that torch lacks": ({**STATE, "dtype": "float128"}, r"has dtype: float128, expected float16 or bfloat16"),
    "a dtype of integers": ({**STATE, "dtype": "int8"}, r"has dtype: int8, expected"),
    "a dtype that is a list": ({**STATE, "dtype": []}, r"has dtype: \[\], expected"),
    "no blocksize": ({**STATE, "blocksize": None}, r"has blocksize: None, expected a positive number of elements"),
    "a blocksize of 0": ({**STATE, "blocksize": 0}, r"has blocksize: 0, expected"),
    "a negative blocksize": ({**STATE, "blocksize": -64}, r"has blocksize: -64, expected"),
    "a fraction": ({**STATE, "blocksize": 0.5}, r"has blocksize: 0.5, expected"),
    "a blocksize without end": (b'{"shape": [2, 5], "dtype": "float16", "blocksize": 1e400}', "has blocksize: inf"),
    "a blocksize of many digits": (
        b'{"shape": [2, 5], "dtype": "float16", "blocksize": ' + b"9" * 5000 + b"}",
        r"quant_state is not JSON",
    ),
    "a blocksize that is not the scales'": ({**STATE, "blocksize": 5}, r"absmax has 3 elements, expected 2"),
    "a huge blocksize": ({**STATE, "blocksize": (1 << 31) - 1}, r"absmax has 3 elements, expected 1"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_record_is_refused_before_anything_is_allocated(name: str) -> None:
    content, message = HOSTILE[name]
    state = torch.tensor(list(content), dtype=torch.uint8) if isinstance(content, bytes) else packed(content)

    with pytest.raises(Unfit, match=message):
        entry_of(join("bnb4"), {**four_bits(), "quant_state": state})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nested_offset": None}, "has nested_offset: None, expected a number"),
        ({"nested_offset": 1e39}, r"has nested_offset: 1e\+39, expected a number"),
        ({"nested_offset": 10**400}, "has nested_offset: 1000"),
        ({"nested_offset": True}, "has nested_offset: True, expected a number"),
        ({"nested_blocksize": 0}, "has nested_blocksize: 0, expected a positive"),
        ({"nested_blocksize": 3}, "nested_absmax has 2 elements, expected 1"),
    ],
)
def test_a_hostile_record_of_nested_scales_is_refused(change: dict[str, Any], message: str) -> None:
    members = {
        **four_bits(),
        "absmax": torch.tensor([3, 5, 7], dtype=torch.uint8),
        "quant_state": packed({**NESTED, **change}),
        "nested_absmax": torch.ones(2),
        "nested_quant_map": torch.ones(256),
    }

    with pytest.raises(Unfit, match=message):
        entry_of(join("bnb4"), members)


def test_tables_of_other_sizes_are_refused() -> None:
    with pytest.raises(Unfit, match="quant_map has 15 elements, expected 16"):
        entry_of(join("bnb4"), {**four_bits(), "quant_map": torch.ones(15)})
    nested = {**four_bits(), "absmax": torch.ones(3, dtype=torch.uint8), "quant_state": packed(NESTED)}
    with pytest.raises(Unfit, match="nested_quant_map has 0 elements, expected 256"):
        entry_of(join("bnb4"), {**nested, "nested_absmax": torch.ones(2)})


def test_scales_that_are_not_numbers_stay_so_and_are_not_hidden() -> None:
    made = values_of(join("bnb4"), {**four_bits(), "absmax": torch.tensor([math.nan, math.inf, 1.0])})

    assert made.flatten()[:4].isnan().all()
    assert not made.flatten()[4:8].isfinite().any()


@settings(max_examples=examples(60), deadline=None)
@given(
    rows=st.integers(1, 300),
    columns=st.integers(1, 300),
    blocks=st.tuples(st.integers(1, 140), st.integers(1, 140)),
)
def test_blocks_of_any_size_scale_every_element_once(rows: int, columns: int, blocks: tuple[int, int]) -> None:
    counts = -(-rows // blocks[0]), -(-columns // blocks[1])
    scale = torch.arange(1.0, 1 + math.prod(counts)).reshape(counts)

    made = values_of(
        join("fp8", block=list(blocks)), {"weight": torch.ones(rows, columns).to(torch.float8_e4m3fn), "scale": scale}
    )

    whole = scale.repeat_interleave(blocks[0], 0)[:rows].repeat_interleave(blocks[1], 1)[:, :columns]
    assert torch.equal(made, whole)


def test_roles_that_a_group_may_lack_come_last() -> None:
    for kind in JOINS.values():
        needed = [role for role in kind.roles if role not in kind.optional]
        assert list(kind.roles[: len(needed)]) == needed


def test_a_scale_of_one_byte_may_be_a_scalar() -> None:
    members = {"weight": float8(2, 2), "scale": torch.tensor(128, dtype=torch.uint8)}

    assert torch.equal(values_of(join("fp8"), members), members["weight"].float() * 2)
