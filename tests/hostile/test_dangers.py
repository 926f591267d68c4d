"""What no model needs and an attack would use is reported wherever a file names it, though the file loads as data."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from loader.errors import CheckpointError, FitError
from loader.formats.pickle.globals import dangerous_maker, dangers_among
from loader.formats.pickle.records import Global, Reduced
from loader.job import execute
from loader.modes import lines
from loader.parts.open import open_checkpoint
from loader.report.data import Report
from tests.command import REPOSITORY, run
from tests.formats.hostile import torch_zip
from tests.hostile import samples
from tests.hostile.carriers import CARRIERS
from tests.hostile.case import MODEL, WEIGHT
from tests.hostile.routes import OPCODES, ROUTES, call, named, text
from tests.jobs import carry_out

UNREAD = frozenset({"npz", "dcp, object", "torch-tar, system"})
"""Places whose pickles nothing reads: torch itself does not look at the last one either."""
TOLD = "the file names os.system, which no model needs and an attack would use"


def hostile(folder: Path, carrier: str = "torch-zip") -> Path:
    """Honest weights next to a call of `os.system`."""
    return CARRIERS[carrier](folder, ROUTES["GLOBAL and REDUCE"](str(folder / "mark")))


@pytest.mark.parametrize("carrier", sorted(CARRIERS.keys() - UNREAD))
def test_every_pickle_of_every_format_is_searched(carrier: str, tmp_path: Path) -> None:
    with open_checkpoint(hostile(tmp_path, carrier)) as checkpoint:
        assert dangers_among(checkpoint.named.values()) == ["os.system"]


@pytest.mark.parametrize("format", sorted(samples.SAMPLES))
def test_honest_files_hold_no_danger(format: str, tmp_path: Path) -> None:
    with open_checkpoint(samples.SAMPLES[format](tmp_path, {"weight": WEIGHT})) as checkpoint:
        assert dangers_among(checkpoint.named.values()) == []


@pytest.mark.parametrize("mode", ["load", "plan"])
def test_load_and_plan_report_it(mode: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = hostile(tmp_path)
    with caplog.at_level(logging.WARNING, "loader"):
        loaded = carry_out(MODEL, path, mode=mode)
    assert loaded.report.parts[""].dangers == ["os.system"]
    assert ("DANGER", TOLD, "bold red") in lines(loaded.report)
    assert f"{path} names os.system, which no model needs and an attack would use" in caplog.messages
    if mode == "load":
        assert torch.equal(loaded.model.state_dict()["weight"], WEIGHT)


def test_a_load_into_a_live_model_reports_it(tmp_path: Path) -> None:
    report = loader.load_into(torch.nn.Linear(3, 1, bias=False), hostile(tmp_path))
    assert report.parts[""].dangers == ["os.system"]


def test_inspect_reports_it_where_the_pickle_throws_it_away(tmp_path: Path) -> None:
    report = Report()
    path = hostile(tmp_path, "torch-zip, beside")
    execute({"mode": "inspect", "checkpoint": {"path": str(path)}}, report)
    assert report.parts[""].dangers == ["os.system"]
    assert ("DANGER", TOLD, "bold red") in lines(report)


def test_a_refused_job_reports_it_next_to_the_refusal(tmp_path: Path) -> None:
    line = [sys.executable, str(REPOSITORY / "run.py"), "model._target_=torch.nn.Linear", "+model.in_features=4"]
    line += ["+model.out_features=1", f"checkpoint.path={hostile(tmp_path)}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = run(*line, cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith(f"DANGER {TOLD}\nerror  ")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["parts"][""]["dangers"] == ["os.system"]
    assert not (tmp_path / "mark").exists()


def refused(path: Path, **settings: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        carry_out(MODEL, path, **settings)
    return caught.value


@pytest.mark.parametrize("mode", ["load", "plan"])
@pytest.mark.parametrize("route", ["GLOBAL and REDUCE", "STACK_GLOBAL", "INST", "OBJ", "FRAME around it"])
def test_a_root_that_such_a_call_makes_is_refused_with_its_name(mode: str, route: str, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.pt", OPCODES[route](str(tmp_path / "mark")) + b".")
    error = refused(path, mode=mode)
    assert error.message == (
        f"{path} holds at its top level the result of calling os.system, which no model needs and an attack would use"
    )
    assert error.hint == "do not load this file; ask whoever made it for a safetensors file"
    assert error.exit_code == 3


def test_so_is_one_that_has_tensors_among_its_arguments(tmp_path: Path) -> None:
    state = b"}" + text("weight") + text("x") + b"s"
    path = torch_zip(tmp_path / "a.pt", call(named("builtins", "eval"), state) + b".")
    assert "at its top level the result of calling builtins.eval" in refused(path).message
    assert "at its top level the result of calling builtins.eval" in refused(path, checkpoint={"key": "0"}).message


def test_so_is_a_nested_key_under_which_such_a_call_stands(tmp_path: Path) -> None:
    path = hostile(tmp_path)
    assert "holds under 'extra' the result of calling os.system" in refused(path, checkpoint={"key": "extra"}).message
    with pytest.raises(FitError, match="the nested key 'extr' is not in"):
        carry_out(MODEL, path, checkpoint={"key": "extr"})


def test_the_call_that_makes_an_object_is_named() -> None:
    system, net = Global("os", "system"), Global("my_pkg", "Net")
    getattr_ = Global("builtins", "getattr")
    assert dangerous_maker(Reduced(system, ())) == "os.system"
    assert dangerous_maker(Reduced(net, ())) == ""
    assert dangerous_maker(Reduced(Reduced(system, ()), ())) == "os.system"
    assert dangerous_maker(Reduced(Reduced(getattr_, (Global("os", "path"), "join")), ())) == "os.path.join"
    assert dangerous_maker(Reduced(Reduced(getattr_, (net, "Inner")), ())) == ""
    assert dangerous_maker(Reduced(Reduced(getattr_, (Reduced(net, ()), "x")), ())) == "builtins.getattr"
    assert dangerous_maker(Reduced(Reduced(Global("types", "new_class"), ()), (), by_new=True)) == ""
    assert dangerous_maker(Reduced("no name", ())) == ""
