"""Rules whose results are computed: ``scale``, and the sums, means and weight norm that ``merge`` joins by.

Guarantees: as in `tensors`; arithmetic is refused on everything but dense floating-point numbers. Values are computed
in float32, or float64 where a source is float64, and rounded once, to the final dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...formats.boxes import computed, is_movable
from ...formats.formulas.records import Scaled, Summed, WeightNormed
from ...formats.limits import MOST_SHRINKING
from ...formats.tree import FLOATS, FLOATS_OF_8_BITS, TensorEntry
from ...text.wording import shape
from .joins import Join, register_join
from .tensors import Context, Mending, SelectingRule, Unfit, Unusable

_FLOATING = frozenset((*FLOATS, *FLOATS_OF_8_BITS))


def unfit_values(entry: TensorEntry) -> str:
    """Returns why nothing can be computed from a tensor: ``is int64 …``; empty if it can."""
    if not is_movable(entry):
        return "has no data" if entry.layout == "strided" else f"is {entry.layout}, and arithmetic needs a dense tensor"
    if entry.dtype not in _FLOATING:
        return f"is {entry.dtype}, and arithmetic needs floating-point numbers"
    return ""


def refuse_unfit_values(entry: TensorEntry) -> None:
    """Raises Unfit if nothing can be computed from a tensor."""
    if fault := unfit_values(entry):
        raise Unfit([fault])


def refuse_outsized(entry: TensorEntry, sizes: Sequence[int]) -> None:
    """Raises Unfit if a tensor is far larger than what is computed from it: its size is the file's alone."""
    if entry.numel > MOST_SHRINKING * max(1, math.prod(sizes)):
        most = f"the {MOST_SHRINKING:,} times as large as its result that a tensor may be"
        raise Unfit([f"has {entry.numel:,} elements, more than {most}"])


def common_dtype(dtypes: Collection[str]) -> str:
    """Returns the dtype that floating-point sources suggest: their own, or the one that arithmetic runs in."""
    if len(set(dtypes)) == 1:
        return next(iter(dtypes))
    return "float64" if "float64" in dtypes else "float32"


@dataclass(frozen=True, slots=True)
class Scale(SelectingRule):
    """Computes x · by + plus."""

    scale: str
    """A glob over keys."""
    by: float = 1.0
    """The factor."""
    plus: float = 0.0
    """What is added to the product."""
    example: ClassVar[Mapping[str, object]] = {"scale": "*.norm.weight", "plus": 1.0}

    @property
    def reversible(self) -> bool:
        """Whether the factor can be divided by."""
        return self.by != 0

    def change(self) -> Callable[[TensorEntry], TensorEntry]:
        """Returns the function of one tensor; raises Unusable for a number that is not finite."""
        for name in ("by", "plus"):
            if not math.isfinite(getattr(self, name)):
                raise Unusable(f"'{name}' is {getattr(self, name)}, expected a finite number", Mending(name, 1.0))
        formula = Scaled(self.by, self.plus)

        def changed(entry: TensorEntry) -> TensorEntry:
            refuse_unfit_values(entry)
            return computed(formula, [entry], entry.shape)

        return changed


@dataclass(frozen=True, slots=True)
class _Summing(Join):
    """The sum of tensors of one shape, or their mean."""

    mean: ClassVar[bool]

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:  # noqa: ARG002
        """Returns the sum of a group."""
        entries = list(members.values())
        _refuse_unfit_members(members)
        if len({entry.shape for entry in entries}) > 1:
            sizes = [shape(one) for one in dict.fromkeys(entry.shape for entry in entries)]
            raise Unfit([f"have the shapes {' and '.join(sizes)}, expected one for all terms"])
        dtype = common_dtype([entry.dtype for entry in entries])
        return computed(Summed(mean=self.mean), entries, entries[0].shape, dtype)


@register_join
@dataclass(frozen=True, slots=True)
class Sum(_Summing):
    """The sum of any number of tensors."""

    name: ClassVar[str] = "sum"
    mean: ClassVar[bool] = False


@register_join
@dataclass(frozen=True, slots=True)
class Mean(_Summing):
    """The mean of any number of tensors."""

    name: ClassVar[str] = "mean"
    mean: ClassVar[bool] = True


@register_join
@dataclass(frozen=True, slots=True)
class WeightNorm(Join):
    """g · v / ‖v‖, for weight norm by torch's old function (``weight_g``, ``weight_v``) and its parametrization."""

    name: ClassVar[str] = "weight_norm"
    roles: ClassVar[tuple[str, ...]] = ("g", "v")

    def joined(self, members: Mapping[str, TensorEntry], context: Context) -> TensorEntry:  # noqa: ARG002
        """Returns the weight; the shape of the magnitude shows the dim of the norm."""
        _refuse_unfit_members(members)
        magnitude, direction = members["g"], members["v"]
        dims = [dim for dim in range(len(direction.shape)) if magnitude.shape == _kept(direction.shape, dim)]
        if not dims and math.prod(magnitude.shape) != 1:
            expected = f"expected one number, or those of one dim such as {shape(_kept(direction.shape, 0))}"
            sizes = f"g {shape(magnitude.shape)} that does not fit the direction v {shape(direction.shape)}"
            raise Unfit([f"have a magnitude {sizes}, {expected}"])
        dtype = common_dtype([magnitude.dtype, direction.dtype])
        formula = WeightNormed(dims[0] if dims else None)
        return computed(formula, [magnitude, direction], direction.shape, dtype)


def _kept(sizes: tuple[int, ...], dim: int) -> tuple[int, ...]:
    """The shape of the norms over all dims but one."""
    return tuple(size if at == dim else 1 for at, size in enumerate(sizes))


def _refuse_unfit_members(members: Mapping[str, TensorEntry]) -> None:
    faults = [f"have a member '{role}' that {fault}" for role, one in members.items() if (fault := unfit_values(one))]
    if faults:
        raise Unfit(faults)
