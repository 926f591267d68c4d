"""Pages of real runs and sweeps, from the command line."""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from loader.job import reported
from loader.page import write_run_page
from loader.report.data import Report
from loader.schema import CompareConfig
from loader.sweep.page import write_page
from tests.command import REPOSITORY, run, run_loader
from tests.page.folders import make_sweep
from tests.page.parsed import Parsed, parsed
from tests.sweep.sweeping import make_folder, sweep


def page_of(folder: Path) -> Parsed:
    return parsed(folder / "report.html")


def test_a_run_has_no_page_unless_asked(tmp_path: Path) -> None:
    assert run_loader(cwd=tmp_path).code == 0
    assert not (tmp_path / "run" / "report.html").exists()


def test_a_run_has_a_page(tmp_path: Path) -> None:
    done = run_loader("report.page=true", "evaluate=digits", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(f"\npage       {tmp_path / 'run' / 'report.html'}\n")
    page = page_of(tmp_path / "run")
    assert page.texts["title"] == ["loader.examples.SimpleNet: ok"]
    assert "loader.examples.SimpleNet, 101,770 parameters: all 4 keys loaded." in json.dumps(page.data)
    for text in ("accuracy", "forward pass", "passed", "safetensors", "[10, 10]", "evaluate=digits"):
        assert text in page.text
    assert {picture["kind"] for picture in page.data.values()} == {"coverage", "steps"}
    (steps,) = page.pictures("steps")
    assert {"open", "build", "plan", "apply", "verify", "evaluate"} <= {*steps["steps"]}
    files = [href for href in page.attributes("href") if "report.json" in href or "outputs" in href]
    assert all((tmp_path / "run" / href[2:]).is_file() for href in files)


def test_a_refused_run_has_a_page_with_the_line_to_type(tmp_path: Path) -> None:
    torch.save({"fc1.weight": torch.zeros(128, 784)}, tmp_path / "half.pt")
    done = run_loader("report.page=true", "model=simple_net", "checkpoint.path=half.pt", cwd=tmp_path)
    assert done.code == 4
    assert done.out == f"page       {tmp_path / 'run' / 'report.html'}\n"
    page = page_of(tmp_path / "run")
    assert page.texts["title"] == ["loader.examples.SimpleNet: failed"]
    assert [fix["line"] for fix in done.report["error"]["fixes"] if fix["line"]] == [
        line for line in page.texts["code"] if line in done.err
    ]
    assert page.pictures("coverage")[0]["maps"][0]["about"].startswith(
        "loader.examples.SimpleNet, 101,770 parameters: 1 loaded, 3 missing of 4 keys."
    )


@pytest.mark.parametrize("mode", ["plan", "inspect"])
def test_every_mode_has_a_page(tmp_path: Path, mode: str) -> None:
    assert run_loader("report.page=true", f"mode={mode}", cwd=tmp_path).code == 0
    assert mode in page_of(tmp_path / "run").text


def test_a_page_that_cannot_be_written_is_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "run" / "report.html" / "taken").mkdir(parents=True)
    done = run_loader("report.page=true", cwd=tmp_path)
    assert done.code == 2
    assert done.report["status"] == "ok"
    assert "report.html could not be written: Is a directory" in done.err
    assert "try  report.page=false" in done.err
    assert "Traceback" not in done.err


def test_a_bug_of_a_page_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("loader.page.run.run_content", fail)
    report = Report(config={"report": {"page": True}})
    assert reported(report, tmp_path) == 2
    assert "a bug of the loader, please report it: RecursionError: too deep" in capsys.readouterr().err
    assert json.loads((tmp_path / "report.json").read_text())["status"] == "ok"


@pytest.mark.slow
def test_a_page_whose_process_dies_is_a_reason(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nsys.addaudithook(lambda name, given: name == 'open' and str(given[0]).endswith('page.css')"
        " and os._exit(9))\n"
    )
    make_folder(tmp_path)
    done = sweep("checkpoint.path=epoch=2.pth", "seed=0", cwd=tmp_path, PYTHONPATH=f"{tmp_path}")
    assert done.code == 2
    assert "summary.html could not be written: its process ended with 9" in done.err
    assert done.summary["ok"] == 1


def test_an_interruption_while_the_page_is_written_ends_the_page_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)

    def interrupted() -> None:
        raise KeyboardInterrupt

    with reader:
        stopped = SimpleNamespace(start=lambda: None, terminate=lambda: ended.append(1), join=lambda: ended.append(2))
        ends = MagicMock(wraps=reader, recv=interrupted)
        ends.__enter__.return_value = ends
        processes = SimpleNamespace(Pipe=lambda duplex: (ends, writer), Process=lambda **_: stopped)
        monkeypatch.setattr("loader.sweep.page.multiprocessing.get_context", lambda method: processes)
        ended: list[int] = []
        assert write_page(tmp_path, CompareConfig()) == "interrupted"
        assert ended == [1, 2]


def test_a_sweep_has_a_page_with_every_job(tmp_path: Path) -> None:
    make_folder(tmp_path)
    done = sweep("checkpoint.path=glob(*.pth)", "dtype=float32,float16,bogus", "+model.behave=well", cwd=tmp_path)
    assert done.code == 2
    page = parsed(done.folder / "summary.html")
    assert [found["id"] for tag, found in page.tags if tag == "tr" and "id" in found] == [f"job-{n}" for n in range(6)]
    assert "'dtype' is 'bogus'" in page.text
    assert "dtype=null" in page.texts["code"]
    commands = [job["command"] for job in done.summary["jobs"] if job["status"] == "failed"]
    assert {*commands} <= {*page.texts["code"]}
    assert all((done.folder / href[2:]).is_file() for href in page.attributes("href") if "#" not in href)
    (picture,) = page.pictures("coverage")
    assert picture["maps"][0]["rows"] == [["(model)", 1, 6, [2, 0, 0, 0]]]


@pytest.mark.slow
def test_weights_are_compared_where_that_is_asked_for(tmp_path: Path) -> None:
    make_folder(tmp_path)
    weights = [torch.load(tmp_path / name, weights_only=True) for name in ("epoch=2.pth", "epoch=10.pth")]
    done = sweep("checkpoint.path=glob(*.pth)", "sweep.compare.weights=true", "device=cpu", cwd=tmp_path)
    assert done.code == 0
    ours, theirs = (torch.cat([value.flatten() for value in state.values()]) for state in weights)
    page = parsed(done.folder / "summary.html")
    (picture,) = page.pictures("drift")
    expected = float((theirs - ours).norm() / ours.norm())
    assert (picture["modules"], picture["jobs"]) == (["(model)"], [0, 1])
    assert picture["values"] == [[0.0, pytest.approx(expected, rel=1e-2)]]
    assert "Distance of each module to that of job 0, relative to its norm (exact)." in page.text
    assert {"weights.sketch.safetensors", "report.json"} <= {path.name for path in (done.folder / "1").iterdir()}


def test_a_sweep_without_a_page(tmp_path: Path) -> None:
    make_folder(tmp_path)
    done = sweep("checkpoint.path=epoch=2.pth", "seed=0", "sweep.page=false", cwd=tmp_path)
    assert done.code == 0
    assert not (done.folder / "summary.html").exists()
    assert done.summary["ok"] == 1


@pytest.mark.slow
def test_a_sweeps_page_that_cannot_be_written_loses_no_result(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "sweep" / "summary.html" / "taken").mkdir(parents=True)
    done = sweep("checkpoint.path=epoch=2.pth", "seed=0,1", cwd=tmp_path)
    assert done.code == 2
    assert done.summary["ok"] == 2
    assert "summary.html" in done.err
    assert "Is a directory" in done.err
    assert "try  sweep.page=false" in done.err
    assert "Traceback" not in done.err


@pytest.mark.damaged_reports
def test_writing_a_page_imports_no_torch_and_no_hydra(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(make_sweep(tmp_path)))
    code = (
        "import json, sys; from pathlib import Path; from loader.page import write_sweep_page;"
        "folder = Path(sys.argv[1]);"
        "write_sweep_page(folder, json.loads((folder / 'summary.json').read_text()));"
        "sys.exit(bool({'torch', 'hydra', 'omegaconf'} & {*sys.modules}))"
    )
    assert run(sys.executable, "-c", code, str(tmp_path), cwd=REPOSITORY).returncode == 0


def test_a_report_of_another_version_makes_a_page(tmp_path: Path) -> None:
    report: dict[str, Any] = {"schema": 99, "status": "splendid", "keys": 7, "parts": {"": None}, "timings": [1]}
    assert "splendid" in parsed(write_run_page(tmp_path, report)).text
