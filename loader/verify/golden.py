"""Golden records: inputs and outputs of a model that is known to be right, next to its checkpoint.

A record is a safetensors file with tensors ``input.<name>`` and ``output.<name>`` (several models in one file:
``part.<part>/input.<name>``); positional inputs and unnamed outputs are numbered.

Guarantees: a record is data only and written atomically; a difference is reported with its size and the tolerance.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..errors import CheckpointError, ConfigError
from ..files.path import called, is_url, leads_out, shown_path
from ..files.write import write_whole
from ..formats.opened import Checkpoint
from ..formats.safetensors import fault, pieces
from ..formats.signatures import GOLDEN
from ..formats.tensor import dtype_name
from ..formats.tree import TensorEntry
from ..parts.open import open_checkpoint
from ..text.lines import NO_FIX, Fix, line
from ..text.wording import counted, listing, phrases, safe_text, shape
from .inputs import Inputs

_NAME = re.compile(r"(part\.[^/]+/)?(input|output)\..+", re.DOTALL)

TOLERANCES: Mapping[str, tuple[float, float]] = {
    "float64": (1e-6, 1e-8),
    "float32": (1e-4, 1e-5),
    "float16": (1e-2, 1e-3),
    "bfloat16": (5e-2, 1e-2),
}
"""dtype → (rtol, atol). The loosest counts, of both sides' and the one computed in; integers are compared exactly.

The absolute one is for outputs around 1 and above; for smaller ones it shrinks with the largest that is expected.
"""


@dataclass(slots=True)
class Record:
    """The inputs and outputs of one model."""

    inputs: Inputs
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)


def record_of(checkpoint: Path) -> Path:
    """Returns the path of a checkpoint's record."""
    return checkpoint.with_name(checkpoint.name + GOLDEN)


def find(setting: str | None, checkpoint: Path | None) -> Path | None:
    """Returns the record that a config means: a path or URL, or with ``auto`` the one next to a local checkpoint.

    Raises:
        ConfigError: The named record does not exist.
        CheckpointError: A URL cannot be downloaded; or the record was not named, and leads out of its folder.
    """
    if setting is None:
        return None
    if setting == "auto":
        own = record_of(checkpoint) if checkpoint is not None else None
        return _inside(own) if own is not None and own.is_file() else None
    if is_url(setting):
        from ..remote import local_copy  # noqa: PLC0415  # only URLs need it

        return local_copy(setting)
    named = Path(setting).expanduser().absolute()
    if not named.is_file():
        raise ConfigError(
            f"golden record {safe_text(named, 200)} does not exist",
            Fix("verify.golden=auto", "takes the one next to the checkpoint"),
            Fix("verify.record=true", "writes it"),
        )
    return named


def _inside(path: Path) -> Path:
    """Refuses a record that was not named and leads out of its folder: it may be as hostile as the checkpoint."""
    outside = leads_out(path, path.parent)
    if outside is not None:
        raise CheckpointError(
            f"{shown_path(path)} is a link that leads out of its folder, to {shown_path(outside)}",
            line("verify.golden", str(outside), note="if that record is meant, or null to do without"),
        )
    return path


def read(path: Path) -> dict[str, Record]:
    """Reads a record: part → inputs and outputs, on the CPU; the root is ``""``.

    Raises:
        CheckpointError: The file cannot be read.
        ConfigError: It is not a record.
    """
    with closing(open_checkpoint(path)) as checkpoint:
        entries = _named(checkpoint, path)
        values = {name: checkpoint.read(entry, mmap=False) for name, entry in entries.items()}
    records: dict[str, Record] = {}
    for name, value in sorted(values.items(), key=lambda item: _order(item[0])):
        part, side, place = _split(name)
        record = records.setdefault(part, Record(Inputs(origin=f"golden record {Path(called(path)).name}")))
        if side == "output":
            record.outputs[place] = value
        elif place.isdigit():
            record.inputs.args.append(value)
        else:
            record.inputs.kwargs[place] = value
    return records


def parts(path: Path) -> set[str]:
    """Returns the parts that a record covers, without reading tensors; raises as `read` does."""
    with closing(open_checkpoint(path)) as checkpoint:
        return {_split(name)[0] for name in _named(checkpoint, path)}


def _named(checkpoint: Checkpoint, path: Path) -> dict[str, TensorEntry]:
    entries = checkpoint.root.tensors()
    strange = [name for name in entries if not _NAME.fullmatch(name)]
    if strange or not entries:
        raise ConfigError(
            f"{safe_text(path, 200)} is not a golden record: expected tensors named input.… and output.…, found "
            f"{listing(strange) or 'none'}",
            Fix("verify.record=true", "writes one"),
            Fix("verify.golden=null", "does without"),
        )
    return entries


def packed(records: Mapping[str, Record]) -> bytes:
    """Returns the content of a record's file.

    Raises:
        ConfigError: The format cannot hold an input or output.
    """
    values: dict[str, torch.Tensor] = {}
    for part, record in records.items():
        prefix = f"part.{part}/" if part else ""
        values |= {f"{prefix}input.{name}": value for name, value in record.inputs.named().items()}
        values |= {f"{prefix}output.{name}": value for name, value in record.outputs.items()}
    refused = [f"{name} ({why})" for name, value in values.items() if (why := fault(name, value))]
    if refused:
        raise ConfigError(
            f"verify.record=true cannot write {counted(len(refused), 'tensor')} of the record: {phrases(refused)}",
            Fix("verify.record=false"),
        )
    notes = {"format": "hydra-loader-golden", "schema": "1", "torch": str(torch.__version__)}
    return b"".join(bytes(piece) for piece in pieces(values, notes))


def write(path: Path, content: bytes) -> None:
    """Writes a record next to a checkpoint and replaces an existing one.

    Raises:
        ConfigError: It cannot be written; the earlier one then stays.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise ConfigError(
            f"verify.record=true cannot write {shown_path(path)}: {error.strerror}", Fix("verify.record=false")
        ) from error


def differences(
    expected: Mapping[str, torch.Tensor],
    got: Mapping[str, torch.Tensor],
    computed_in: torch.dtype,
    rtol: float | None,
    atol: float | None,
) -> tuple[list[str], str, float | None]:
    """Compares outputs with a record.

    Args:
        expected: The record's outputs.
        got: The model's.
        computed_in: The dtype that the model computes in; it may be coarser than its output's.
        rtol: Relative tolerance; None is the dtypes' own.
        atol: Absolute tolerance; None is the dtypes' own.

    Returns:
        The differences, a line that says how close the outputs were, and their largest absolute difference; None if no
        output can be compared with the record's.
    """
    found, gaps, held = [], list[float](), (0.0, 0.0)
    for name in sorted({*expected, *got}):
        if name not in got or name not in expected:
            found.append(f"output {safe_text(name)} is only in {'the record' if name in expected else 'the model'}")
            continue
        want, have = expected[name], got[name].detach().cpu()
        if want.is_complex() != have.is_complex():
            kinds = f"{dtype_name(have.dtype)}, the record has {dtype_name(want.dtype)}"
            found.append(f"output {safe_text(name)} is {kinds}")
            continue
        if want.shape != have.shape:
            found.append(f"output {safe_text(name)} is {shape(have.shape)}, the record has {shape(want.shape)}")
            continue
        limits = _tolerance(want.dtype, have.dtype, computed_in)
        wide = (_wide(have), _wide(want))
        held = (limits[0] if rtol is None else rtol, limits[1] * _scale(wide[1]) if atol is None else atol)
        gap = _gap(*wide)
        gaps.append(gap)
        # Another check judges nan; here a recorded nan matches a nan.
        if not torch.allclose(*wide, rtol=held[0], atol=held[1], equal_nan=True):
            found.append(f"output {safe_text(name)} differs by up to {gap:.3g}")
    worst = max(gaps, default=0.0)
    closeness = f"largest difference {worst:.3g} (rtol {held[0]:g}, atol {held[1]:g})"
    return found, closeness, worst if gaps else None


def accepting(gap: float | None) -> Fix:
    """Returns the line with an absolute tolerance that accepts a difference; empty if none does."""
    if not gap or not math.isfinite(gap):
        return NO_FIX
    unit = 10.0 ** (math.floor(math.log10(gap)) - 1)
    return line("verify.atol", float(f"{(math.floor(gap / unit) + 1) * unit:.2g}"), note="accepts this difference")


def _wide(output: torch.Tensor) -> torch.Tensor:
    return (torch.view_as_real(output) if output.is_complex() else output).to(torch.float64)


def _scale(want: torch.Tensor) -> float:
    """Returns the magnitude of an output, at most 1: one probability of a thousand is held to the same precision."""
    finite = want[want.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return min(largest, 1.0) or 1.0


def _gap(have: torch.Tensor, want: torch.Tensor) -> float:
    apart = (have - want).abs()[(have != want) & ~(have.isnan() & want.isnan())]
    return math.inf if apart.isnan().any() else float(apart.max()) if apart.numel() else 0.0


def _tolerance(want: torch.dtype, have: torch.dtype, computed_in: torch.dtype) -> tuple[float, float]:
    if not all(dtype.is_floating_point or dtype.is_complex for dtype in (want, have)):
        return (0.0, 0.0)
    dtypes = (want, have, computed_in)
    return max((TOLERANCES.get(dtype_name(dtype), (0.0, 0.0)) for dtype in dtypes), default=(0.0, 0.0))


def _split(name: str) -> tuple[str, str, str]:
    """The part, ``input`` or ``output``, and the place there; an output's own name may hold slashes and dots."""
    part, _, rest = name.removeprefix("part.").partition("/") if name.startswith("part.") else ("", "", name)
    side, _, place = rest.partition(".")
    return part, side, place


def _order(name: str) -> tuple[str, int, str]:
    head, _, tail = name.rpartition(".")
    return (head, int(tail), "") if tail.isdigit() else (head, -1, tail)
