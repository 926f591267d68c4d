"""Keeps so much of a model's weights in the run's folder that two runs can be compared module by module.

Guarantees: one pass over the parameters, a block at a time; at most a bounded number of bytes is written, atomically,
or nothing. The file holds a vector for each module that has parameters: all its elements, or, in a large model,
`BUCKETS` sums of them with random signs (a count sketch), from which the distance of two vectors follows with an error
of about one per cent, whatever they are. Equal weights have equal vectors, on every machine.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..files.write import write_whole
from ..formats.safetensors import fault, pieces
from ..report.data import Check, VerificationReport
from ..report.sketched import BUCKETS, EXACT, SKETCH, SKETCHED
from ..text.wording import counted, size

WHOLE_BELOW = 1 << 20
"""Elements of a model up to which every element is kept."""

_MOST_BYTES = 64 << 20
_ROWS = 1024
"""Rows of `BUCKETS` elements that are added up at once."""
_CHECK = "kept weights"


def keep_weights(module: nn.Module, folder: Path, report: VerificationReport) -> None:
    """Writes ``weights.sketch.safetensors``, or reports why not.

    Args:
        module: The loaded model.
        folder: The run's folder.
        report: Receives a check if nothing is written.
    """
    held = {name: found for name, each in module.named_modules() if (found := list(_parameters(each)))}
    elements = {name: sum(parameter.numel() for parameter in found) for name, found in held.items()}
    whole = sum(elements.values()) <= WHOLE_BELOW
    total = 4 * sum(count if whole else min(count, BUCKETS) for count in elements.values())
    if total > _MOST_BYTES:
        reason = f"{counted(len(held), 'module')} would take {size(total)}, more than {size(_MOST_BYTES)}"
        report.checks.append(Check(_CHECK, None, f"not written: {reason}"))
        return
    vectors = {}
    for name, found in held.items():
        exact = whole or elements[name] <= BUCKETS
        vectors[f"{EXACT if exact else SKETCH}{name}"] = _whole(found) if exact else _sketch(found)
    unnamed = [name for name, vector in vectors.items() if fault(name, vector)]
    if unnamed:
        report.checks.append(Check(_CHECK, None, f"not written: {fault(unnamed[0], vectors[unnamed[0]])}"))
        return
    try:
        write_whole(folder / SKETCHED, b"".join(pieces(vectors, {"format": "hydra-loader-weights", "schema": "1"})))
    except OSError as error:
        report.checks.append(Check(_CHECK, None, f"not written: {error.strerror}"))


def _parameters(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yields the numbers of one module's own parameters, flat; those without values are left out."""
    for parameter in module.parameters(recurse=False):
        if (
            isinstance(parameter, UninitializedParameter)
            or parameter.is_meta
            or parameter.layout != torch.strided
            or parameter.is_nested
        ):
            continue
        values = parameter.detach()
        yield (torch.view_as_real(values.resolve_conj()) if values.is_complex() else values).reshape(-1)


def _whole(found: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([_plain(values) for values in found])


def _sketch(found: list[torch.Tensor]) -> torch.Tensor:
    sums = torch.zeros(BUCKETS, dtype=torch.float64)
    signs, flips = _signs()
    block = _ROWS * BUCKETS
    for number, values in enumerate(found):
        for at in range(0, values.numel(), block):
            part = _plain(values[at : at + block])
            rows = -(-len(part) // BUCKETS)
            padded = nn.functional.pad(part, (0, rows * BUCKETS - len(part))).view(rows, BUCKETS)
            flip = float(flips[(at // block + 7919 * number) % len(flips)])
            # Shifted, so that equal places of two parameters do not meet.
            sums += flip * (padded * signs[:rows]).sum(0, dtype=torch.float64).roll(31 * number)
    return sums.float()


def _plain(values: torch.Tensor) -> torch.Tensor:
    return values.to("cpu", torch.float32)


@functools.cache
def _signs() -> tuple[torch.Tensor, torch.Tensor]:
    """Random signs for a block and for the blocks, the same on every machine: Philox's numbers are fixed."""
    flips = 1 << 16
    raw = np.random.Philox(key=1).random_raw(-(-(_ROWS * BUCKETS + flips) // 64)).astype("<u8")
    bits = torch.from_numpy(np.unpackbits(raw.view("u1"))[: _ROWS * BUCKETS + flips])
    signs = bits.float() * 2 - 1
    return signs[: _ROWS * BUCKETS].view(_ROWS, BUCKETS), signs[_ROWS * BUCKETS :]
