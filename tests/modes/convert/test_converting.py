"""Converting on the command line, as a user types it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import loader
from loader.cli.main import run_command
from loader.errors import ConfigError
from loader.examples import SimpleNet
from tests.command import REPOSITORY, run, run_loader


def test_the_shipped_example_converts_and_comes_back(tmp_path: Path) -> None:
    first = run_loader("mode=convert", "convert.path=out.safetensors", "device=cpu", cwd=tmp_path)
    assert first.code == 0, first.err
    written = first.report["written"]
    assert written["path"] == f"{tmp_path}/out.safetensors"
    assert written["bytes"] == (tmp_path / "out.safetensors").stat().st_size
    told = [line for line in first.out.splitlines() if line.startswith(("written", "load it"))]
    assert told == [
        f"written    {tmp_path}/out.safetensors: 4 tensors, 407.7 kB",
        f"load it    python {REPOSITORY}/run.py model=embedded checkpoint.path=out.safetensors",
    ]
    again = run_loader(*shlex.split(written["next"]), "device=cpu", cwd=tmp_path)
    assert again.code == 0, again.err
    assert again.report["verification"]["fingerprint"] == first.report["verification"]["fingerprint"]
    assert again.report["config"]["model"] == {"_target_": "loader.examples.SimpleNet"}


def test_a_sweep_converts_each_file_to_a_path_of_its_own(tmp_path: Path) -> None:
    for name in ("a=1", "b"):
        torch.save(SimpleNet().state_dict(), tmp_path / f"{name}.pth")
    (tmp_path / "out").mkdir()
    command = [sys.executable, str(REPOSITORY / "run.py"), "-m", "mode=convert", "checkpoint.path=glob(*.pth)"]
    done = run(*command, "convert.path=out/${hydra:job.num}.safetensors", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number, name in enumerate(("a=1", "b")):
        state = torch.load(tmp_path / f"{name}.pth")
        read = load_file(tmp_path / "out" / f"{number}.safetensors")
        assert all(torch.equal(read[key], state[key]) for key in state)
    clash = run(*command, "convert.path=out/one.safetensors", "hydra.sweep.dir=clash", cwd=tmp_path)
    assert clash.returncode == 2
    assert "convert.path=out/one.safetensors is one file for jobs 0 and 1; expected one file per job" in clash.stderr
    assert "try  'convert.path=out/one-${hydra:job.num}.safetensors'" in clash.stderr
    assert not (tmp_path / "out" / "one.safetensors").exists()


UNSET = "error  'convert.path' is required in mode=convert\n  try  convert.path=model.safetensors\n"
OTHER = (
    "error  'convert.path' is ~/x.pt, expected a file called *.safetensors, or a folder\n"
    "  try  'convert.path=\"~/x.safetensors\"'\n"
)


@pytest.mark.parametrize(("overrides", "told"), [([], UNSET), (["convert.path=~/x.pt"], OTHER)])
def test_a_refusal_is_one_block(
    overrides: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert run_command(["mode=convert", *overrides, "hydra.run.dir=run"]) == 2
    assert capsys.readouterr().err == told
    assert json.loads((tmp_path / "run" / "report.json").read_text())["mode"] == "convert"


def test_python_converts_and_takes_the_model_out_again(tmp_path: Path) -> None:
    converted = loader.load(["mode=convert", f"convert.path={tmp_path}/out.safetensors", "dtype=float16", "device=cpu"])
    assert converted.report.written is not None
    again = loader.load(["model=embedded", f"checkpoint.path={tmp_path}/out.safetensors", "device=cpu"])
    assert [str(parameter.dtype) for parameter in again.model.parameters()] == ["torch.float16"] * 4
    for config in ({"model": "embedded"}, {"model": {"_target_": "embedded"}}):
        found = loader.load({**config, "checkpoint": {"path": f"{tmp_path}/out.safetensors"}, "device": "cpu"})
        assert isinstance(found.model, SimpleNet)


def test_an_argument_that_the_embedded_model_does_not_take_is_refused(tmp_path: Path) -> None:
    loader.load(["mode=convert", f"convert.path={tmp_path}/out.safetensors", "device=cpu"])
    with pytest.raises(ConfigError, match=r"wrong arguments for SimpleNet.*unexpected widt"):
        loader.load(["model=embedded", "model.widt=3", f"checkpoint.path={tmp_path}/out.safetensors"])
