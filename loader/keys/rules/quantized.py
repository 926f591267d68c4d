"""Dequantizers: how a quantized weight and the tensors next to it become one plain tensor, as ``by`` of `merge`.

Guarantees: a group is accepted only if shapes and dtypes, and the small record of bitsandbytes, agree with each other;
so that a formula reads inputs of sizes in proportion to its result. What values alone show (an index out of range, zero
points of another version) is refused when they are read.

The dtype of the result is the one that the weight had, where the file shows it: that of bitsandbytes' record, of the
scales of GPTQ and AWQ, of an fp8 weight's scale if that has 16 or 32 bits; otherwise bfloat16, or float32 next to
bitsandbytes' int8, whose scales are always float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...formats.boxes import computed, reshaped
from ...formats.formulas import schemes
from ...formats.tree import FLOATS, TensorEntry
from ...text.lines import Fix
from ...text.wording import phrases, safe_text
from .joins import Join, register_join
from .members import check, differ
from .quant_state import quant_state
from .tensors import Context, Mending, Unfit, Unusable

_OF_SCALES = (*FLOATS, "uint8", "float8_e8m0fnu")
_FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
_BLOCK = 128
"""Rows and columns of a block of fine-grained fp8."""


@register_join
@dataclass(frozen=True, slots=True)
class Fp8(Join):
    """Float8 weights with a scale for all, by row or by block."""

    block: list[int] | None = None
    """Rows and columns of a block; unset, those of the folder's config.json, else 128 × 128."""
    name: ClassVar[str] = "fp8"
    roles: ClassVar[tuple[str, ...]] = ("weight", "scale", "scale of activations")
    optional: ClassVar[frozenset[str]] = frozenset({"scale of activations"})

    def __post_init__(self) -> None:
        """Raises ValueError for a block that is not two sizes."""
        if self.block is not None and not _is_block(self.block):
            fault = f"'by.fp8.block' is {safe_text(self.block)}, expected two sizes"
            raise Unusable(fault, Mending("by", {"fp8": {"block": [_BLOCK, _BLOCK]}}))

    def concerns(self, members: Mapping[str, TensorEntry]) -> bool:
        """Whether the weight is of float8: norms have weights and scales of the same names."""
        weight = members.get("weight")
        return weight is not None and weight.dtype in _FLOAT8

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:
        """Returns weight · scale."""
        check(members, {"weight": _FLOAT8, "scale": _OF_SCALES})
        weight, scale = members["weight"], members["scale"]
        blocks, aligned = self._blocks(weight, scale, context)
        dtype = scale.dtype if scale.dtype in FLOATS[:3] else "bfloat16"
        return computed(schemes.BlockScaled(blocks), [weight, aligned], weight.shape, dtype)

    def _blocks(self, weight: TensorEntry, scale: TensorEntry, context: Context) -> tuple[tuple[int, ...], TensorEntry]:
        """Returns the sizes of a block along each dim, and the scale with a dim for each; no sizes for one number."""
        if scale.numel == 1:
            return (), scale
        rank = len(weight.shape)
        leading = rank > len(scale.shape) and scale.shape == weight.shape[: len(scale.shape)]
        shape = (*scale.shape, *(1,) * (rank - len(scale.shape))) if leading else scale.shape
        given = self.block if self.block is not None else context.quantization().get("weight_block_size")
        known = tuple(given) if isinstance(given, Sequence) and _is_block(given) else None
        each = (*(1,) * (rank - 2), *(known or (None, None)))[-rank:]
        sizes = [_block_of(*one) for one in zip(weight.shape, shape, each, strict=False)]
        if len(shape) != rank or not all(sizes):
            rows, columns = known or (_BLOCK, _BLOCK)
            raise differ(
                f"one scale, one by row, or one for each block of {rows} × {columns}",
                Fix(note="state other blocks in the rule as by: {fp8: {block: [ROWS, COLUMNS]}}"),
            )
        return tuple(size or 1 for size in sizes), reshaped(scale, shape)


def _is_block(value: object) -> bool:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        return False
    return all(type(size) is int and 0 < size < 1 << 31 for size in value)


def _block_of(size: int, count: int, known: int | None) -> int | None:
    """Returns the size of the blocks of one dim; None if there is no such number of them.

    A size that nobody stated is a power of two: blocks with a short last one could be taken for longer, equal ones.
    """
    if count in (size, 1):
        return max(1, size // count) if count else 1
    for block in (_BLOCK,) if known is None else (known,):
        if -(-size // block) == count:
            return block
    even = 0 if known is not None or not count or size % count else size // count
    return even if even and not even & (even - 1) else None


@register_join
@dataclass(frozen=True, slots=True)
class Mxfp4(Join):
    """Packed float4 with an exponent for each 32 elements, as in gpt-oss."""

    name: ClassVar[str] = "mxfp4"
    roles: ClassVar[tuple[str, ...]] = ("blocks", "scales")

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:
        """Returns the values as ``[experts, 32 · groups, rows]``."""
        del context
        check(members, {"blocks": ("uint8",), "scales": ("uint8", "float8_e8m0fnu")})
        blocks, scales = members["blocks"], members["scales"]
        if len(blocks.shape) < 3 or blocks.shape[-1] != 16 or scales.shape != blocks.shape[:-1]:
            raise differ("blocks [experts, rows, groups, 16] and scales [experts, rows, groups]")
        *experts, rows, groups, size = blocks.shape
        return computed(schemes.Mxfp4(), [blocks, scales], (*experts, groups * size * 2, rows), "bfloat16")


@register_join
@dataclass(frozen=True, slots=True)
class Bnb4(Join):
    """bitsandbytes' nf4 and fp4, with double quantization too."""

    name: ClassVar[str] = "bnb4"
    roles: ClassVar[tuple[str, ...]] = (
        "weight", "absmax", "quant_map", "quant_state", "nested_absmax", "nested_quant_map",
    )  # fmt: skip
    optional: ClassVar[frozenset[str]] = frozenset({"nested_absmax", "nested_quant_map"})

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:
        """Returns the values in the shape and dtype of the record."""
        nested = "nested_absmax" in members
        floats = dict.fromkeys(("quant_map", "nested_absmax", "nested_quant_map"), FLOATS)
        check(members, {**floats, "absmax": ("uint8",) if nested else FLOATS})
        state = quant_state(members["quant_state"], context, nested=nested)
        numel, weight = math.prod(state.shape), members["weight"]
        expected = {
            "weight": (weight.nbytes, -(-numel // 2)),
            "absmax": (members["absmax"].numel, -(-numel // state.blocksize)),
            "quant_map": (members["quant_map"].numel, 16),
        }
        if state.nested is not None:
            scales = members["absmax"].numel
            expected["nested_absmax"] = (members["nested_absmax"].numel, -(-scales // state.nested.blocksize))
            second = members.get("nested_quant_map")
            expected["nested_quant_map"] = (0 if second is None else second.numel, 256)
        faults = [
            f"{role} has {found:,} {'bytes' if role == 'weight' else 'elements'}, expected {right:,}"
            for role, (found, right) in expected.items()
            if found != right
        ]
        if faults:
            raise Unfit([f"{phrases(faults)}, for a tensor {list(state.shape)} in blocks of {state.blocksize:,}"])
        used = ("weight", "absmax", "quant_map", "nested_absmax", "nested_quant_map")
        formula = schemes.Bnb4(numel, min(state.blocksize, max(1, numel)), state.nested)
        return computed(formula, [members[role] for role in used if role in members], state.shape, state.dtype)


@register_join
@dataclass(frozen=True, slots=True)
class Bnb8(Join):
    """bitsandbytes' int8."""

    name: ClassVar[str] = "bnb8"
    roles: ClassVar[tuple[str, ...]] = ("weight", "SCB", "weight_format")
    optional: ClassVar[frozenset[str]] = frozenset({"weight_format"})

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:
        """Returns weight · SCB / 127 by row."""
        del context
        check(members, {"weight": ("int8",), "SCB": FLOATS, "weight_format": ("uint8", "int8", "int32", "int64")})
        weight, scale, layout = members["weight"], members["SCB"], members.get("weight_format")
        if len(weight.shape) != 2 or scale.numel != weight.shape[0] or (layout is not None and layout.numel != 1):
            raise differ("weight [rows, columns] and SCB [rows]")
        return computed(schemes.Bnb8(), list(members.values()), weight.shape, scale.dtype)
