"""The formulas of quantized formats, as plain data.

Guarantees: as in `records`; whatever a record holds has been compared with the shapes of its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .records import Formula


@dataclass(frozen=True, slots=True)
class Dequantized(Formula):
    """The numbers that a quantized tensor's codes and scales stand for."""


@dataclass(frozen=True, slots=True)
class BlockScaled(Dequantized):
    """Weight · scale, one scale for each block; inputs: weight, scale.

    A scale of bytes is an exponent b and stands for 2^(b - 127).
    """

    blocks: tuple[int, ...]
    """The size of a block along each dim of the weight; the last one may be short. Empty for a single scale."""


@dataclass(frozen=True, slots=True)
class Mxfp4(Dequantized):
    """Packed float4 · 2^(b - 127) for each 32 elements, the last two dims swapped; inputs: blocks, scales."""


@dataclass(frozen=True, slots=True)
class Nested:
    """How bitsandbytes quantized the scales themselves (double quantization)."""

    blocksize: int
    offset: float


@dataclass(frozen=True, slots=True)
class Bnb4(Dequantized):
    """Code[nibble] · scale of its run; inputs: codes, scales, table, and the scales and table of nested scales."""

    numel: int
    blocksize: int
    """Elements of the flattened tensor with one scale."""
    nested: Nested | None


@dataclass(frozen=True, slots=True)
class Bnb8(Dequantized):
    """Weight · scale / 127 by row; inputs: weight, scale, and the number of the layout."""


@dataclass(frozen=True, slots=True)
class Gptq(Dequantized):
    """(q - (z + zero) mod 2^bits) · s, transposed; inputs: qweight, qzeros, scales, and the group of each row."""

    bits: int
    zero: int
    """What is added to the stored zero points: 1, or 0 for version 2 of the format."""
    group: int
    """Rows of one group, where there is no input with the groups."""


@dataclass(frozen=True, slots=True)
class Awq(Dequantized):
    """(q - z) · s, transposed; inputs: qweight, qzeros, scales."""
