"""Dequantizes weights with a table of codes, or with scales by blocks: fp8, MXFP4 and bitsandbytes.

Guarantees: as in `compute`; next to the result and its inputs, memory holds one chunk of a fixed size, or one expert.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from ...errors import CheckpointError
from ...text.lines import Fix
from .arithmetic import wide
from .schemes import BlockScaled, Bnb4, Bnb8, Mxfp4, Nested

Inputs = Sequence[Callable[[], torch.Tensor]]
_CHUNK = 1 << 20
"""Bytes of codes that are looked up at a time."""
_OVER_127 = 7.874015718698502e-3
"""1 / 127 as bitsandbytes writes it."""
_FLOAT4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The values of float4 e2m1, by code."""


def block_scaled(formula: BlockScaled, inputs: Inputs) -> torch.Tensor:
    """Weight · scale, as fine-grained fp8 of DeepSeek and the float schemes of compressed-tensors define it."""
    weight, scale = inputs[0](), numbers(inputs[1]())
    values = weight.to(scale.dtype)
    if not formula.blocks:
        return values.mul_(scale.reshape(()))
    for part, theirs in _runs(values.shape, formula.blocks):
        box, factors = values, scale
        for dim, ((start, count, size), at) in reversed(list(enumerate(zip(part, theirs, strict=True)))):
            box = box.narrow(dim, start, count * size)
            box = box.view(*box.shape[:dim], count, size, *box.shape[dim + 1 :])
            factors = factors.narrow(dim, at, count).unsqueeze(dim + 1)
        box.mul_(factors)
    return values


_Run = tuple[int, int, int]
"""First index, number of blocks, size of each."""


def _runs(shape: Sequence[int], blocks: Sequence[int]) -> Iterator[tuple[tuple[_Run, ...], tuple[int, ...]]]:
    """Yields boxes of equal blocks, first the whole ones, and the index of the first block of each."""
    each = []
    for size, block in zip(shape, blocks, strict=True):
        full, rest = divmod(size, block)
        runs = [((0, full, block), 0), ((full * block, 1, rest), full)]
        each.append([(run, at) for run, at in runs if run[1] * run[2]])
    for chosen in itertools.product(*each):
        yield tuple(run for run, _ in chosen), tuple(at for _, at in chosen)


def numbers(scale: torch.Tensor) -> torch.Tensor:
    """Returns scales in the dtype of arithmetic; bytes are exponents."""
    if scale.dtype != torch.uint8:
        return wide(scale)
    powers = torch.tensor([2.0 ** (at - 127) for at in range(256)], dtype=torch.float64).to(torch.float32)
    return _looked_up(powers, scale)


def _looked_up(table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """The rows of a table, one for each code; chunk by chunk, since torch needs wider indices than codes."""
    flat = codes.contiguous().view(torch.uint8).reshape(-1)
    found = torch.empty(flat.numel(), *table.shape[1:], dtype=table.dtype)
    for start in range(0, flat.numel(), _CHUNK):
        chunk = flat[start : start + _CHUNK].to(torch.int32)
        torch.index_select(table, 0, chunk, out=found[start : start + chunk.numel()])
    return found.reshape(codes.shape) if table.dim() == 1 else found


def _pairs(table: torch.Tensor, *, low_first: bool) -> torch.Tensor:
    """The two values of every byte of two nibbles, ``[256, 2]``."""
    high, low = table.repeat_interleave(16), table.repeat(16)
    return torch.stack((low, high) if low_first else (high, low), dim=1)


def mxfp4(_formula: Mxfp4, inputs: Inputs) -> torch.Tensor:
    """Values of gpt-oss's experts, as `convert_moe_packed_tensors` of transformers computes them."""
    blocks, scales = inputs[0](), inputs[1]()
    *experts, rows, groups, size = blocks.shape
    table = _pairs(torch.tensor(_FLOAT4), low_first=True)
    values = torch.empty(count := math.prod(experts), groups * size * 2, rows)
    codes = blocks.reshape(count, rows, groups, size)
    exponents = scales.reshape(count, rows, groups)
    for at, made in enumerate(values):
        expert = _looked_up(table, codes[at]).view(rows, groups, size * 2)
        expert *= numbers(exponents[at].contiguous()).unsqueeze(-1)
        made.copy_(expert.view(rows, groups * size * 2).t())
    return values


def bnb4(formula: Bnb4, inputs: Inputs) -> torch.Tensor:
    """Values of bitsandbytes' 4-bit tensors, as its `dequantize_4bit` computes them; flattened."""
    codes, scales, table = (read() for read in inputs[:3])
    if formula.nested is not None:
        scales = _denested(formula.nested, scales, *(read() for read in inputs[3:]))
    values = _looked_up(_pairs(wide(table).reshape(-1), low_first=False), codes).reshape(-1)[: formula.numel]
    return _by_runs(values, wide(scales).reshape(-1), formula.blocksize)


def _denested(nested: Nested, codes: torch.Tensor, scales: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    values = _looked_up(wide(table).reshape(-1), codes).reshape(-1)
    return _by_runs(values, wide(scales).reshape(-1), nested.blocksize).add_(nested.offset)


def _by_runs(values: torch.Tensor, scales: torch.Tensor, size: int) -> torch.Tensor:
    """Multiplies each run of a vector by its scale, in place; the last run may be short."""
    full = values.numel() // size
    if full:
        values[: full * size].view(full, size).mul_(scales[:full, None])
    if full * size < values.numel():
        values[full * size :].mul_(scales[full])
    return values


def bnb8(_formula: Bnb8, inputs: Inputs) -> torch.Tensor:
    """Values of bitsandbytes' int8 weights, as its `int8_vectorwise_dequant` computes them."""
    if len(inputs) > 2 and (number := int(inputs[2]().reshape(-1)[0])) != 0:
        raise CheckpointError(
            f"the int8 weights lie in layout {number} of bitsandbytes (expected rows, 0)",
            Fix("model.dequantize().save_pretrained('FOLDER')", "in transformers, writes plain weights"),
        )
    scale = wide(inputs[1]()).reshape(-1, 1)
    return inputs[0]().to(scale.dtype).mul_(scale).mul_(_OVER_127)
