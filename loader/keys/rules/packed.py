"""Dequantizers of weights that are packed into 32-bit integers: GPTQ and AWQ.

Guarantees: as in `quantized`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from ...formats.boxes import computed
from ...formats.formulas import schemes
from ...formats.tree import FLOATS, TensorEntry
from ...text.wording import safe_text
from .joins import Join, register_join
from .members import check, differ
from .tensors import Context, Mending, Unfit, Unusable

_BITS = range(2, 9)


@register_join
@dataclass(frozen=True, slots=True)
class Gptq(Join):
    """GPTQ, of version 1 and 2."""

    bits: int | None = None
    """Unset, as in the folder's config.json, else 4."""
    zero: int | None = None
    """What is added to the stored zero points: 1, or 0 for version 2. Unset, by the folder's config.json, else 1."""
    name: ClassVar[str] = "gptq"
    roles: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales", "g_idx")
    optional: ClassVar[frozenset[str]] = frozenset({"g_idx"})

    def __post_init__(self) -> None:
        """Raises ValueError for a number that the format does not have."""
        if self.bits is not None and (type(self.bits) is not int or self.bits not in _BITS):
            fault = f"'by.gptq.bits' is {safe_text(self.bits)}, expected a number from 2 to 8"
            raise Unusable(fault, Mending("by", {"gptq": {"bits": 4}}))
        if self.zero is not None and (type(self.zero) is not int or self.zero not in (0, 1)):
            fault = f"'by.gptq.zero' is {safe_text(self.zero)}, expected 1, or 0 for version 2 of the format"
            raise Unusable(fault, Mending("by", {"gptq": {"zero": 1}}), Mending("by", {"gptq": {"zero": 0}}))

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:
        """Returns the weight as ``[out, in]``."""
        check(members, {"qweight": ("int32",), "qzeros": ("int32",), "scales": FLOATS, "g_idx": ("int32", "int64")})
        config = context.quantization()
        bits, zero = self._bits(config), self.zero
        if zero is None:
            zero = 0 if config.get("checkpoint_format") == "gptq_v2" else 1
        words, zeros, scales, index = (members.get(role) for role in self.roles)
        if words is None or zeros is None or scales is None:
            raise TypeError("a group lacks a role")  # `merge` refuses it
        if any(len(one.shape) != 2 for one in (words, zeros, scales)):
            raise differ("matrices")
        groups, out = scales.shape
        rows, lanes = words.shape[0] * 32 // bits, math.lcm(32, bits) // bits
        fits = words.shape == (rows * bits // 32, out) and not rows % lanes and not out % lanes
        if not fits or zeros.shape != (groups, out * bits // 32):
            expected = f"qweight [in · {bits} / 32, out], qzeros [groups, out · {bits} / 32] and scales [groups, out]"
            raise differ(f"{expected} for {bits} bits", *self._other_bits(zeros.shape[1] * 32, out, bits))
        group = _group_size(rows, groups, config)
        if index is not None and (index.numel != rows or not 0 < groups <= max(1, rows)):
            raise differ(f"g_idx [{rows}], for at most as many groups")
        if index is None and group is None:
            raise differ(f"{rows} rows in equal groups, or a g_idx that says which")
        formula = schemes.Gptq(bits, zero, group or 1)
        return computed(formula, list(members.values()), (out, rows), scales.dtype)

    def _bits(self, config: Mapping[str, object]) -> int:
        found = config.get("bits", 4) if self.bits is None else self.bits
        if type(found) is not int or found not in _BITS:
            fault = f"config.json has bits: {safe_text(found)}, expected a number from 2 to 8"
            raise Unfit([fault], Mending("by", {"gptq": {"bits": 4}}))
        return found

    def _other_bits(self, packed: int, out: int, bits: int) -> Iterator[Mending]:
        """Yields the setting for the bits that the zero points of a layer show."""
        found = packed // out if out and not packed % out else bits
        if found != bits and found in _BITS:
            zero = {} if self.zero is None else {"zero": self.zero}
            yield Mending("by", {"gptq": {"bits": found, **zero}}, "as the shapes show")


def _group_size(rows: int, groups: int, config: Mapping[str, object]) -> int | None:
    """Returns how many rows share a scale; None if they are not equal groups, and no config says how many."""
    said = config.get("group_size")
    if type(said) is int and said > 0 and -(-rows // said) == groups:
        return said
    return rows // groups if groups and rows and not rows % groups else None


@register_join
@dataclass(frozen=True, slots=True)
class Awq(Join):
    """AWQ in AutoAWQ's layout `gemm`, of 4 bits."""

    name: ClassVar[str] = "awq"
    roles: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales")

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:
        """Returns the weight as ``[out, in]``."""
        check(members, {"qweight": ("int32",), "qzeros": ("int32",), "scales": FLOATS})
        config = context.quantization()
        layout, bits = config.get("version", "gemm"), config.get("bits", 4)
        if str(layout).lower() != "gemm" or bits != 4:
            said = f"version: {safe_text(layout)}, bits: {safe_text(bits)}"
            raise Unfit([f"config.json has {said}, expected version: gemm, bits: 4"])
        words, zeros, scales = (members[role] for role in self.roles)
        groups, out = scales.shape if len(scales.shape) == 2 else (0, 0)
        rows = words.shape[0] if words.shape else 0
        if words.shape != (rows, out // 8) or out % 8 or zeros.shape != (groups, out // 8) or _odd(rows, groups):
            raise differ("qweight [in, out / 8], qzeros [groups, out / 8] and scales [groups, out]")
        return computed(schemes.Awq(), [words, zeros, scales], (out, rows), scales.dtype)


def _odd(rows: int, groups: int) -> bool:
    """Whether rows are not in equal groups."""
    return not groups or not rows or rows % groups != 0
