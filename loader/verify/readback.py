"""Compares a loaded model with the bytes in the file.

Guarantees: bytes are read from the file again, past any mapping, and compared bit for bit after the planned cast: all
bytes up to a size, above it evenly spread samples of every tensor; the result says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..apply.prepare import Prepared
from ..errors import located
from ..formats.tree import TensorEntry, contiguous
from ..keys.plan import Match
from ..module.dtype import cast
from ..report.data import Check
from ..text.lines import Fix
from ..text.wording import listing
from .checks import Subject, register

WHOLE_BELOW = 64 * 2**20
"""Bytes up to which everything is compared."""

_RUN = 1024
"""Elements per sample; three samples are taken of a tensor."""


@register(
    "read back",
    moment="end",  # so that it detects changes made by running the model
    applies=lambda subject: subject.has_values and subject.prepared is not None,
    fixes=[Fix(note="the file was rewritten, or a hook of the model changes the values")],
)
def _read_back(subject: Subject) -> Iterator[Check]:
    """Compares the planned tensors with the model's own."""
    prepared = subject.prepared
    if prepared is None:
        return
    matches = prepared.plan.matches
    comparable = [(match, entry) for match in matches if (entry := _entry(prepared, match)) is not None]
    sampled = sum(entry.nbytes for _, entry in comparable) > WHOLE_BELOW
    differing = [match.key for match, entry in comparable if not _same(prepared, match, entry, sampled=sampled)]
    how = "samples of every tensor" if sampled else "all bytes"
    detail = f"{len(comparable)} of {len(matches)} tensors compared with the file, {how}"
    computed = len(matches) - len(comparable)
    detail += f"; {computed} come out of load hooks" if computed else ""
    detail += f"; not what the file holds: {listing(differing)}" if differing else ""
    yield Check("read back", not differing, detail)


def _entry(prepared: Prepared, match: Match) -> TensorEntry | None:
    """Returns the tensor that a match loads unchanged; None for extra state and values that load hooks compute."""
    return None if prepared.wanted[match.key].kind == "extra" else prepared.tensor(match.taken.key)


def _same(prepared: Prepared, match: Match, entry: TensorEntry, *, sampled: bool) -> bool:
    part, planned = prepared.part_of(match.taken.key), prepared.dtype(match.key, entry.dtype)
    mine = prepared.places[match.key].tensor.detach()
    for run, mine_run in _runs(entry, mine) if sampled and _is_compact(entry, mine) else [(entry, mine)]:
        with located(part.label, prepared.offers.entries[match.taken.key].source):
            theirs, _ = cast(part.checkpoint.read(run, mmap=False), planned)
        if not same_elements(cast(theirs, mine.dtype)[0], mine_run.cpu()):
            return False
    return True


def _is_compact(entry: TensorEntry, mine: torch.Tensor) -> bool:
    return (
        entry.layout == "strided"
        and entry.stride == contiguous(entry.shape)
        and mine.is_contiguous()
        and entry.numel > 3 * _RUN
    )


def _runs(entry: TensorEntry, mine: torch.Tensor) -> Iterator[tuple[TensorEntry, torch.Tensor]]:
    flat = mine.reshape(-1)
    for start in (0, (entry.numel - _RUN) // 2, entry.numel - _RUN):
        run = replace(entry, shape=(_RUN,), stride=(1,), offset=entry.offset + start)
        yield run, flat[start : start + _RUN]


def same_elements(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors on the CPU have the same contents, bit for bit, in any layout."""
    ours, theirs = ([_bytes(component) for component in _components(tensor)] for tensor in (left, right))
    return len(ours) == len(theirs) and all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))


def _components(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Returns the dense tensors that a tensor consists of."""
    if tensor.is_nested:
        return [component for item in tensor.unbind() for component in _components(item)]
    if tensor.is_quantized:
        per_channel = tensor.qscheme() not in (torch.per_tensor_affine, torch.per_tensor_symmetric)
        scales = [tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()] if per_channel else []
        whole = [] if per_channel else [torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)]
        return [tensor.int_repr(), *scales, *whole]
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
