"""What a run keeps of its forward pass, beside the report."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import loader
from loader import ConfigError, VerificationError
from loader.job import execute
from loader.report.data import Report
from loader.report.kept import KEPT, read_kept
from tests.command import run_loader
from tests.jobs import checks, detail, job, save, target
from tests.models import Two, TwoInputs, filled

INPUT = {"input": {"shape": [2, 4]}}


def kept(model: Any, path: Path, folder: Path, **settings: Any) -> tuple[dict[str, torch.Tensor], Report]:
    """What a job keeps in a folder, and its report, also of one that failed."""
    report = Report()
    settings.setdefault("verify", INPUT)
    folder.mkdir(exist_ok=True)
    with suppress(VerificationError):
        execute(job(model, path, **settings), report, folder=folder)
    file = folder / KEPT
    return load_file(file) if file.is_file() else {}, report


@pytest.fixture
def two(tmp_path: Path) -> Path:
    return save(filled(Two()).state_dict(), tmp_path / "two.pt")


def test_the_inputs_and_outputs_are_kept_as_they_entered_and_left_the_model(two: Path, tmp_path: Path) -> None:
    tensors, report = kept("Two", two, tmp_path / "run", dtype="bfloat16")
    assert set(tensors) == {"input.0", "output.0"}
    model = filled(Two()).bfloat16()
    with torch.no_grad():
        expected = model(tensors["input.0"])
    assert tensors["input.0"].dtype == tensors["output.0"].dtype == torch.bfloat16
    assert torch.equal(tensors["output.0"], expected)
    file = tmp_path / "run" / KEPT
    assert report.verification.kept == {"path": str(file), "bytes": file.stat().st_size}
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["format"] == "hydra-loader-outputs"
    read = read_kept(file)
    assert (set(read.inputs), set(read.outputs)) == ({"input.0"}, {"output.0"})


def test_keywords_nested_outputs_and_parts_have_their_reports_names(tmp_path: Path) -> None:
    path = save(filled(TwoInputs()).state_dict(), tmp_path / "inputs.pt")
    inputs = {"x": {"shape": [1, 3]}, "mask": {"shape": [1, 3], "dtype": "bool"}}
    tensors, _ = kept("TwoInputs", path, tmp_path / "a", verify={"input": inputs})
    assert set(tensors) == {"input.x", "input.mask", "output.0"}
    linear = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    tensors, _ = kept(target("Behaving", how="nested"), linear, tmp_path / "b", verify={})
    assert set(tensors) == {"input.0", "output.logits", "output.aux/loss.0", "output.aux/loss.1.0"}
    both = save({"a": filled(nn.Linear(3, 2)).state_dict(), "b": filled(Two()).state_dict()}, tmp_path / "both.pt")
    models = {
        "_target_": "torch.nn.ModuleDict",
        "modules": {
            "a": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2},
            "b": {"_target_": "tests.models.Two"},
        },
    }
    tensors, report = kept(models, both, tmp_path / "c", parts={"a": {"key": "a"}, "b": {"key": "b"}}, verify={})
    assert set(tensors) == {"input.a.0", "output.a.0", "input.b.0", "output.b.0"}
    described = report.verification
    assert set(tensors) == {f"input.{row['name']}" for row in described.inputs} | {
        f"output.{row['name']}" for row in described.outputs
    }


def test_all_or_none_up_to_a_size(two: Path, tmp_path: Path) -> None:
    tensors, report = kept("Two", two, tmp_path / "run", verify={**INPUT, "keep": "0"})
    assert (tensors, report.verification.kept) == ({}, None)
    assert "kept outputs" not in checks(report)
    tensors, report = kept("Two", two, tmp_path / "run", verify={**INPUT, "keep": "100B"})
    assert (tensors, report.verification.kept) == ({}, None)
    assert detail(report, "kept outputs").startswith("not written: outputs.safetensors would have ")
    assert detail(report, "kept outputs").endswith(" B, more than verify.keep=100B")
    assert checks(report)["kept outputs"] is None
    _, report = kept("Two", two, tmp_path / "run")
    assert report.verification.kept is not None
    exactly = str(report.verification.kept["bytes"])
    assert kept("Two", two, tmp_path / "exact", verify={**INPUT, "keep": exactly})[0]
    assert not kept("Two", two, tmp_path / "less", verify={**INPUT, "keep": str(int(exactly) - 1)})[0]


def test_a_size_that_is_none_is_refused(two: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refusal:
        kept("Two", two, tmp_path / "run", verify={**INPUT, "keep": "-1"})
    assert refusal.value.message == "'verify.keep' is '-1', expected a size such as 16MB, or 0 to write none"
    assert refusal.value.hint == "verify.keep=16MB"


def test_a_failed_verification_keeps_them_too(two: Path, tmp_path: Path) -> None:
    tensors, report = kept("Two", two, tmp_path / "run", verify={**INPUT, "expect": {"shape": [7]}})
    assert set(tensors) == {"input.0", "output.0"}
    assert (report.exit_code, report.verification.kept is not None) == (5, True)


def test_what_the_format_cannot_hold_keeps_all_of_them_out(tmp_path: Path) -> None:
    linear = save(filled(nn.Linear(2, 2)).double().state_dict(), tmp_path / "linear.pt")
    tensors, report = kept(target("Behaving", how="complex"), linear, tmp_path / "run", verify={}, dtype="float64")
    assert (tensors, report.exit_code) == ({}, 0)
    assert detail(report, "kept outputs") == (
        "not written: the format cannot hold 1 tensor: output.0 (its dtype is complex128)"
    )


def test_nothing_is_kept_without_a_pass_or_on_meta(two: Path, tmp_path: Path) -> None:
    assert kept("Two", two, tmp_path / "run", verify={"forward": False})[0] == {}
    assert kept("Two", two, tmp_path / "run", device="meta")[0] == {}
    assert kept("Two", two, tmp_path / "run", mode="plan")[0] == {}
    linear = save(filled(nn.Linear(2, 2)).state_dict(), tmp_path / "linear.pt")
    _, report = kept(target("Behaving", how="raise"), linear, tmp_path / "run", verify={})
    assert (report.verification.kept, "kept outputs" in checks(report)) == (None, False)


def test_a_file_that_no_run_wrote_stays(two: Path, tmp_path: Path) -> None:
    mine = tmp_path / "run" / KEPT
    for content in (b"", b"not safetensors"):
        mine.parent.mkdir(exist_ok=True)
        mine.write_bytes(content)
        report = Report()
        execute(job("Two", two, verify=INPUT), report, folder=mine.parent)
        assert mine.read_bytes() == content
        assert detail(report, "kept outputs") == (
            "not written: outputs.safetensors in the run's folder is another file, which stays"
        )
    save_file({"weight": torch.ones(2)}, mine)
    _, report = kept("Two", two, mine.parent)
    assert set(load_file(mine)) == {"weight"}
    mine.unlink()
    (tmp_path / "elsewhere").write_bytes(b"mine")
    mine.symlink_to(tmp_path / "elsewhere")
    report = Report()
    execute(job("Two", two, verify=INPUT), report, folder=mine.parent)
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"
    assert report.verification.kept is None


def test_a_later_run_replaces_what_an_earlier_one_kept(two: Path, tmp_path: Path) -> None:
    first, _ = kept("Two", two, tmp_path / "run")
    second, _ = kept("Two", two, tmp_path / "run", seed=1)
    assert not torch.equal(first["input.0"], second["input.0"])


def test_a_folder_that_cannot_be_written_costs_nothing_else(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("loader.verify.kept.write_whole", full)
    tensors, report = kept("Two", two, tmp_path / "run")
    assert (tensors, report.status, report.exit_code, report.verification.kept) == ({}, "ok", 0, None)
    assert detail(report, "kept outputs") == (
        "not written: outputs.safetensors in the run's folder: No space left on device"
    )


def test_only_the_command_lines_runs_keep_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert loader.load().report.verification.kept is None
    assert list(tmp_path.rglob("*")) == []
    done = run_loader("verify.keep=1MB", cwd=tmp_path)
    found = done.report["verification"]["kept"]
    assert Path(found["path"]) == tmp_path / "run" / KEPT
    assert found["bytes"] == Path(found["path"]).stat().st_size
    assert set(load_file(found["path"])) == {"input.0", "output.0"}
    assert 0 < done.report["timings"]["forward"] <= done.report["timings"]["verify"]
