"""Golden records: inputs and outputs of a model that is known to be right, kept beside its checkpoint.

A record is a safetensors file with tensors ``input.<name>`` and ``output.<name>`` (several models in one file:
``part.<part>/input.<name>``); positional inputs and unnamed outputs are numbered.

Guarantees: a record is data only; it is written at once or not at all; what differs is told with the largest
difference and the tolerance that it was held to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from loader.errors import ConfigError
from loader.formats import open_checkpoint
from loader.verify.inputs import Inputs
from loader.wants import dtype_name
from loader.wording import safe_text, shape

SUFFIX = ".golden.safetensors"
"""What is put behind a checkpoint's name."""

TOLERANCES: Mapping[str, tuple[float, float]] = {
    "float64": (1e-6, 1e-8),
    "float32": (1e-4, 1e-5),
    "float16": (1e-2, 1e-3),
    "bfloat16": (5e-2, 1e-2),
}
"""dtype → (rtol, atol); what is not listed is compared exactly. The looser of both sides' dtypes counts."""


@dataclass(slots=True)
class Record:
    """The inputs and outputs of one model."""

    inputs: Inputs
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


def beside(checkpoint: Path) -> Path:
    """Where the record of a checkpoint stands."""
    return checkpoint.with_name(checkpoint.name + SUFFIX)


def find(setting: str | None, checkpoint: Path | None) -> Path | None:
    """The record that a config means: a path, or with ``auto`` the one beside the checkpoint where there is one.

    Raises:
        ConfigError: A record is named and is not there.
    """
    if setting is None:
        return None
    if setting == "auto":
        own = beside(checkpoint) if checkpoint is not None else None
        return own if own is not None and own.is_file() else None
    named = Path(setting).expanduser().absolute()
    if not named.is_file():
        raise ConfigError(
            f"the golden record {safe_text(named, 200)} is not there",
            "verify.golden=auto takes the one beside the checkpoint; verify.record=true writes it",
        )
    return named


def read(path: Path) -> dict[str, Record]:
    """Reads a record: part → inputs and outputs, on the CPU; the root is ``""``."""
    checkpoint = open_checkpoint(path)
    try:
        entries = checkpoint.root.tensors()
        values = {name: checkpoint.read(entry, mmap=False) for name, entry in entries.items()}
    finally:
        checkpoint.close()
    records: dict[str, Record] = {}
    for name, value in sorted(values.items(), key=lambda item: _order(item[0])):
        part, _, rest = name.rpartition("/")
        side, _, place = rest.partition(".")
        record = records.setdefault(part.removeprefix("part."), Record(Inputs(origin=f"golden record {path.name}")))
        if side == "output":
            record.outputs[place] = value
        elif place.isdigit():
            record.inputs.args.append(value)
        else:
            record.inputs.kwargs[place] = value
    return records


def write(path: Path, records: Mapping[str, Record]) -> None:
    """Writes a record beside a checkpoint, replacing the one that is there."""
    from safetensors.torch import save

    values: dict[str, torch.Tensor] = {}
    for part, record in records.items():
        prefix = f"part.{part}/" if part else ""
        values |= {f"{prefix}input.{name}": value for name, value in record.inputs.named().items()}
        values |= {f"{prefix}output.{name}": value for name, value in record.outputs.items()}
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in values.items()}
    data = save(plain, {"format": "hydra-loader-golden", "schema": "1", "torch": torch.__version__})
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(path)


def differences(
    expected: Mapping[str, torch.Tensor],
    got: Mapping[str, torch.Tensor],
    computed_in: torch.dtype,
    rtol: float | None,
    atol: float | None,
) -> tuple[list[str], str]:
    """Compares outputs with a record.

    Args:
        expected: The record's outputs.
        got: The model's.
        computed_in: The dtype that the model computes in; it may be coarser than its output's.
        rtol: Relative tolerance; None is the dtypes' own.
        atol: Absolute tolerance, likewise.

    Returns:
        What differs, and a line that says how close it was.
    """
    told, worst, held = [], 0.0, (0.0, 0.0)
    for name in sorted({*expected, *got}):
        if name not in got or name not in expected:
            told.append(f"output {safe_text(name)} is only in {'the record' if name in expected else 'the model'}")
            continue
        want, have = expected[name], got[name].detach().cpu()
        if want.shape != have.shape:
            told.append(f"output {safe_text(name)} is {shape(have.shape)}, the record has {shape(want.shape)}")
            continue
        limits = _tolerance(want.dtype, have.dtype, computed_in)
        held = (limits[0] if rtol is None else rtol, limits[1] if atol is None else atol)
        wide = (have.to(torch.float64), want.to(torch.float64))
        gap = float((wide[0] - wide[1]).abs().max()) if want.numel() else 0.0
        worst = max(worst, gap)
        if not torch.allclose(*wide, rtol=held[0], atol=held[1]):
            told.append(f"output {safe_text(name)} differs by up to {gap:.3g}")
    return told, f"largest difference {worst:.3g} (rtol {held[0]:g}, atol {held[1]:g})"


def _tolerance(*dtypes: torch.dtype) -> tuple[float, float]:
    return max((TOLERANCES.get(dtype_name(dtype), (0.0, 0.0)) for dtype in dtypes), default=(0.0, 0.0))


def _order(name: str) -> tuple[str, int, str]:
    head, _, tail = name.rpartition(".")
    return (head, int(tail), "") if tail.isdigit() else (head, -1, tail)
