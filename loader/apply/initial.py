"""The model's own initial values, where a rule takes some of a tensor's values from them.

Guarantees: the values are copied before anything is loaded, in memory that nothing else uses, so that reading a tensor
again later gives the same; no more is copied than the tensor needs. A model without values, which a hollow build gives,
leaves them open.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace

from torch.nn.parameter import is_lazy

from ..errors import FitError
from ..formats.boxes import computed, leaves, rebuilt
from ..formats.formulas.records import Initial, Summed
from ..formats.tensor import dtype_name, torch_dtype
from ..formats.tree import Storage, TensorEntry, contiguous
from ..keys.plan import Offered
from ..module.dtype import cast
from ..module.slots import Slot
from ..parts.offer import Offers
from ..text.lines import Fix
from ..text.wording import safe_text


def with_initial_values(found: Offers, places: Mapping[str, Slot]) -> Offers:
    """Puts a model's initial values into the entries that take some.

    Args:
        found: The offers.
        places: The model's keys.

    Raises:
        FitError: The model's dtype cannot be brought to the file's.
    """
    filled = {
        key: replace(offer, entry=rebuilt(entry, lambda leaf, key=key: _of_model(leaf, key, places[key])))  # type: ignore[misc]
        for key, offer, entry in _open(found)
    }
    return replace(found, entries={**found.entries, **filled}) if filled else found


def waits_for_values(found: Offers) -> bool:
    """Whether entries take initial values that the model does not have yet."""
    return any(True for _ in _open(found))


def _open(found: Offers) -> Iterator[tuple[str, Offered, TensorEntry]]:
    for key, offer in found.entries.items():
        entry = offer.entry
        if offer.rules and isinstance(entry, TensorEntry) and any(_is_open(leaf) for leaf in leaves(entry)):
            yield key, offer, entry


def _is_open(leaf: TensorEntry) -> bool:
    return isinstance(leaf.formula, Initial)


def _of_model(leaf: TensorEntry, key: str, slot: Slot) -> TensorEntry:
    if not isinstance(leaf.formula, Initial) or is_lazy(slot.tensor) or slot.tensor.is_meta:
        return leaf
    rows = slot.tensor.detach()[leaf.formula.start :].to("cpu", copy=True).contiguous()
    if rows.dtype != torch_dtype(leaf) and not (rows.is_floating_point() and torch_dtype(leaf).is_floating_point):
        rows, loss = cast(rows, torch_dtype(leaf))
        if loss:
            raise FitError(
                f"{safe_text(key)} is {leaf.dtype} in the file, which cannot hold the model's initial values: {loss}",
                Fix(note="fill the new rows with 0"),
            )
    memory = rows.untyped_storage()
    storage = Storage(key, 0, memory.nbytes(), memory=memory, big_endian=sys.byteorder == "big")
    dtype, shape = dtype_name(rows.dtype), tuple(rows.shape)
    own = TensorEntry(dtype, shape, contiguous(shape), storage=storage)
    # A sum of one keeps the values that the file's dtype would round.
    return own if dtype == leaf.dtype else computed(Summed(), [own], shape, leaf.dtype)
