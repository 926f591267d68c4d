"""A dry run lists the jobs with their commands, and leaves nothing; a setting of a sweep needs a sweep."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from loader.cli.main import run_command
from loader.errors import ConfigError
from loader.sweep.callback import Abandoned, SweepCallback
from tests.command import run
from tests.sweep.sweeping import RUN, TARGET, make_folder

MULTIRUN = "defaults: [config, _self_]\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


def test_the_jobs_are_listed_and_none_is_run(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    typed = ["pairs=zip(seed=[1,2],model.behave=[well,raises])", "checkpoint.path=glob(*.pth)", "sweep.dry_run=true"]
    done = run(*RUN, TARGET, *typed, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(folder.rglob("*")) == before
    head, *rows, last = done.stdout.splitlines()
    assert head.split() == ["job", "seed", "model.behave", "checkpoint.path", "command"]
    assert [row.split()[:4] for row in rows] == [
        ["0", "1", "well", "epoch=2.pth"],
        ["1", "1", "well", "epoch=10.pth"],
        ["2", "2", "raises", "epoch=2.pth"],
        ["3", "2", "raises", "epoch=10.pth"],
    ]
    assert last == "4 jobs; a dry run starts none"
    # A command is the last column, and runs its job alone.
    command = shlex.split(rows[1].split(maxsplit=4)[4])
    alone = run(*command, "hydra.run.dir=alone", cwd=folder)
    assert alone.returncode == 0, alone.stderr
    overrides = json.loads((folder / "alone" / "report.json").read_text())["overrides"]
    assert overrides[:-1] == [TARGET, "seed=1", "model.behave=well", "checkpoint.path=epoch=10.pth"]


def test_a_config_may_ask_for_it(folder: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "conf" / "swept.yaml").write_text(f"{MULTIRUN}sweep: {{dry_run: true}}\n")
    done = run(*RUN[:-1], "--config-dir=conf", "--config-name=swept", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hydra.mode=RUN" in done.stdout.splitlines()[1]
    assert done.stdout.splitlines()[-1] == "2 jobs; a dry run starts none"
    assert not (folder / "multirun").exists()


def test_a_sweeper_that_needs_results_has_no_jobs_to_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GlobalHydra, "config_loader", lambda _self: None)
    hydra = {
        "sweeper": {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"},
        "sweep": {"dir": "sweep", "subdir": "${hydra.job.num}"},
        "runtime": {"cwd": str(tmp_path)},
        "job": {"num": 0},
        "overrides": {"task": []},
    }
    config = OmegaConf.create({"hydra": hydra, "sweep": {"dry_run": True}})
    with pytest.raises(Abandoned) as caught:
        SweepCallback().on_multirun_start(config)
    refusal = caught.value.refusal
    assert isinstance(refusal, ConfigError)
    assert refusal.message == (
        "sweep.dry_run lists the jobs before they run, and OptunaSweeper chooses them as results come in"
    )
    assert refusal.hint == "sweep.dry_run=false   # runs the sweep"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "shown", "hint"),
    [
        (["sweep.timeout=3", "seed=1"], "sweep.timeout=3", "-m sweep.timeout=3"),
        (
            ["sweep.skip=[cuda*]", "+sweep.page=false"],
            "sweep.skip=[cuda*]",
            "-m 'sweep.skip=[cuda*]' +sweep.page=false",
        ),
        (["sweep={dry_run: true}"], "sweep={dry_run: true}", "-m 'sweep={dry_run: true}'"),
    ],
)
def test_a_setting_of_a_sweep_needs_one(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: list[str],
    shown: str,
    hint: str,
) -> None:
    monkeypatch.chdir(folder)
    assert run_command(typed) == 2
    out, err = capsys.readouterr()
    assert out == ""
    expected = f"error  '{shown}' is a setting of a sweep, and this is a single run\n"
    assert err == f"{expected}  try  {hint}   # a sweep, of one job or more\n"
    assert not (folder / "outputs").exists()


def test_a_setting_that_leads_nowhere_starts_no_sweep(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run_command(["-m", "seed=1,2", "sweep.timeout=${nowhere}"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Interpolation key 'nowhere' not found" in err
    assert not (folder / "multirun").exists()


def test_a_setting_that_is_none_is_refused_before_the_first_job(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run_command(["-m", "seed=1,2", "sweep.dry_run=maybe"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error  'sweep.dry_run' is 'maybe', expected true or false\n  try  sweep.dry_run=false\n")
    assert not (folder / "multirun").exists()


def test_a_setting_beside_a_config_that_is_a_sweep_is_one_of_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "conf").mkdir()
    (folder / "conf" / "swept.yaml").write_text(MULTIRUN)
    monkeypatch.chdir(folder)
    assert run_command(["--config-dir=conf", "--config-name=swept", "sweep.dry_run=true"]) == 0
    assert capsys.readouterr().out.endswith("2 jobs; a dry run starts none\n")
