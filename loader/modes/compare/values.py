"""How far two tensors are apart, in float64.

Guarantees: elements are compared in blocks, so that memory holds the two tensors and a few megabytes. Runs of equal
bytes are recognized as such and read once. Equal elements are those of equal value: NaN equals NaN, and an infinity
itself. Integers are subtracted exactly. A result is a finite number, or None with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from ...formats.elements import components, flat, same_elements
from ...formats.tensor import dtype_name
from ...text.wording import counted

BLOCK = 1 << 18
"""Elements that are compared at once."""
_WORD = 8
"""Bytes that are compared at once where a block's length allows it."""
_WHOLE = (torch.int64, torch.uint64)
"""The dtypes whose values float64 does not hold exactly."""
_LOW = (1 << 32) - 1

Pair = tuple[torch.Tensor, torch.Tensor]
Advance = Callable[[int], None]
"""Is called with a number of elements that have been compared."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """How far two tensors are apart."""

    differing: int | None = 0
    """Number of elements that differ; None where they cannot be paired."""
    max_abs: float | None = 0.0
    """Largest absolute difference."""
    mean_abs: float | None = 0.0
    """Mean absolute difference."""
    cosine: float | None = 1.0
    """Cosine of the angle between the tensors as vectors; None if one of them is zero, or an element is not finite."""
    note: str = ""
    """Why a difference is None."""

    @property
    def equal(self) -> bool:
        """Whether every element has the same value on both sides."""
        return self.differing == 0


EQUAL = Numbers()


def apart(note: str) -> Numbers:
    """Returns the numbers of tensors that have none, and the reason."""
    return Numbers(None, None, None, None, note)


def numbers(left: torch.Tensor, right: torch.Tensor, advance: Advance = lambda _: None) -> Numbers:
    """Compares two tensors of one shape on the CPU.

    Args:
        left: Of any dtype and layout.
        right: Likewise; its dtype may be another one.
        advance: Is called as elements have been compared.

    Returns:
        Their differences; None for all of them where elements have no counterpart or no value.
    """
    if left.is_nested or right.is_nested:
        return _of_nested(left, right, advance)
    if left.is_quantized or right.is_quantized:
        left, right = (one.dequantize() if one.is_quantized else one for one in (left, right))
    if left.layout != torch.strided or right.layout != torch.strided:
        return _of_sparse(left, right, advance)
    return _of_pairs([(flat(left), flat(right))], left.numel(), advance)


def _of_pairs(pairs: list[Pair], numel: int, advance: Advance) -> Numbers:
    valueless = next((one.dtype for pair in pairs for one in pair if not _has_values(one.dtype)), None)
    if valueless is not None:
        same = all(one.dtype == other.dtype and same_elements(one, other) for one, other in pairs)
        return EQUAL if same else apart(f"{dtype_name(valueless)} has no values in torch")
    sums, equal = _Sums(), list[torch.Tensor]()
    for one, other in pairs:
        for start in range(0, one.numel(), BLOCK):
            mine, theirs = one[start : start + BLOCK], other[start : start + BLOCK]
            if _same_bytes(mine, theirs):
                equal.append(mine)
            else:
                sums.add(mine, theirs)
            advance(mine.numel())
    if not sums.differing:
        return EQUAL
    for block in equal:  # only now do their sums count: those of tensors that are equal throughout are not needed
        sums.add_equal(block)
    return sums.numbers(numel)


def _same_bytes(mine: torch.Tensor, theirs: torch.Tensor) -> bool:
    if mine.dtype != theirs.dtype:
        return False
    words = mine.numel() * mine.element_size() % _WORD == 0
    carrier = torch.int64 if words else torch.uint8
    try:
        return torch.equal(mine.view(carrier), theirs.view(carrier))
    except RuntimeError:  # a tensor in the middle of a storage may not begin at a whole word
        return torch.equal(mine.view(torch.uint8), theirs.view(torch.uint8))


@dataclass(slots=True)
class _Sums:
    """What blocks of elements add up to."""

    differing: int = 0
    unbounded: int = 0
    """Elements whose difference is not finite."""
    largest: float = 0.0
    total: float = 0.0
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    product: float = 0.0

    def add(self, mine: torch.Tensor, theirs: torch.Tensor) -> None:
        """Adds elements that may differ."""
        one, other = _wide(mine), _wide(theirs)
        whole = mine.dtype in _WHOLE or theirs.dtype in _WHOLE
        difference = _exact(mine, theirs) if whole else (one - other).abs()
        total = difference.sum()
        if not torch.isfinite(total):  # else every difference is finite, and no element NaN or infinite
            same = (one == other) | (torch.isnan(one) & torch.isnan(other))
            finite = torch.isfinite(one) & torch.isfinite(other)
            self.unbounded += int((~finite & ~same).sum())
            difference.masked_fill_(same, 0)
            total = difference.sum()
        self.differing += int(torch.count_nonzero(difference))
        self.largest = max(self.largest, float(difference.max()))
        self.total += float(total)
        self._add_sums(one, other)

    def add_equal(self, mine: torch.Tensor) -> None:
        """Adds elements that are equal on both sides."""
        one = _wide(mine)
        self._add_sums(one, one)

    def _add_sums(self, one: torch.Tensor, other: torch.Tensor) -> None:
        """Adds to the cosine's sums; a complex number counts as the vector of its two parts."""
        ours, theirs = (_real(value) for value in _alike(one, other))
        self.squares[0] += float(torch.dot(ours, ours))
        self.squares[1] += float(torch.dot(theirs, theirs))
        self.product += float(torch.dot(ours, theirs))

    def numbers(self, numel: int) -> Numbers:
        """Returns the result for a number of elements."""
        note = f"{counted(self.unbounded, 'element')}: NaN or infinity on one side" if self.unbounded else ""
        largest, mean = (None, None) if self.unbounded else (_finite(self.largest), _finite(self.total / numel))
        if not note and (largest is None or mean is None):
            note = "the difference is beyond float64"
        lengths = math.sqrt(self.squares[0]) * math.sqrt(self.squares[1])
        cosine = self.product / lengths if lengths else math.nan
        within = max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None
        return Numbers(self.differing, largest, mean, within, note)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _has_values(dtype: torch.dtype) -> bool:
    """Whether torch can turn elements into numbers; packed and opaque ones it cannot."""
    try:
        return dtype.is_complex or torch.empty(1, dtype=dtype).to(torch.float64) is not None
    except (RuntimeError, NotImplementedError, TypeError):
        return False


def _wide(block: torch.Tensor) -> torch.Tensor:
    return block.to(torch.complex128 if block.is_complex() else torch.float64)


def _alike(one: torch.Tensor, other: torch.Tensor) -> Pair:
    dtype = torch.promote_types(one.dtype, other.dtype)
    return one.to(dtype), other.to(dtype)


def _real(value: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(value).reshape(-1) if value.is_complex() else value


def _exact(mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Returns absolute differences of integers of 64 bits, which float64 may not hold: high and low halves apart."""
    if mine.is_complex() or theirs.is_complex():
        return (_wide(mine) - _wide(theirs)).abs()
    (high, low), (other_high, other_low) = _halves(mine), _halves(theirs)
    return ((high - other_high) * (_LOW + 1) + (low - other_low)).abs()


def _halves(block: torch.Tensor) -> Pair:
    if block.dtype not in _WHOLE:
        wide = block.to(torch.float64)
        high = torch.floor(wide / (_LOW + 1))
        return high, wide - high * (_LOW + 1)
    signed = block.view(torch.int64)
    high = signed >> 32
    if block.dtype == torch.uint64:
        high = high & _LOW
    return high.to(torch.float64), (signed & _LOW).to(torch.float64)


def _of_sparse(left: torch.Tensor, right: torch.Tensor, advance: Advance) -> Numbers:
    """Compares the elements that either tensor stores; all others are zero on both sides."""
    one, other = (_coordinates(tensor) for tensor in (left, right))
    if one.sparse_dim() != other.sparse_dim():
        return apart("the sparse dimensions are others")
    dtype = torch.promote_types(_wide(one.values()[:0]).dtype, _wide(other.values()[:0]).dtype)
    ours, theirs = (tensor.values().to(dtype) for tensor in (one, other))
    indices = torch.cat([one.indices(), other.indices()], dim=1)

    def at_all(values: torch.Tensor) -> torch.Tensor:
        made = torch.sparse_coo_tensor(indices, values, left.shape, check_invariants=True)
        return made.coalesce().values()

    both = [ours, torch.zeros_like(theirs)], [torch.zeros_like(ours), theirs]
    mine, other_values = (flat(at_all(torch.cat(values))) for values in both)
    found = _of_pairs([(mine, other_values)], max(left.numel(), 1), lambda _: None)
    advance(left.numel())
    return found


def _coordinates(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse()).coalesce()


def _of_nested(left: torch.Tensor, right: torch.Tensor, advance: Advance) -> Numbers:
    ours, theirs = (list(_items(tensor)) for tensor in (left, right))
    if [one.shape for one in ours] != [one.shape for one in theirs]:
        return apart("shapes differ")
    pairs = [(flat(one), flat(other)) for one, other in zip(ours, theirs, strict=True)]
    return _of_pairs(pairs, sum(one.numel() for one in ours), advance)


def _items(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from components(tensor) if tensor.is_nested else [tensor]
