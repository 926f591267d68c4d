"""`mode=compare` from the command line: typing, sweeps, replay, pages."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from tests.command import REPOSITORY, Finished, run_loader
from tests.jobs import save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    state = {"enc.weight": torch.arange(6.0).view(2, 3), "enc.bias": torch.ones(2), "head": torch.ones(1)}
    near = {key: value + (key == "head") * 0.5 for key, value in state.items()}
    save(state, tmp_path / "a.pt")
    save(near, tmp_path / "epoch=1.pt")
    save({f"module.{key}": value for key, value in near.items()}, tmp_path / "ddp.pt")
    save({"state_dict": {"new.one": torch.ones(1), **state}}, tmp_path / "1e5.pt")
    return tmp_path


def compare(folder: Path, *overrides: str) -> Finished:
    return run_loader("mode=compare", "checkpoint.path=a.pt", *overrides, cwd=folder)


def differing(found: Finished) -> list[str]:
    return [row["key"] for row in found.report["comparison"]["tensors"] if row["differing"]]


def test_the_table_stands_on_the_terminal(folder: Path) -> None:
    found = compare(folder, "compare.path=epoch=1.pt")
    assert found.code == 0, found.err
    sizes = [f"{part['bytes'] / 1000:.1f} kB" for part in found.report["parts"].values()]
    assert found.out.splitlines()[:5] == [
        f"checkpoint {folder}/a.pt: 3 tensors, torch-zip, {sizes[0]}",
        f"compare    {folder}/epoch=1.pt: 3 tensors, torch-zip, {sizes[1]}",
        "compared   3 tensors: 2 equal, 1 different",
        "by module  module       tensors  differ  max abs  mean abs    cosine",
        "           (top level)        1       1      0.5       0.5  1.000000",
    ]
    assert differing(found) == ["head"]


def test_names_that_look_like_numbers_and_rules_are_typed_as_elsewhere(folder: Path) -> None:
    for rules in ("compare.rules=[ddp]", "compare.rules=auto", "+compare.rules={d: {strip: module.}}"):
        found = compare(folder, "compare.path=ddp.pt", rules)
        assert (found.code, differing(found)) == (0, ["head"]), found.err
    found = compare(folder, "compare.path=1e5.pt", "compare.key=auto")
    assert found.report["comparison"]["only_right"] == ["new.one"]
    assert found.report["parts"]["compare"]["applied"] == ["compare.key=state_dict"]
    found = compare(folder, "compare.path=1e5.pt", "compare.key=state_dict", "compare.rules.n.drop=new.*")
    assert found.report["comparison"]["only_right"] == []


def test_the_lines_of_a_failure_work_when_pasted(folder: Path) -> None:
    given = ["compare.path=1e5.pt", "compare.key=state_dict", "compare.atol=0.1"]
    found = compare(folder, *given)
    assert found.code == 5
    assert "by module" not in found.out
    assert f"only in {folder}/1e5.pt, 1: new.one" in found.out
    [pasted] = [fix["line"] for fix in found.report["error"]["fixes"] if fix["line"]]
    assert compare(folder, *given, *shlex.split(pasted)).code == 0
    given = ["compare.path=epoch=1.pt", "compare.atol=0.1"]
    [pasted] = [fix["line"] for fix in compare(folder, *given).report["error"]["fixes"]]
    assert compare(folder, *given, *shlex.split(pasted)).code == 0
    found = compare(folder, "compare.path=1e5.pt")
    assert found.code == 4
    assert compare(folder, "compare.path=1e5.pt", found.report["error"]["fixes"][0]["line"]).code == 0


def test_the_report_goes_to_stdout_as_json(folder: Path) -> None:
    found = run_loader(
        "--json", "mode=compare", "checkpoint.path=a.pt", "compare.path=epoch=1.pt", "compare.atol=0", cwd=folder
    )
    assert found.code == 5
    assert json.loads(found.out) == found.report
    assert found.report["comparison"]["total"]["max_abs"] == 0.5


def test_a_missing_or_useless_path_is_refused(folder: Path) -> None:
    found = compare(folder)
    assert (found.code, found.err.splitlines()[-1]) == (2, "  try  compare.path=FILE")
    found = run_loader("checkpoint.path=a.pt", "compare.path=epoch=1.pt", cwd=folder)
    assert found.code == 2
    assert "'compare.path' is epoch=1.pt, and mode=load compares no files; expected mode=compare" in found.err
    assert "  try  mode=compare 'compare.path=\"epoch=1.pt\"'" in found.err
    found = compare(folder, "compare.pth=b.pt")
    assert (found.code, "compare.path" in found.err) == (2, True)
    found = compare(folder, "compare.path=gone.pt")
    assert (found.code, "gone.pt" in found.err) == (3, True)


def test_a_sweep_has_a_row_for_each_file(folder: Path) -> None:
    sweep = ["-m", "mode=compare", "checkpoint.path=a.pt", "compare.key=auto", "compare.rules=auto"]
    found = run_loader(*sweep, "compare.path=epoch=1.pt,ddp.pt,a.pt", "hydra.sweep.dir=swept", cwd=folder)
    assert found.code == 0, found.err
    summary = json.loads((folder / "swept/summary.json").read_text())
    assert [job["metrics"]["max_abs"]["value"] for job in summary["jobs"]] == [0.5, 0.5, 0]
    heads, *lines = (folder / "swept/summary.csv").read_text().splitlines()
    assert {"compare.path", "max_abs", "mean_abs", "cosine"} <= set(heads.split(","))
    assert len(lines) == 3
    assert (folder / "swept/summary.html").is_file()
    again = [*sweep, "compare.path=epoch=1.pt,ddp.pt,a.pt", "hydra.sweep.dir=again", "sweep.resume=swept"]
    assert run_loader(*again, cwd=folder).code == 0
    jobs = json.loads((folder / "again/summary.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["reused"] * 3
    save({f"module.{key}": torch.zeros(2, 3) for key in ("enc.weight", "enc.bias", "head")}, folder / "ddp.pt")
    changed = [*again[:-2], "hydra.sweep.dir=third", "sweep.resume=swept"]
    run_loader(*changed, cwd=folder)
    jobs = json.loads((folder / "third/summary.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["reused", "ok", "reused"]


def test_a_sweep_takes_a_glob_of_files(folder: Path) -> None:
    sweep = ["-m", "mode=compare", "checkpoint.path=a.pt", "compare.path=glob(e*.pt)", "hydra.sweep.dir=swept"]
    found = run_loader(*sweep, "sweep.page=false", cwd=folder)
    assert found.code == 0, found.err
    assert len(json.loads((folder / "swept/summary.json").read_text())["jobs"]) == 1


def test_a_run_has_a_page_and_is_not_repeated(folder: Path) -> None:
    found = compare(folder, "compare.path=epoch=1.pt", "report.page=true")
    assert found.code == 0, found.err
    page = (folder / "run/report.html").read_text()
    assert "modules compared" in page
    (folder / "run").rename(folder / "recorded")
    replay = run_loader("mode=replay", "replay.path=recorded", cwd=folder)
    assert replay.code == 2
    assert "is of a run with mode=compare; only runs with mode=load are repeated" in replay.err


def test_paths_start_where_they_were_typed(folder: Path) -> None:
    found = compare(folder, "compare.path=epoch=1.pt", "hydra.job.chdir=true")
    assert found.code == 0, found.err


def test_it_is_in_the_help_and_completed() -> None:
    assert "compare" in (REPOSITORY / "conf/config.yaml").read_text().partition("Modes (mode=NAME):")[2]
