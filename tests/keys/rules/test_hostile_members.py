"""Dequantizers of any tensors at all: a refusal, or values of the promised shape."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loader.errors import CheckpointError
from loader.keys.rules.tensors import Unfit
from tests.keys.rules.dequantizing import entry_of, join, values_of
from tests.keys.rules.test_packed import awq, gptq
from tests.keys.rules.test_quantized import STATE, float8, four_bits, mxfp4, packed, random
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


NESTED_STATE = {**STATE, "nested_blocksize": 2, "nested_offset": 0.25}
VALID: dict[str, dict[str, Tensor]] = {
    "fp8": {"weight": float8(4, 6), "scale": random(4, 1)},
    "mxfp4": mxfp4(2, 3, 1),
    "bnb4": {
        **four_bits(),
        "absmax": torch.ones(3, dtype=torch.uint8),
        "quant_state": packed(NESTED_STATE),
        "nested_absmax": torch.ones(2),
        "nested_quant_map": torch.ones(256),
    },
    "bnb8": {"weight": torch.ones(2, 3, dtype=torch.int8), "SCB": torch.ones(2)},
    "gptq": gptq(4, 32, 8, 2)[0],
    "awq": awq(6, 8, 3)[0],
}


@settings(max_examples=examples(150), deadline=None)
@given(data=st.data(), name=st.sampled_from(list(VALID)))
def test_any_tensors_are_refused_or_dequantized(data: st.DataObject, name: str) -> None:
    kind, members = join(name), dict(VALID[name])
    for role in data.draw(st.lists(st.sampled_from(kind.roles), max_size=2)):
        if role not in kind.optional or data.draw(st.booleans()):
            members[role] = data.draw(tensors(role))
        else:
            members.pop(role, None)
    members = {role: members[role] for role in kind.roles if role in members}

    try:
        entry = entry_of(kind, members)
    except Unfit:
        return
    assert entry.numel * 4 <= 64 * sum(value.nbytes for value in members.values())
    try:
        made = values_of(kind, members)
    except CheckpointError:
        return
    assert tuple(made.shape) == entry.shape
