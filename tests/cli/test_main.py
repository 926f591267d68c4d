"""The command line: what it takes, what it refuses, and how it ends."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra._internal.utils import get_args_parser

import loader.cli.main
from loader.cli.main import run_command
from loader.files.path import conf_dir
from loader.sweep.callback import Sweep, _seen
from loader.sweep.record import JobRecord
from loader.sweep.records import keep
from tests.command import REPOSITORY, in_own_session, run, run_loader

WEIGHTS = REPOSITORY / "loader" / "examples" / "weights"
RUN = [sys.executable, str(REPOSITORY / "run.py")]

OWN_MODULE = """
import os, signal, sys, time
from torch import nn

class Net(nn.Linear):
    def __init__(self, width=2, behave="well"):
        if behave == "slowly":
            print("constructing", flush=True)
            time.sleep(60)
        super().__init__(width, width)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, with a model of their own and its weights; nothing of it stays importable."""
    (tmp_path / "own_models.py").write_text(OWN_MODULE)
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "own.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command that is refused before any job; returns what stands on stderr."""
    assert run_command([*arguments, "hydra.run.dir=run", "hydra.sweep.dir=sweep"]) == 2
    out, err = capsys.readouterr()
    assert "Traceback" not in err + out
    return err


def test_a_file_with_equals_signs_in_its_name_is_loaded_as_typed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for suffix in ("", ".golden.safetensors"):
        shutil.copy(WEIGHTS / f"simple_net.safetensors{suffix}", tmp_path / "runs" / f"epoch=3-step=10.ckpt{suffix}")
    done = run_loader("checkpoint.path=runs/epoch=3-step=10.ckpt", "verify.golden=auto", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert done.report["parts"][""]["path"] == str(tmp_path / "runs" / "epoch=3-step=10.ckpt")
    assert done.report["overrides"][:2] == ["checkpoint.path=runs/epoch=3-step=10.ckpt", "verify.golden=auto"]
    assert {"hydra", "experiment"}.isdisjoint(done.report["config"])
    assert "load ok: 4 keys" in (tmp_path / "run" / "loader.log").read_text()


@pytest.mark.parametrize("command", [RUN, [sys.executable, "-m", "loader"]], ids=["run.py", "python -m loader"])
def test_modules_of_the_current_folder_are_found(folder: Path, command: list[str]) -> None:
    (folder / "json.py").write_text("raise RuntimeError('a file of the user hid a module of Python')\n")
    overrides = ["model._target_=own_models.Net", "+model.width=2", "checkpoint.path=own.pth", "hydra.run.dir=run"]
    done = run(*command, *overrides, cwd=folder, PYTHONPATH=str(REPOSITORY), PYTHONSAFEPATH="1")
    assert done.returncode == 0, done.stderr


def test_a_refused_config_is_not_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "other.pth").touch()
    assert run_command(["--cfg", "job", "checkpoint.path=glob(*.pth)"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "matches 2 files (other.pth, own.pth); a single run accepts one" in err


def test_a_run_that_changes_its_folder_finds_the_typed_files(folder: Path) -> None:
    overrides = [
        "model._target_=own_models.Net",
        "checkpoint.path=own.pth",
        "mode=convert",
        "convert.path=new.safetensors",
    ]
    done = run_loader(*overrides, "hydra.job.chdir=true", cwd=folder)
    assert (done.code, done.err) == (0, "")
    assert done.report["parts"][""]["path"] == str(folder / "own.pth")
    assert (folder / "new.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--hydra-help"],
        ["--cfg", "job"],
        ["--info"],
        ["--shell-completion", "query=bash"],
        ["chekpoint.path=x"],
        ["checkpoint.path=glob(nothing/*.pt)"],
    ],
    ids=" ".join,
)
def test_torch_is_not_imported_for(arguments: list[str], tmp_path: Path) -> None:
    environment = {"COMP_LINE": "run.py mod", "COMP_POINT": "10"} if "query=bash" in arguments else {}
    done = run(sys.executable, "-X", "importtime", *RUN[1:], *arguments, cwd=tmp_path, **environment)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "hydra" in imported
    assert "torch" not in imported
    assert "numpy" not in imported


def test_completion_knows_groups_and_options(tmp_path: Path) -> None:
    for typed, expected in (
        ("model=s", ["model=sequential", "model=simple_net"]),
        ("experiment=d", ["experiment=ddp"]),
    ):
        line = {"COMP_LINE": f"run.py {typed}", "COMP_POINT": "20"}
        assert run(*RUN, "-sc", "query=bash", cwd=tmp_path, **line).stdout.split() == expected


def test_help_fits_the_tool(tmp_path: Path) -> None:
    done = run(*RUN, "--help", cwd=tmp_path)
    assert done.returncode == 0
    for expected in (
        "open -> select -> rules -> plan",
        "compile, conv1d_gpt2, dataparallel, ddp",
        "Exit codes:",
        "--multirun,-m",
    ):
        assert expected in done.stdout
    assert "clear" not in done.stdout
    assert not list(tmp_path.iterdir())


def test_cfg_shows_what_was_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["model={_target_: a.B}", "--cfg", "job", "-p", "model", "model.width=3"]) == 0
    assert capsys.readouterr().out == "# @package model\n_target_: a.B\nwidth: 3\n"


@pytest.mark.usefixtures("folder")
def test_a_refusal_is_one_block_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "chekpoint.path=x") == (
        "error  unknown config key 'chekpoint.path' (did you mean 'checkpoint.path'?)\n  try  checkpoint.path=x\n"
    )
    assert not Path("run").exists()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device=a=b"], "error  the value of 'device=a=b' is not valid in Hydra's grammar"),
        (["checkpoint.path=glob(*.nope)"], "error  no file matches '*.nope' for checkpoint.path (searched "),
        (["--config-name", "confg"], "error  no such config: 'confg' (did you mean 'config'?); there are: config\n"),
        (["--config-dir", "nowhere"], "error  Additional config directory '"),
        (["-m", "--cfg", "job"], "error  Only one of --run, --multirun, --cfg, --info and --shell_completion"),
        (["--resolve"], "error  The --resolve flag can only be used in conjunction with --cfg or --help\n"),
        (["-m", "rules=[ddp],[nope]"], "error  the config group 'rules' has no option 'nope'"),
        (["-m", "seed=1,2", "chekpoint.path=x"], "error  unknown config key 'chekpoint.path'"),
        (["-m", "seed=range(1,1)"], "error  the sweep 'seed=range(1,1) "),
        (["-m", "model=glob(nope*)"], "error  the sweep 'model=glob(nope*) "),
    ],
    ids=str,
)
def test_what_hydra_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, *arguments).startswith(message)
    assert not Path("sweep", "summary.json").exists()


@pytest.mark.usefixtures("folder")
def test_an_unknown_flag_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(["--nope"])
    assert caught.value.code == 2
    assert "unrecognized arguments: --nope" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_config_that_does_not_resolve_is_refused_and_reported(capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "checkpoint.path=${nope}")
    assert err == (
        "error  the config cannot be resolved (at 'checkpoint.path'): Interpolation key 'nope' not found\n"
        "  try  checkpoint.path=VALUE\n"
    )
    report = Path("run", "report.json").read_text()
    assert '"status": "failed"' in report
    assert '"exit_code": 2' in report
    assert '"path": "${nope}"' in report


@pytest.mark.usefixtures("folder")
def test_a_folder_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert run_command(["hydra.run.dir=file/run"]) == 2
    err = capsys.readouterr().err
    assert err == "error  file/run: Not a directory\n  try  hydra.run.dir=FOLDER   # a writable folder\n"


@pytest.mark.usefixtures("folder")
def test_the_full_error_is_shown_to_who_asks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    assert run_command(["chekpoint.path=x"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("  try  checkpoint.path=x\n")
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


@pytest.mark.usefixtures("folder")
def test_a_bug_is_not_dressed_up_as_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Path:
        raise TypeError("a bug")

    monkeypatch.setattr(loader.cli.main, "conf_dir", broken)
    with pytest.raises(TypeError, match="a bug"):
        run_command(["--cfg", "job"])


@pytest.mark.usefixtures("folder")
def test_nothing_is_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    before = (list(sys.argv), dict(os.environ), signal.getsignal(signal.SIGTERM))
    refused(capsys, "model=nope")
    assert run_command(["--cfg", "job"]) == 0
    assert (list(sys.argv), dict(os.environ), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.parametrize("asked", [False, True])
def test_a_launcher_that_breaks_a_sweep_off(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    def main(**_options: object) -> Callable[[object], Callable[[], None]]:
        def launch() -> None:
            keep(JobRecord(0, ["seed=1"], "ok", 0), folder)
            _seen.append(Sweep(folder, [["seed=1"], ["seed=2"]]))
            raise RuntimeError("the pool broke")

        return lambda _task: launch

    if asked:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr("hydra.main", main)
    assert run_command(["-m", "seed=1,2"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[1] for line in out.splitlines()[1:3]] == ["ok", "not"]
    assert (folder / "summary.json").is_file()
    assert err.endswith("the launcher ended the sweep: RuntimeError: the pool broke\n")
    assert ("Traceback" in err) is asked


def test_an_interruption_is_one_line(folder: Path) -> None:
    overrides = ["model._target_=own_models.Net", "model.behave=slowly", "checkpoint.path=own.pth", "hydra.run.dir=run"]
    with in_own_session(signal.SIGINT, *RUN, *overrides, cwd=folder) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "constructing\n"
        os.killpg(process.pid, signal.SIGINT)
        assert (process.wait(60), process.stderr.read()) == (130, "interrupted\n")


def test_python_314s_argparse_takes_hydras_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def strict(parser: argparse.ArgumentParser, action: argparse.Action) -> None:
        """What Python 3.14 does with every argument."""
        if action.help and not isinstance(action.help, str):
            raise ValueError("badly formed help string")

    add = argparse.ArgumentParser.add_argument

    def add_argument(parser: argparse.ArgumentParser, *names: str, **options: object) -> argparse.Action:
        action = add(parser, *names, **options)  # type: ignore[arg-type]
        parser._check_help(action)  # type: ignore[attr-defined]
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "_check_help", strict, raising=False)
    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_argument)
    with pytest.raises(ValueError, match="badly formed"):
        get_args_parser()
    with monkeypatch.context() as newer:
        newer.setattr(sys, "version_info", (3, 14, 0))
        loader.cli.main._let_argparse_be()
    assert "--multirun" in get_args_parser().format_usage()


def test_two_runs_started_at_once_do_not_share_a_folder(folder: Path) -> None:
    command = [*RUN, "checkpoint.path=${nope}"]
    with (
        subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as first,
        subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as second,
    ):
        assert (first.wait(), second.wait()) == (2, 2)
    assert len(list(folder.glob("outputs/*/*/report.json"))) == 2


def test_run_py_is_short() -> None:
    assert len((REPOSITORY / "run.py").read_text().splitlines()) < 30
    assert conf_dir() == REPOSITORY / "conf"
