"""Reads the loaded tensors from their files once more: to compare them with the model's, and for their identity.

Guarantees: each tensor is read once, past any mapping, in pieces, so that memory stays flat, and one that rules made is
made once more; every byte is part of the fingerprint. Compared bit for bit, after the planned cast, are all bytes up to
a size, above it evenly spread samples of every tensor; where a formula gives other bits for another place in memory,
values may differ by its rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import xxhash

from ..apply.prepare import Prepared
from ..errors import located
from ..formats.elements import flat, same_elements
from ..formats.identity import Line, compact, fingerprint, in_batches, is_exact, line_of_read, pieces
from ..formats.opened import Checkpoint
from ..formats.shared import MadeOnce
from ..formats.tensor import torch_dtype
from ..formats.tree import ITEMSIZE, TensorEntry
from ..module.dtype import cast
from ..module.slots import slots
from ..parts import Part
from ..parts.offer import selected

WHOLE_BELOW = 64 * 2**20
"""Bytes up to which everything is compared."""
_RUN = 1024
"""Elements per sample; three samples are taken of a tensor."""


@dataclass(frozen=True, slots=True)
class Reread:
    """What the files gave when they were read again."""

    fingerprint: str | None
    """The identity of the loaded weights; None if no tensor was loaded."""
    compared: int = 0
    """Number of tensors that were compared with the model's."""
    derived: int = 0
    """Number of those that rules, adapters or the sum of several files made, which were made again."""
    sampled: bool = False
    """Whether samples were compared, not all bytes."""
    differing: tuple[str, ...] = ()
    """The model keys of those that differ."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One tensor to read."""

    key: str
    """The key under which it counts."""
    part: Part
    source: str
    """Its key in the file."""
    entry: TensorEntry
    mine: torch.Tensor | None = None
    """The model's, if the file's values are loaded into it as they are or cast."""
    planned: torch.dtype | None = None
    """The dtype that it was cast to."""
    derived: bool = False
    """Whether it was made of other tensors."""


def read_plan(prepared: Prepared) -> Reread:
    """Reads again what a plan loaded.

    Every name of a tied tensor counts, whether its file holds it once or twice. A value that a load hook of the model
    computed counts by the file's tensors that no key takes as they are. Extra state counts where it is a tensor.

    Raises:
        CheckpointError: A file cannot be read, or holds other bytes by now.
    """
    plan, wanted = prepared.plan, prepared.wanted
    direct = {match.taken.key: match for match in plan.matches if match.taken.key}
    tensors = [tensor for match in direct.values() for tensor in _of_match(prepared, match.key, match.taken.key)]
    lines, reread = _read(tensors)
    firsts = {wanted[key].first: line for key, line in lines.items()}
    named = [replace(firsts[first], key=key) for key in plan.loaded if (first := wanted[key].first) in firsts]
    if any(not match.taken.key for match in plan.matches):
        unread, taken = plan.unread(), {*direct}
        feeding = [source for source in prepared.offers.entries if source not in unread and source not in taken]
        fed, _ = _read([tensor for source in feeding for tensor in _of_offer(prepared, source)])
        named += [line for key, line in fed.items() if key not in plan.loaded]
    return replace(reread, fingerprint=fingerprint(named))


def read_whole(module: torch.nn.Module, parts: Sequence[Part]) -> Reread:
    """Reads again the tensors of a model that came out of its file complete; they are compared with nothing."""
    names = slots(module)
    tensors = [
        _Tensor(part.full(key), part, key, entry)
        for part in parts
        if (container := selected(part)) is not None
        for key, entry in container.tensors().items()
        if part.full(key) in names
    ]
    lines, _ = _read(tensors)
    return Reread(fingerprint(lines.values()))


def _of_match(prepared: Prepared, key: str, source: str) -> Iterator[_Tensor]:
    entry = prepared.tensor(source)
    if entry is None:
        return
    place = (key, prepared.part_of(source), prepared.offers.entries[source].source, entry)
    if prepared.wanted[key].kind == "extra":
        yield _Tensor(*place)
    else:
        derived = bool(prepared.offers.entries[source].rules) or entry.is_computed
        yield _Tensor(*place, prepared.places[key].tensor.detach(), prepared.dtype(key, entry.dtype), derived)


def _of_offer(prepared: Prepared, source: str) -> Iterator[_Tensor]:
    entry = prepared.tensor(source)
    if entry is not None:
        yield _Tensor(source, prepared.part_of(source), prepared.offers.entries[source].source, entry)


def _read(tensors: Sequence[_Tensor]) -> tuple[dict[str, Line], Reread]:
    """Reads tensors; returns their lines by key, and how they compare with the model's."""
    comparable = [tensor for tensor in tensors if tensor.mine is not None]
    sampled = sum(tensor.entry.nbytes for tensor in comparable) > WHOLE_BELOW
    read = partial(_read_batch, made=MadeOnce(tensor.entry for tensor in tensors), sampled=sampled)
    found = in_batches(tensors, lambda tensor: tensor.entry.nbytes, read, "reading back")
    differing = tuple(line.key for line, same in found if not same)
    derived = sum(tensor.derived for tensor in comparable)
    return {line.key: line for line, _ in found}, Reread(None, len(comparable), derived, sampled, differing)


def _read_batch(tensors: Sequence[_Tensor], *, made: MadeOnce, sampled: bool) -> Iterator[tuple[Line, bool]]:
    for tensor in tensors:
        with located(tensor.part.label, tensor.source):
            yield _read_one(tensor, made, sampled=sampled)


def _read_one(tensor: _Tensor, made: MadeOnce, *, sampled: bool) -> tuple[Line, bool]:
    """Returns a tensor's line, and whether the model's is the same."""
    checkpoint, entry, mine = tensor.part.checkpoint, tensor.entry, tensor.mine
    place = compact(checkpoint.located(entry))
    if place is None:
        value = _read_whole(checkpoint, entry, made)
        dense = value.layout == torch.strided and not value.is_quantized and not value.is_nested
        same = mine is None or (
            _same_runs(tensor, flat(value), 0, mine.reshape(-1), sampled=sampled)
            if dense and mine.layout == torch.strided and not mine.is_quantized
            else _agree(tensor, value, mine)
        )
        return line_of_read(tensor.key, checkpoint, entry, value), same
    digest, width, dtype = xxhash.xxh3_128(), ITEMSIZE[entry.dtype], torch_dtype(entry)
    own, same, start = None if mine is None else mine.reshape(-1), True, 0
    for piece in pieces(*place, entry.nbytes):
        digest.update(piece)
        if own is not None:
            theirs = torch.frombuffer(piece, dtype=dtype)
            same &= _same_runs(tensor, theirs, start, own, sampled=sampled)
        start += len(piece) // width
    return Line(tensor.key, entry.dtype, entry.shape, digest.hexdigest()), same


def _read_whole(checkpoint: Checkpoint, entry: TensorEntry, made: MadeOnce) -> torch.Tensor:
    return checkpoint.read(made(entry, lambda one: _read_whole(checkpoint, one, made)), mmap=False)


def _same_runs(tensor: _Tensor, theirs: torch.Tensor, start: int, mine: torch.Tensor, *, sampled: bool) -> bool:
    """Whether a run of a tensor's elements, from a position on, is the model's; if sampled, the samples in it."""
    end = start + theirs.numel()
    runs = _samples(tensor.entry.numel, start, end) if sampled else [(start, end)]
    return all(_agree(tensor, theirs[low - start : high - start], mine[low:high]) for low, high in runs)


def _samples(numel: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yields the parts of a tensor's samples that lie in a run of its elements."""
    for begin in sorted({0, max(0, (numel - _RUN) // 2), max(0, numel - _RUN)}):
        low, high = max(begin, start), min(begin + _RUN, end)
        if low < high:
            yield low, high


def _agree(tensor: _Tensor, theirs: torch.Tensor, mine: torch.Tensor) -> bool:
    """Whether the model's elements are the file's after the planned cast, and the one to the model's own dtype."""
    cast_, _ = cast(theirs, tensor.planned or theirs.dtype)
    again = cast(cast_, mine.dtype)[0]
    return same_elements(again, mine) or (not is_exact(tensor.entry) and _are_near(again, mine.to(again.device)))


def _are_near(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether values differ by no more than a few roundings of their dtype, or of float32's sums."""
    if not left.dtype.is_floating_point or not left.numel():
        return False
    step = max(4 * torch.finfo(left.dtype).eps, 1e-5)
    left, right = left.to(torch.float64), right.to(torch.float64)
    reach = step * float(left.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return torch.allclose(left, right, rtol=step, atol=reach, equal_nan=True)
