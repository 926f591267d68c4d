"""Dequantizes weights that are packed into 32-bit integers: GPTQ and AWQ.

Guarantees: as in `compute`; an index outside the groups is refused; next to the result and its inputs, memory holds the
zero points and scales and one chunk of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ...errors import CheckpointError
from ...text.lines import Fix, override, typed
from .arithmetic import wide
from .schemes import Awq, Gptq

Inputs = Sequence[Callable[[], torch.Tensor]]
_WORD = 32
_CHUNK = 1 << 20
"""Elements that are unpacked at a time."""
_AWQ_NIBBLES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which nibble of a word holds each of the 8 columns."""


def gptq(formula: Gptq, inputs: Inputs) -> torch.Tensor:
    """(q - (z + zero)) · s by groups of rows, as AutoGPTQ and its exllama kernels define it; ``[out, in]``.

    Version 1 stores a zero point less 1 in its own bits: 0 is stored as the highest number, to which 1 is added in as
    many bits.
    """
    words, zeros, scales = inputs[0](), inputs[1](), wide(inputs[2]())
    stored = _unpacked(zeros.t(), formula.bits).t()
    _compare(formula, stored)
    zeros = ((stored + formula.zero) & ((1 << formula.bits) - 1)).to(scales.dtype)
    lanes = math.lcm(_WORD, formula.bits) // formula.bits
    per = lanes * formula.bits // _WORD
    rows = words.shape[0] // per * lanes
    group = _groups(inputs[3](), rows, len(scales)) if len(inputs) > 3 else torch.arange(rows) // formula.group
    values = torch.empty(scales.shape[1], rows, dtype=scales.dtype)
    step = max(1, _CHUNK // max(1, lanes * scales.shape[1]))
    for start in range(0, words.shape[0] // per, step):
        codes = _unpacked(words[start * per : (start + step) * per], formula.bits)
        at = slice(start * lanes, start * lanes + codes.shape[0])
        values[:, at] = (codes.to(scales.dtype).sub_(zeros[group[at]]).mul_(scales[group[at]])).t()
    return values


def awq(_formula: Awq, inputs: Inputs) -> torch.Tensor:
    """(q - z) · s by groups of rows, as AutoAWQ's `gemm` layout defines it; ``[out, in]``."""
    words, zeros, scales = inputs[0](), inputs[1](), wide(inputs[2]())
    zeros = _columns(zeros).to(scales.dtype)
    rows, out = words.shape[0], scales.shape[1]
    group = torch.arange(rows) // max(1, rows // max(1, len(scales)))
    values = torch.empty(out, rows, dtype=scales.dtype)
    step = max(1, _CHUNK // max(1, out))
    for start in range(0, rows, step):
        at = slice(start, min(rows, start + step))
        values[:, at] = (_columns(words[at]).to(scales.dtype).sub_(zeros[group[at]]).mul_(scales[group[at]])).t()
    return values


def _columns(words: torch.Tensor) -> torch.Tensor:
    """Unpacks the columns of AWQ: ``[n, m]`` words to ``[n, 8 m]`` numbers."""
    nibbles = [(words >> 4 * at) & 15 for at in _AWQ_NIBBLES]
    return torch.stack(nibbles, dim=-1).reshape(words.shape[0], -1)


def _unpacked(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Unpacks columns that are streams of bits, the lowest first: ``[n, m]`` to ``[n · 32 / bits, m]``."""
    lanes = math.lcm(_WORD, bits) // bits
    per = lanes * bits // _WORD
    runs = words.reshape(-1, per, words.shape[1])
    mask = (1 << bits) - 1
    found = torch.empty(runs.shape[0], lanes, runs.shape[2], dtype=torch.int32)
    for lane in range(lanes):
        word, shift = divmod(lane * bits, _WORD)
        low = _WORD - shift
        # A shift of a signed number fills up with its sign: only the bits of this word are kept.
        number = (runs[:, word] >> shift) & (mask if low >= bits else (1 << low) - 1)
        if low < bits:
            number |= (runs[:, word + 1] << low) & mask
        found[:, lane] = number
    return found.reshape(-1, runs.shape[2])


def _groups(index: torch.Tensor, rows: int, groups: int) -> torch.Tensor:
    found = index.reshape(-1).to(torch.int64)
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < groups:
        raise CheckpointError(
            f"g_idx of {rows:,} rows has groups from {int(found.min())} to {int(found.max())}, outside the {groups:,} "
            "that have scales",
            Fix(note="do not load this file; download it again"),
        )
    return found


def _compare(formula: Gptq, zeros: torch.Tensor) -> None:
    """Refuses zero points that are those of a symmetric file of the other version of the format."""
    middle = 1 << (formula.bits - 1)
    other = 1 - formula.zero
    if zeros.numel() and bool((zeros == middle - other).all()):
        raise CheckpointError(
            f"every zero point is {middle - other}, as in symmetric GPTQ files of version {2 - other}, which need "
            f"zero: {other}; the rule has zero: {formula.zero}",
            typed(
                override("rules.gptq.by", {"gptq": {"bits": formula.bits, "zero": other}}),
                note="where the rule is called gptq",
            ),
        )
