"""Published checkpoints, as they are: loaded strictly, and compared with torch's own load and forward pass."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tests.real_models
from loader import CheckpointError, load
from tests.command import REPOSITORY
from tests.jobs import assert_same_state, checks

FOLDER = Path(os.environ.get("LOADER_REAL_CHECKPOINTS", REPOSITORY.parent / "shared" / "real"))

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no folder of published checkpoints; LOADER_REAL_CHECKPOINTS names one"
)


@dataclass(frozen=True)
class Real:
    """One published checkpoint."""

    file: str
    model: str
    format: str
    keys: int
    inputs: Any
    outputs: list[list[int]]

    def build(self) -> nn.Module:
        made: nn.Module = getattr(tests.real_models, self.model)()
        return made


REAL = [
    Real("crepe_tiny.pth", "CrepeTiny", "torch-zip", 44, {"shape": [2, 1024]}, [[2, 360]]),
    Real("mtcnn_pnet.pt", "ProposalNet", "torch-legacy", 13, {"shape": [1, 3, 24, 24]}, [[1, 4, 7, 7], [1, 2, 7, 7]]),
    Real("mtcnn_rnet.pt", "RefinementNet", "torch-legacy", 16, {"shape": [5, 3, 24, 24]}, [[5, 4], [5, 2]]),
    Real("dists.pt", "PerceptualWeights", "torch-legacy", 2, [{"shape": [3, 1475, 1, 1]}] * 2, [[3, 1, 1]]),
]

each = pytest.mark.parametrize("real", REAL, ids=[real.model for real in REAL])


def config(real: Real, path: Path, **verify: Any) -> dict[str, Any]:
    return {
        "model": {"_target_": f"tests.real_models.{real.model}"},
        "checkpoint": {"path": str(path)},
        "device": "cpu",
        "verify": {"input": real.inputs, **verify},
    }


def reference(real: Real) -> nn.Module:
    """The model as torch alone loads it."""
    model = real.build()
    model.load_state_dict(torch.load(FOLDER / real.file, map_location="cpu", weights_only=True), strict=True)
    return model.eval()


def golden(real: Real, path: Path) -> Path:
    """A record of what torch alone computes."""
    generator = torch.Generator().manual_seed(11)
    specs = real.inputs if isinstance(real.inputs, list) else [real.inputs]
    inputs = [torch.rand(spec["shape"], generator=generator) for spec in specs]
    with torch.no_grad():
        made = reference(real)(*inputs)
    outputs = list(made) if isinstance(made, tuple) else [made]
    record = {f"input.{n}": value for n, value in enumerate(inputs)}
    save_file(record | {f"output.{n}": value.contiguous() for n, value in enumerate(outputs)}, path)
    return path


@each
def test_it_is_loaded_whole_and_computes_what_torch_computes(real: Real, tmp_path: Path) -> None:
    record = golden(real, tmp_path / "record.safetensors")
    loaded = load(config(real, FOLDER / real.file, golden=str(record)))
    report = loaded.report
    assert (report.keys.loaded, report.keys.missing, report.keys.unexpected) == (real.keys, [], [])
    assert report.parts[""].format == real.format
    assert report.model is not None
    assert report.model.build == "hollow"
    assert [output["shape"] for output in report.verification.outputs] == real.outputs
    assert all(checks(report).values())
    assert checks(report)["golden record"]
    assert_same_state(loaded.model, reference(real).state_dict())


@each
def test_it_can_be_read_without_mapping_and_as_safetensors(real: Real, tmp_path: Path) -> None:
    expected = load(config(real, FOLDER / real.file)).report.verification.fingerprint
    unmapped = config(real, FOLDER / real.file)
    unmapped["checkpoint"]["mmap"] = False
    assert load(unmapped).report.verification.fingerprint == expected
    state = torch.load(FOLDER / real.file, weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "same.safetensors")
    assert load(config(real, tmp_path / "same.safetensors")).report.verification.fingerprint == expected


def test_a_tone_is_heard_at_its_pitch() -> None:
    # What the network was trained for tells a right forward pass better than any comparison.
    model = load(config(REAL[0], FOLDER / REAL[0].file)).model
    for pitch in (220.0, 440.0, 659.3):
        frame = torch.sin(2 * math.pi * pitch * torch.arange(1024) / 16000)[None]
        with torch.no_grad():
            best = int(model((frame - frame.mean()) / frame.std()).argmax())
        heard = 10 * 2 ** ((20 * best + 1997.3794084376191) / 1200)
        assert abs(1200 * math.log2(heard / pitch)) < 50, pitch


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    data = bytearray((FOLDER / REAL[0].file).read_bytes())
    data[len(data) // 2] ^= 4
    path = tmp_path / "damaged.pth"
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="is damaged"):
        load(config(REAL[0], path))
    path.write_bytes((FOLDER / REAL[1].file).read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load(config(REAL[1], path))
