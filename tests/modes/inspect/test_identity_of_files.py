"""`inspect.fingerprint=true`: the identity of a file's weights, without a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import loader
from loader.errors import CheckpointError
from loader.modes import lines
from loader.report.data import Report
from tests.command import run_afresh, run_loader
from tests.formats.dcp_writer import write_distributed
from tests.formats.sharding import write_shards
from tests.jobs import carry_out, save
from tests.models import Two, filled


def inspected(path: Path, **checkpoint: Any) -> tuple[Any, Report]:
    settings = {"mode": "inspect", "checkpoint": {"path": str(path), **checkpoint}, "inspect": {"fingerprint": True}}
    report = loader.load(settings).report
    assert report.inspection is not None
    return report.inspection["files"][0].get("fingerprint"), report


def weights_line(report: Report) -> str:
    return next(text for label, text, _ in lines(report) if label == "weights")


def test_it_is_the_runs_where_the_keys_are_equal(tmp_path: Path) -> None:
    state = filled(Two()).state_dict()
    plain = save(state, tmp_path / "two.pt")
    expected = carry_out("Two", plain).report.verification.fingerprint
    found, report = inspected(plain)
    assert found == expected
    assert weights_line(report) == f"fingerprint {expected}"
    save_file(state, tmp_path / "two.safetensors")
    assert inspected(tmp_path / "two.safetensors")[0] == expected
    nested = save({"model": dict(state), "epoch": 3}, tmp_path / "nested.pt")
    assert inspected(nested, key="model")[0] == inspected(nested, key="auto")[0] == expected
    names = list(state)
    shards = ({name: state[name] for name in names[:2]}, {name: state[name] for name in names[2:]})
    assert inspected(write_shards(tmp_path / "shards", *shards))[0] == expected
    assert inspected(write_distributed(tmp_path / "dcp", state), key="model")[0] == expected
    assert inspected(save(filled(Two()), tmp_path / "whole.pt"))[0] == expected
    prefixed = save({f"module.{name}": value for name, value in state.items()}, tmp_path / "ddp.pt")
    assert inspected(prefixed)[0] not in (None, expected)


def test_it_is_there_only_if_asked_for_and_whatever_is_shown(tmp_path: Path) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    expected, _ = inspected(path)
    report = loader.load({"mode": "inspect", "checkpoint": {"path": str(path)}}).report
    assert report.inspection is not None
    assert "fingerprint" not in report.inspection["files"][0]
    assert not any("fingerprint" in text for _, text, _ in lines(report))
    shown = {"fingerprint": True, "filter": ["*.bias"], "depth": 1}
    report = loader.load({"mode": "inspect", "checkpoint": {"path": str(path)}, "inspect": shown}).report
    assert report.inspection is not None
    assert report.inspection["files"][0]["fingerprint"] == expected


def test_a_place_without_tensors_has_none(tmp_path: Path) -> None:
    found, report = inspected(save({"model": filled(Two()).state_dict(), "epoch": 3}, tmp_path / "nested.pt"))
    assert found is None
    none = "fingerprint none: the top level holds no tensor itself; checkpoint.key selects what does"
    assert weights_line(report) == none


def test_damaged_tensors_have_no_identity(tmp_path: Path) -> None:
    path = save({"weight": torch.ones(1000)}, tmp_path / "flipped.pt")
    content = bytearray(path.read_bytes())
    place = content.index(np.ones(10, "f4").tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum mismatch"):
        inspected(path)
    assert inspected(path, check="structure")[0]


def test_tensors_without_data_have_no_identity(tmp_path: Path) -> None:
    with torch.device("meta"):
        state = nn.Linear(2, 2).state_dict()
    with pytest.raises(CheckpointError) as refusal:
        inspected(save(state, tmp_path / "meta.pt"))
    assert "holds no data for weight, bias, so its weights have no fingerprint" in refusal.value.message
    assert refusal.value.hint == "inspect.fingerprint=false"


def test_no_torch_is_imported_for_plain_bytes(tmp_path: Path) -> None:
    save_file({"weight": torch.ones(3)}, tmp_path / "a.safetensors")
    line = ["mode=inspect", "inspect.fingerprint=true", "checkpoint.path=a.safetensors", "hydra.run.dir=run"]
    program = (
        "import sys\nfrom loader.cli.main import main\n"
        f"sys.argv = ['run.py', *{line!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\nprint('torch' in sys.modules)\n"
    )
    done = run_afresh(sys.executable, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\nweights    fingerprint " in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_on_the_command_line(tmp_path: Path) -> None:
    done = run_loader("mode=inspect", "inspect.fingerprint=true", cwd=tmp_path)
    (file,) = done.report["inspection"]["files"]
    assert f"\nweights    fingerprint {file['fingerprint']}\n" in done.out
    assert file["fingerprint"] == run_loader(cwd=tmp_path).report["verification"]["fingerprint"]
