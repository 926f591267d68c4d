"""What adapters compute with: dense tensors of numbers, no larger than what they change explains.

Guarantees: pure functions of names, shapes, dtypes and layouts, asked before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ...errors import FitError
from ...formats.boxes import is_movable
from ...formats.limits import MOST_OUTSIZED
from ...formats.tree import ITEMSIZE, TensorEntry
from ...keys.plan import Wanted
from ...keys.rules import Rewritten
from ...text.lines import Fix
from ...text.wording import listing, phrases, safe_text, shape
from ..trees import WHOLE
from .deltas import Delta, is_floating


def unfit(entry: TensorEntry) -> str:
    """Returns what keeps a tensor from being added or subtracted: ``a sparse_coo tensor``; empty if nothing does."""
    if not is_movable(entry):
        return "a tensor without data" if entry.layout == "strided" else f"a {safe_text(entry.layout)} tensor"
    return "" if is_floating(entry) or entry.dtype in WHOLE else entry.dtype


def refuse_unlike(left: Mapping[str, TensorEntry], right: Mapping[str, TensorEntry], one: str, other: str) -> None:
    """Raises FitError if two files do not hold the same tensors, or one that cannot be subtracted."""
    faults = [f"only in {one}: {listing(found)}"] if (found := [key for key in left if key not in right]) else []
    faults += [f"only in {other}: {listing(found)}"] if (found := [key for key in right if key not in left]) else []
    for key, entry in left.items():
        pair = [entry, right[key]] if key in right else []
        if odd := next(filter(None, map(unfit, pair)), ""):
            faults.append(f"{safe_text(key)} is {odd}, which cannot be subtracted")
        elif len({(each.shape, is_floating(each)) for each in pair}) > 1:
            faults.append(f"{safe_text(key)} is {' and '.join(f'{shape(each.shape)} {each.dtype}' for each in pair)}")
    if faults:
        raise FitError(
            f"{one} minus {other} needs the same tensors in both: {phrases(faults)}",
            Fix(note="give the model that the first one was trained from"),
        )


def refuse_outsized(
    changes: Mapping[str, Delta],
    keys: Mapping[str, Sequence[str]],
    entries: Mapping[str, Rewritten],
    wanted: Mapping[str, Wanted],
    where: str,
) -> None:
    """Refuses changes of which the rules keep little: what they are taken from would be computed whole.

    Args:
        changes: The changes, after the adapter's rules.
        keys: Those of the model that each of them changes.
        entries: What they are added to.
        wanted: The model's keys.
        where: The adapter, for messages.

    Raises:
        FitError: A tensor that is made on the way is far larger than all that it changes.
    """
    made: dict[int, TensorEntry] = {}
    room: dict[int, int] = {}
    sources: dict[int, str] = {}
    for name, delta in changes.items():
        size = sum(_size(entries.get(key), wanted.get(key)) for key in keys.get(name, ()))
        for entry in {id(one): one for one in _made(delta.entry)}.values():
            made[id(entry)] = entry
            room[id(entry)] = room.get(id(entry), 0) + size
            sources.setdefault(id(entry), delta.sources[0])
    faults = [
        f"{safe_text(sources[one])} makes {shape(entry.shape)}, more than {MOST_OUTSIZED} times the {room[one]:,} "
        "elements that it changes"
        for one, entry in made.items()
        if entry.numel > MOST_OUTSIZED * room[one]
    ]
    if faults:
        raise FitError(
            f"the rules of {where} leave too little of what would be computed: {phrases(list(dict.fromkeys(faults)))}",
            Fix(note="select in the adapter's own matrices and save it again, or leave the adapter out"),
        )


def _made(entry: TensorEntry) -> Iterator[TensorEntry]:
    """Yields every tensor that takes memory of its own when an entry is read."""
    if entry.storage is not None and entry.storage.made is not None:
        yield entry.storage.made
        yield from _made(entry.storage.made)
    if entry.inputs or entry.pieces:
        yield entry
    inside: Iterable[TensorEntry] = (*entry.inputs, *(piece.entry for piece in entry.pieces))
    for one in inside:
        yield from _made(one)


def _size(there: Rewritten | None, want: Wanted | None) -> int:
    """The number of elements of a tensor that is changed, or of what its file holds of it if that is more."""
    size = 0 if want is None else math.prod(want.shape or ())
    entry = None if there is None else there.entry
    if not isinstance(entry, TensorEntry):
        return size
    stored = {id(one): one.nbytes for one in entry.storages() if one.packed is None}
    return max(size, entry.numel, sum(stored.values()) // ITEMSIZE.get(entry.dtype, 1))
