"""Dequantizers of any tensors at all: a refusal, or values of the promised shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loader.errors import CheckpointError
from loader.keys.rules.tensors import Unfit
from tests.keys.rules.dequantizing import entry_of, join, values_of
from tests.keys.rules.test_quantized import packed
from tests.laws import examples

DTYPES = [
    torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.bool, torch.float8_e4m3fn, torch.float8_e8m0fnu, torch.complex64,
]  # fmt: skip
LIKELY = {
    "weight": [torch.float8_e4m3fn, torch.int8, torch.uint8], "scale": [torch.float32, torch.uint8],
    "blocks": [torch.uint8], "scales": [torch.uint8, torch.float16], "qweight": [torch.int32], "qzeros": [torch.int32],
    "g_idx": [torch.int32], "SCB": [torch.float32], "absmax": [torch.float32, torch.uint8],
    "quant_map": [torch.float32],
}  # fmt: skip
SIZES = st.sampled_from([0, 1, 2, 3, 4, 8, 16, 32, 64])


@st.composite
def tensors(draw: st.DrawFn, role: str) -> Tensor:
    if role == "quant_state":
        content = {
            "shape": draw(st.lists(SIZES, max_size=3)),
            "dtype": draw(st.sampled_from(["float16", "float32"])),
            "blocksize": draw(st.sampled_from([0, 1, 4, 64, 1 << 30])),
            "nested_blocksize": draw(st.sampled_from([0, 1, 256])),
            "nested_offset": draw(st.floats()),
        }
        return packed(content)
    shape = draw(st.lists(SIZES, max_size=4).filter(lambda sizes: torch.Size(sizes).numel() <= 1 << 14))
    if role in {"quant_map", "nested_quant_map"} and draw(st.booleans()):
        shape = [16 if role == "quant_map" else 256]
    dtype = draw(st.sampled_from(LIKELY.get(role, DTYPES) if draw(st.integers(0, 4)) else DTYPES))
    count = torch.Size(shape).numel() * dtype.itemsize
    raw = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    if dtype == torch.bool:
        raw %= 2
    return raw.view(dtype).reshape(shape)


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), name=st.sampled_from(["fp8", "mxfp4", "bnb4", "bnb8", "gptq", "awq"]))
def test_any_tensors_are_refused_or_dequantized(data: st.DataObject, name: str) -> None:
    kind = join(name)
    present = [role for role in kind.roles if role not in kind.optional or data.draw(st.booleans())]
    members = {role: data.draw(tensors(role)) for role in present}

    try:
        entry = entry_of(kind, members)
    except Unfit:
        return
    if entry.numel > 1 << 20:
        pytest.fail(f"{entry.shape} of {sum(value.nbytes for value in members.values())} bytes")
    try:
        made = values_of(kind, members)
    except CheckpointError:
        return
    assert tuple(made.shape) == entry.shape
