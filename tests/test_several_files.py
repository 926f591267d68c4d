"""Several files as one checkpoint, as typed on a command line and written in a config."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file

from loader import load
from loader.config.rewrite import rewrite
from tests.command import REPOSITORY, run, run_loader
from tests.models import Two, filled

MODEL = ("model._target_=tests.models.Two", "verify.input.shape=[2,4]", "device=cpu")
State = dict[str, torch.Tensor]


@pytest.fixture
def states(tmp_path: Path) -> list[State]:
    """The weights of six steps, each in `run/epoch=N.pt`."""
    (tmp_path / "run").mkdir()
    made = [{key: value + n for key, value in filled(Two()).state_dict().items()} for n in range(6)]
    for number, state in enumerate(made):
        torch.save({"state_dict": state, "global_step": 100 * number}, tmp_path / "run" / f"epoch={number}.pt")
    return made


def run_two(*overrides: str, cwd: Path) -> Any:
    return run_loader(*MODEL, "checkpoint.key=state_dict", *overrides, cwd=cwd, PYTHONPATH=str(REPOSITORY))


def paths_of(report: dict[str, Any]) -> list[str]:
    return [Path(file["path"]).name for file in report["parts"][""]["combined"]["files"]]


def expected(states: list[State], weights: dict[int, float]) -> State:
    return {key: sum((w * states[n][key] for n, w in weights.items()), torch.zeros(())) for key in states[0]}


def test_a_list_is_typed_as_a_list_and_shown(tmp_path: Path, states: list[State]) -> None:
    typed = ("checkpoint.path=[run/epoch=0.pt, run/epoch=3.pt]", "checkpoint.combine=[0.75,0.25]")
    done = run_two(*typed, "mode=convert", "convert.path=mean.safetensors", "report.page=true", cwd=tmp_path)
    assert done.code == 0, done.err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "weighted sum of 2 files" in page
    assert f"0.25 × {tmp_path}/run/epoch=3.pt, " in page
    made = load_file(tmp_path / "mean.safetensors")
    for key, value in expected(states, {0: 0.75, 3: 0.25}).items():
        torch.testing.assert_close(made[key], value)
    lines = [line.strip() for line in done.out.splitlines()]
    assert any(line.startswith("checkpoint weighted sum of 2 files: 4 tensors under 'state_dict'") for line in lines)
    assert f"0.75 × {tmp_path}/run/epoch=0.pt" in lines
    assert f"0.25 × {tmp_path}/run/epoch=3.pt" in lines
    assert "read back: 4 of 4 tensors: 0 compared with the file, 4 computed again, all bytes" in done.out
    assert done.report["parts"][""]["path"] == str(tmp_path / "run" / "epoch=3.pt")
    assert done.report["config"]["checkpoint"]["path"] == ["run/epoch=0.pt", "run/epoch=3.pt"]
    assert done.report["parts"][""]["step"] == 300

    again = run_two(*typed, "mode=convert", "convert.path=mean.safetensors", cwd=tmp_path)
    assert again.code == 0, again.err
    other = (typed[0], "checkpoint.combine=mean", "mode=convert", "convert.path=mean.safetensors")
    refused = run_two(*other, cwd=tmp_path)
    assert refused.code == 2
    assert "was converted from 0.75 × epoch=0.pt + 0.25 × epoch=3.pt" in refused.err


def test_the_files_own_names_hold_the_sum(tmp_path: Path) -> None:
    states = [{f"module.{key}": value + n for key, value in filled(Two()).state_dict().items()} for n in range(2)]
    for number, state in enumerate(states):
        torch.save(state, tmp_path / f"{number}.pt")
    done = run_loader(
        *MODEL, "rules=[ddp]", "checkpoint.path=[0.pt,1.pt]", "checkpoint.combine=mean", "mode=convert",
        "convert.path=mean.safetensors", "convert.names=checkpoint", cwd=tmp_path, PYTHONPATH=str(REPOSITORY),
    )  # fmt: skip
    assert done.code == 0, done.err
    made = load_file(tmp_path / "mean.safetensors")
    assert made.keys() == states[0].keys()
    for key, value in made.items():
        torch.testing.assert_close(value, states[0][key] + 0.5)


def test_a_source_is_never_replaced(tmp_path: Path, states: list[State]) -> None:
    for number in range(2):
        done = run_two(
            f"checkpoint.path=run/epoch={number}.pt", "mode=convert", f"convert.path={number}.safetensors", cwd=tmp_path
        )
        assert done.code == 0, done.err
    listed = ("checkpoint.path=[0.safetensors,1.safetensors]", "checkpoint.combine=mean", "checkpoint.key=null")
    for number in range(2):
        refused = run_two(*listed, "mode=convert", f"convert.path={number}.safetensors", cwd=tmp_path)
        assert refused.code == 2
        assert f"{number}.safetensors, which is the source of the conversion" in refused.err


def test_a_glob_in_a_list_stands_for_its_files(tmp_path: Path, states: list[State]) -> None:
    done = run_two("checkpoint.path=[glob(run/*.pt, last=3)]", "checkpoint.combine=mean", cwd=tmp_path)
    assert done.code == 0, done.err
    assert paths_of(done.report) == [f"epoch={n}.pt" for n in (3, 4, 5)]
    done = run_two("checkpoint.path=[run/epoch=1.pt,glob(run/*.pt, last=1)]", "checkpoint.combine=mean", cwd=tmp_path)
    assert paths_of(done.report) == ["epoch=1.pt", "epoch=5.pt"]
    refused = run_two("checkpoint.path=[glob(run/*.bin)]", "checkpoint.combine=mean", cwd=tmp_path)
    assert refused.code == 2
    assert "no file matches 'run/*.bin' for checkpoint.path" in refused.err


def test_a_list_without_combine_is_refused_with_both_meanings(tmp_path: Path, states: list[State]) -> None:
    refused = run_two("checkpoint.path=[glob(run/*.pt, last=2)]", cwd=tmp_path)
    assert refused.code == 2
    assert "'checkpoint.path' lists 2 files (run/epoch=4.pt, run/epoch=5.pt)" in refused.err
    assert "try  checkpoint.combine=mean\n" in refused.err
    assert "try  -m checkpoint.path=run/epoch=4.pt,run/epoch=5.pt   # one job for each" in refused.err


def test_a_file_whose_name_looks_like_a_list_is_that_file(tmp_path: Path, states: list[State]) -> None:
    (tmp_path / "[a,b]").write_bytes((tmp_path / "run" / "epoch=2.pt").read_bytes())
    done = run_two("checkpoint.path=[a,b]", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.report["parts"][""]["combined"] is None


@pytest.mark.parametrize(
    ("typed", "sweep", "hydra"),
    [
        ("checkpoint.path=[a=1.pt,b.pt]", False, ['checkpoint.path=["a=1.pt",b.pt]']),
        ("checkpoint.path=[1e5, null.pt , a b.pt]", False, ['checkpoint.path=["1e5",null.pt,a b.pt]']),
        ("checkpoint.path=[a.pt],[b.pt,c=2.pt]", True, ['checkpoint.path=[a.pt],[b.pt,"c=2.pt"]']),
        ("checkpoint.path=a.pt,[b.pt]", True, ["checkpoint.path=a.pt,[b.pt]"]),
        ("parts.head.path=[a=1.pt]", False, ["++parts.head.path=null", '+parts.head.path=["a=1.pt"]']),
        ("checkpoint.sha256=[1e5,2]", False, ['checkpoint.sha256=["1e5","2"]']),
        ("checkpoint.path=[]", False, ["checkpoint.path=[]"]),
    ],
)
def test_items_of_a_list_are_texts(typed: str, *, sweep: bool, hydra: list[str]) -> None:
    assert rewrite([typed], sweep=sweep, exists=set().__contains__) == hydra


def test_a_sweep_runs_a_job_for_each_list(tmp_path: Path, states: list[State]) -> None:
    done = run(
        sys.executable, str(REPOSITORY / "run.py"), "-m", *MODEL, "checkpoint.key=state_dict",
        "checkpoint.path=[glob(run/*.pt, last=2)],[run/epoch=0.pt,run/epoch=1.pt],[run/epoch=0.pt]",
        "checkpoint.combine=mean", "hydra.sweep.dir=out", cwd=tmp_path, PYTHONPATH=str(REPOSITORY),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [job["values"]["checkpoint.path"] for job in summary["jobs"]] == [
        ["run/epoch=4.pt", "run/epoch=5.pt"], ["run/epoch=0.pt", "run/epoch=1.pt"], ["run/epoch=0.pt"],
    ]  # fmt: skip
    for label in ("[epoch=4.pt, epoch=5.pt]", "[epoch=0.pt, epoch=1.pt]", "[epoch=0.pt]"):
        assert label in done.stdout
    rows = list(csv.DictReader((tmp_path / "out" / "summary.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 3
    assert "epoch=4.pt" in rows[0]["checkpoint.path"]
    assert "epoch=5.pt" in (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")

    resumed = run(
        sys.executable, str(REPOSITORY / "run.py"), "-m", *MODEL, "checkpoint.key=state_dict",
        "checkpoint.path=[glob(run/*.pt, last=2)],[run/epoch=0.pt,run/epoch=1.pt],[run/epoch=0.pt]",
        "checkpoint.combine=mean", "sweep.resume=out", "hydra.sweep.dir=next", cwd=tmp_path, PYTHONPATH=str(REPOSITORY),
    )  # fmt: skip
    assert resumed.returncode == 0, resumed.stderr
    assert "3 jobs" in resumed.stdout or "resumed" in resumed.stdout
    first = [job["seconds"] for job in summary["jobs"]]
    assert [job["seconds"] for job in json.loads((tmp_path / "next" / "summary.json").read_text())["jobs"]] == first

    torch.save(torch.load(tmp_path / "run" / "epoch=1.pt"), tmp_path / "run" / "epoch=1.pt")
    run(
        sys.executable, str(REPOSITORY / "run.py"), "-m", *MODEL, "checkpoint.key=state_dict",
        "checkpoint.path=[run/epoch=4.pt,run/epoch=5.pt],[run/epoch=0.pt,run/epoch=1.pt]",
        "checkpoint.combine=mean", "sweep.resume=out", "hydra.sweep.dir=third", cwd=tmp_path,
        PYTHONPATH=str(REPOSITORY),
    )  # fmt: skip
    again = [job["seconds"] for job in json.loads((tmp_path / "third" / "summary.json").read_text())["jobs"]]
    assert again[0] == first[0]
    assert again[1] != first[1]  # a file of its list was written since


def test_a_config_file_lists_files(tmp_path: Path, states: list[State]) -> None:
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    checkpoint = {"path": ["run/epoch=0.pt", "glob(run/*.pt, last=2)"], "combine": "mean", "key": "state_dict"}
    text = yaml.safe_dump({"checkpoint": checkpoint})
    (folder / "mean.yaml").write_text(f"# @package _global_\n{text}")
    done = run_two("--config-dir", "conf", "experiment=mean", cwd=tmp_path)
    assert done.code == 0, done.err
    assert paths_of(done.report) == ["epoch=0.pt", "epoch=4.pt", "epoch=5.pt"]
    assert done.report["config"]["checkpoint"]["path"] == ["run/epoch=0.pt", "run/epoch=4.pt", "run/epoch=5.pt"]

    torch.save(torch.load(tmp_path / "run" / "epoch=5.pt"), tmp_path / "run" / "epoch=6.pt")
    replayed = run_loader("mode=replay", "replay.path=run", cwd=tmp_path / "conf", PYTHONPATH=str(REPOSITORY))
    assert replayed.code != 0  # another folder
    (tmp_path / "run" / "report.json").rename(tmp_path / "recorded.json")
    replayed = run_loader("mode=replay", "replay.path=recorded.json", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert replayed.code == 0, replayed.err
    assert paths_of(replayed.report) == ["epoch=0.pt", "epoch=4.pt", "epoch=5.pt"]
    assert "mean of 3 files: " in replayed.out
    assert "ok   file: mean of 3 files: " in replayed.out


def test_a_golden_record_next_to_one_of_the_files_is_not_that_of_their_sum(tmp_path: Path, states: list[State]) -> None:
    recorded = run_two("checkpoint.path=run/epoch=5.pt", "verify.record=true", cwd=tmp_path)
    assert recorded.code == 0, recorded.err
    listed = ("checkpoint.path=[run/epoch=4.pt,run/epoch=5.pt]", "checkpoint.combine=mean")
    done = run_two(*listed, cwd=tmp_path)
    assert done.code == 0, done.err
    refused = run_two(*listed, "verify.record=true", cwd=tmp_path)
    assert refused.code == 2
    assert "verify.record=true writes next to a job's one checkpoint file, and this job has 2" in refused.err


def test_inspecting_lists_what_the_files_share(tmp_path: Path, states: list[State]) -> None:
    done = run_loader(
        "mode=inspect", "checkpoint.path=[run/epoch=0.pt,run/epoch=1.pt]", "checkpoint.combine=mean", cwd=tmp_path
    )
    assert done.code == 0, done.err
    assert "file       mean of 2 files: torch-zip" in done.out
    assert "(computed from 2 tensors)" in done.out
    assert '\'checkpoint.path=["run/epoch=0.pt","run/epoch=1.pt"]\' checkpoint.combine=mean' in done.out


def test_a_config_for_a_list_is_written(tmp_path: Path, states: list[State]) -> None:
    done = run_loader(
        "mode=scaffold", "model._target_=tests.models.Two", "checkpoint.combine=mean",
        "checkpoint.path=[run/epoch=0.pt,run/epoch=1.pt]", cwd=tmp_path, PYTHONPATH=str(REPOSITORY),
    )  # fmt: skip
    assert done.code == 0, done.err
    written = tmp_path / done.report["written"]["path"]
    config = yaml.safe_load(written.read_text())
    assert config["checkpoint"]["path"] == ["run/epoch=0.pt", "run/epoch=1.pt"]
    assert config["checkpoint"]["combine"] == "mean"
    name = written.stem
    ran = run_loader("--config-dir", "conf", f"experiment={name}", cwd=tmp_path, PYTHONPATH=str(REPOSITORY))
    assert ran.code == 0, ran.err


def test_the_lines_for_a_file_that_fits_no_example_name_the_whole_list(tmp_path: Path) -> None:
    for number in range(2):
        torch.save({"x.weight": torch.ones(3, number + 3 - number)}, tmp_path / f"{number}.pt")
    done = run_loader("checkpoint.path=[0.pt,1.pt]", "checkpoint.combine=mean", "checkpoint.key=null", cwd=tmp_path)
    assert done.code == 2
    assert f"the mean of 2 files in {tmp_path}/ (0.pt, 1.pt) does not fit the default example" in done.err
    assert 'model._target_=my_pkg.Net \'checkpoint.path=["0.pt","1.pt"]\' checkpoint.combine=mean' in done.err


def test_python_takes_lists_as_well(tmp_path: Path, states: list[State], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for loaded in (
        load([*MODEL, "checkpoint.key=auto", "checkpoint.path=[glob(run/*.pt,every=5)]", "checkpoint.combine=mean"]),
        load(
            {
                "model": {"_target_": "tests.models.Two"},
                "checkpoint": {"path": ["run/epoch=0.pt", "run/epoch=5.pt"], "combine": "mean", "key": "auto"},
                "device": "cpu",
            }
        ),
    ):
        for key, value in loaded.model.state_dict().items():
            torch.testing.assert_close(value, (states[0][key] + states[5][key]) / 2)
