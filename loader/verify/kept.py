"""Keeps the inputs and outputs of the verifying forward pass in the run's folder.

Guarantees: all of them are written or none, atomically, as they entered and left the model; a file of that name that no
run wrote stays. Whatever keeps them from being written is reported and changes nothing else of the job's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.write import write_whole
from ..formats.safetensors import SafeTensors, fault, nbytes, pieces
from ..report.data import Check, VerificationReport
from ..report.kept import KEPT
from ..text.wording import bytes_of, counted, phrases, safe_text, size
from .forward import Pass

_FORMAT = "hydra-loader-outputs"
_NAME = "kept outputs"


def keep(done: Sequence[Pass], folder: Path, most: str, report: VerificationReport) -> None:
    """Writes ``outputs.safetensors`` and reports it, or why it was not written.

    Args:
        done: The forward passes.
        folder: The run's folder.
        most: The largest file to write, as ``verify.keep`` says it.
        report: Receives the result.
    """
    values = _named(done)
    if not values or not bytes_of(most):
        return
    try:
        report.kept = _written(values, folder.absolute() / KEPT, most)
    except _NotKept as reason:
        report.checks.append(Check(_NAME, None, f"not written: {reason}"))


class _NotKept(Exception):  # noqa: N818  # a reason, no error
    """Why nothing is written."""


def _named(done: Sequence[Pass]) -> dict[str, torch.Tensor]:
    values: dict[str, torch.Tensor] = {}
    for item in done:
        prefix = f"{item.name}." if item.name else ""
        if not item.undone:
            values |= {f"input.{prefix}{name}": value for name, value in item.inputs.named().items()}
            values |= {f"output.{prefix}{name}": value for name, value in item.outputs.items()}
    return {} if any(value.is_meta for value in values.values()) else values


def _written(values: Mapping[str, torch.Tensor], path: Path, most: str) -> dict[str, object]:
    refused = [f"{name} ({why})" for name, value in values.items() if (why := fault(name, value))]
    if refused:
        raise _NotKept(f"the format cannot hold {counted(len(refused), 'tensor')}: {phrases(refused)}")
    content = pieces(values, {"format": _FORMAT, "schema": "1"})
    start = bytes(next(content))
    total = len(start) + sum(map(nbytes, values.values()))
    if total > (bytes_of(most) or 0):
        raise _NotKept(f"{KEPT} would have {size(total)}, more than verify.keep={safe_text(most)}")
    if _is_others(path):
        raise _NotKept(f"{KEPT} in the run's folder is another file, which stays")
    try:
        write_whole(path, b"".join((start, *content)))
    except OSError as error:
        raise _NotKept(f"{KEPT} in the run's folder: {error.strerror}") from error
    return {"path": str(path), "bytes": total}


def _is_others(path: Path) -> bool:
    """Whether a file exists that no run wrote; the folder may be the one that the user works in."""
    if not path.exists() and not path.is_symlink():
        return False
    try:
        with SafeTensors(CheckpointFile(path), "structure") as found:
            notes = found.root.record
    except CheckpointError:
        return True
    return not isinstance(notes, Mapping) or notes.get("format") != _FORMAT
