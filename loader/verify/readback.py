"""Compares a loaded model with the bytes in the file.

Guarantees: bytes are read from the file anew, past any mapping, and compared bit for bit after the planned cast; all of
them up to a size, evenly spread samples of every tensor above it, and the outcome says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from loader.errors import located
from loader.formats.base import TensorEntry
from loader.place import cast, final_dtype
from loader.plan import Match, Plan
from loader.stage import Stage

WHOLE_BELOW = 64 * 2**20
"""Bytes up to which everything is compared."""

_RUN = 1024
"""Elements per sample; three samples are taken of a tensor."""


@dataclass(frozen=True, slots=True)
class Readback:
    """The outcome of a comparison."""

    differing: list[str]
    detail: str


def read_back(stage: Stage, plan: Plan) -> Readback:
    """Compares the planned tensors with the model's own."""
    comparable = [match for match in plan.matches if _is_comparable(stage, match)]
    total = sum(_entry(stage, match).nbytes for match in comparable)
    sampled = total > WHOLE_BELOW
    differing = [match.key for match in comparable if not _same(stage, match, sampled=sampled)]
    how = "samples of every tensor" if sampled else "all bytes"
    detail = f"{len(comparable)} of {len(plan.matches)} tensors compared with the file, {how}"
    computed = len(plan.matches) - len(comparable)
    return Readback(differing, detail + (f"; {computed} come out of load hooks" if computed else ""))


def _entry(stage: Stage, match: Match) -> TensorEntry:
    entry = stage.offers.entries[match.taken.key].entry
    if not isinstance(entry, TensorEntry):
        raise LookupError(match.key)
    return entry


def _is_comparable(stage: Stage, match: Match) -> bool:
    if not match.taken.key or stage.wanted[match.key].kind == "extra":
        return False
    return _entry(stage, match).layout == "strided"


def _same(stage: Stage, match: Match, *, sampled: bool) -> bool:
    entry, part = _entry(stage, match), stage.parts[stage.offers.entries[match.taken.key].part]
    mine = stage.places[match.key].tensor.detach()
    planned = final_dtype(stage.wanted[match.key], entry.dtype, stage.policy)
    for run, mine_run in _runs(entry, mine) if sampled and _is_compact(entry, mine) else [(entry, mine)]:
        with located(part.label, stage.offers.entries[match.taken.key].source):
            theirs, _ = cast(part.checkpoint.read(run, mmap=False), planned)
        left, right = _bytes(cast(theirs, mine.dtype)[0]), _bytes(mine_run.cpu())
        if left.shape != right.shape or not torch.equal(left, right):
            return False
    return True


def _is_compact(entry: TensorEntry, mine: torch.Tensor) -> bool:
    expected, steps = 1, []
    for dimension in reversed(entry.shape):
        steps.append(expected)
        expected *= dimension
    return entry.stride == tuple(reversed(steps)) and mine.is_contiguous() and entry.numel > 3 * _RUN


def _runs(entry: TensorEntry, mine: torch.Tensor) -> Iterator[tuple[TensorEntry, torch.Tensor]]:
    flat = mine.reshape(-1)
    for start in (0, (entry.numel - _RUN) // 2, entry.numel - _RUN):
        run = replace(entry, shape=(_RUN,), stride=(1,), offset=entry.offset + start)
        yield run, flat[start : start + _RUN]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
