"""One product under two names of a tensor, as PEFT saves it with ``ensure_weight_tying``.

Guarantees: pure functions of shapes and factors; that both copies hold the same values is compared when they are read,
and refused where they do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...errors import FitError
from ...formats.boxes import computed, permuted
from ...formats.formulas.additions import Agreeing, Product
from ...formats.tree import TensorEntry
from ...text.lines import Fix
from ...text.wording import safe_text
from .deltas import Delta
from .ties import Ties


def agreeing(changes: Mapping[str, Delta], ties: Ties) -> dict[str, Delta]:
    """Returns changes of which each that has copies agrees with them.

    Raises:
        FitError: A copy is another product: of other shapes or another factor, or with a magnitude.
    """
    found = dict(changes)
    for name, first in ties.again().items():
        made = _agreeing(found[first], found[name])
        if made is None:
            one, other = (safe_text(ties.where[which].key) for which in (first, name))
            raise FitError(
                f"{ties.label} was trained with tied names as one tensor (ensure_weight_tying), and changes {one} and "
                f"{other} differently",
                Fix(note="leave one of them out by a rule of the adapter"),
            )
        found[first] = made
    return found


def _agreeing(one: Delta, other: Delta) -> Delta | None:
    made, copy = one.entry.formula, other.entry.formula
    if not isinstance(made, Product) or not isinstance(copy, Product) or one.magnitude or other.magnitude:
        return None
    (up, down, *alpha), (left, right, *other_alpha) = one.entry.inputs, other.entry.inputs
    if made.turned != copy.turned:
        if len(left.shape) != 2 or len(right.shape) != 2:
            return None
        left, right = permuted(right, [1, 0]), permuted(left, [1, 0])
    unlike = made.factor != copy.factor or alpha or other_alpha
    if unlike or (up.shape, down.shape) != (left.shape, right.shape):
        return None
    inputs = (_checked(up, left), _checked(down, right))
    entry = computed(made, inputs, one.entry.shape, one.entry.dtype)
    return replace(one, entry=entry, sources=(*one.sources, *other.sources))


def _checked(one: TensorEntry, other: TensorEntry) -> TensorEntry:
    return computed(Agreeing(), [one, other], one.shape)
