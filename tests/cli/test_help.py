"""What the command line shows: the help page and its examples, the version, where a config comes from, completions."""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from loader.cli.help import candidates, line_for_hydra, version, wrapped
from loader.cli.main import run_command
from loader.examples import SimpleNet
from tests.command import REPOSITORY, run

HELP = OmegaConf.load(REPOSITORY / "conf/config.yaml").hydra.help.template
EXAMPLES = [re.split(r"  +", line.strip())[0] for line in HELP.splitlines() if line.startswith("  run.py")]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the help page speaks of."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "run.py").symlink_to(REPOSITORY / "run.py")
    (folder / "my_pkg.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self, width): super().__init__(width, 2)\n"
    )
    torch.save(torch.nn.Linear(3, 2).state_dict(), folder / "my.pth")
    state = SimpleNet().state_dict()
    torch.save({f"module.{key}": value for key, value in state.items()}, folder / "ddp.pth")
    for name in ("a", "b"):
        (folder / "runs" / name).mkdir(parents=True)
        torch.save(state, folder / "runs" / name / "last.ckpt")
    return folder


def test_the_examples_of_the_help_page_run_one_after_the_other(reader: Path) -> None:
    for line in EXAMPLES:
        command = [sys.executable, *shlex.split(line), "device=cpu"]
        done = run(*command, cwd=reader, PYTHONPATH=f"{REPOSITORY}:{reader}")

        assert done.returncode == 0, done.stdout + done.stderr


def test_the_help_page_fits_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "--help")
    lines = capsys.readouterr().out.splitlines()

    assert len(lines) <= 45
    assert max(map(len, lines)) <= 80
    assert "  scaffold  write the config that loads a file" in lines


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
    capsys.readouterr()
    # A run in this process before may have quieted Hydra, which writes its pages to a log.
    logging.getLogger("hydra").setLevel(logging.NOTSET)
    try:
        assert run_command(arguments) == 0
    except SystemExit as ended:
        assert not ended.code  # noqa: PT017  # Hydra ends a help page so


def test_the_version_is_the_loaders_own(capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "--version")

    out = capsys.readouterr().out
    assert out == f"{version()}\n"
    assert re.match(r"hydra-loader \S.* \(hydra-core 1\.3\.\d+, torch \S+, Python 3\.\d+\.\d+\)\n", out)


@pytest.mark.parametrize("what", ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"])
def test_every_kind_of_info_is_shown(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "--info", what)

    assert "Traceback" not in capsys.readouterr().out


def test_info_alone_says_where_the_config_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, "--info")

    out = capsys.readouterr().out
    assert out.startswith("hydra-loader ")
    assert "Config search path" in out
    assert "Installed Hydra Plugins" not in out


def test_long_lines_are_broken_below_their_indentation() -> None:
    assert list(wrapped(["  short", "  " + "word " * 24])) == [
        "  short", "  " + "word " * 14 + "word", "      word word word word word word word word word",
    ]  # fmt: skip


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """An installed `hydra-loader`."""
    path = tmp_path / "bin" / "hydra-loader"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\nfrom loader.cli.main import main\nmain()\n")
    path.chmod(0o755)
    return path


def in_bash(script: Path, line: str, folder: Path) -> list[str]:
    """What bash offers for a line, by the function that the install line defines."""
    code = (
        'eval "$(hydra-loader -sc install=bash)"\n'
        f"COMP_LINE={shlex.quote(line)}; COMP_POINT=${{#COMP_LINE}}; words=($COMP_LINE)\n"
        "COMP_CWORD=$(( ${#words[@]} - 1 )); [[ $COMP_LINE == *' ' ]] && COMP_CWORD=${#words[@]}\n"
        'hydra_bash_completion; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{script.parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        ["bash", "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert not done.stderr
    return done.stdout.split()


def test_bash_completes_an_installed_command(script: Path, tmp_path: Path) -> None:
    (tmp_path / "epoch=3.ckpt").touch()
    (tmp_path / "$(touch hacked)").touch()

    assert in_bash(script, "hydra-loader model=null mode=s", tmp_path) == ["mode=scaffold"]
    assert in_bash(script, "hydra-loader checkpoint.path=", tmp_path) == [
        "checkpoint.path=bin/", "checkpoint.path=epoch=3.ckpt",
    ]  # fmt: skip
    assert in_bash(script, "hydra-loader 'verify.input={shape: [1, 2]}' experiment=d", tmp_path) == ["experiment=ddp"]
    assert not (tmp_path / "hacked").exists()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["mode=p"], ["mode=plan"]),
        (["device=c"], ["device=cpu", "device=cuda", "device=cuda:0"]),
        (["dtype=b"], ["dtype=bfloat16"]),
        (["checkpoint.check="], ["checkpoint.check=crc", "checkpoint.check=structure", "checkpoint.check=full"]),
        (["parts.a.check=f"], ["parts.a.check=full"]),
        (["checkpoint.format=safetensors-"], ["checkpoint.format=safetensors-sharded"]),
        (["checkpoint.format=d"], ["checkpoint.format=dcp", "checkpoint.format=deepspeed"]),
        (["checkpoint.mmap="], ["checkpoint.mmap=true", "checkpoint.mmap=false"]),
        (["verify.expect.finite=f"], ["verify.expect.finite=false"]),
        (["+convert.embed=t"], ["+convert.embed=true"]),
        (["rules=[ddp,com"], ["rules=[ddp,compile]", "rules=[ddp,compile,"]),
        (["rules=[d", ""], []),
        (["--vers"], ["--version"]),
        (["--info", "def"], ["defaults", "defaults-tree"]),
        (["--cfg", ""], ["job", "hydra", "all"]),
        (["model="], []),
        (["chec"], []),
        (["evaluate.b"], ["evaluate.batch_size=", "evaluate.batches="]),
        (["evaluate.da"], ["evaluate.data."]),
        (["evaluate=digits", "evaluate.metrics"], ["evaluate.metrics."]),
    ],
)
def test_values_that_hydra_does_not_know(typed: list[str], expected: list[str]) -> None:
    assert candidates(typed) == expected


def test_a_path_is_completed_folder_by_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name in ("runs/epoch=3.ckpt", "runs/.hidden", "my file.pt", "$(x).pt", "`x`.pt", "m.pt"):
        (tmp_path / name).touch()

    assert candidates(["checkpoint.path="]) == ["checkpoint.path=m.pt", "checkpoint.path=runs/"]
    assert candidates(["parts.a.path=runs/"]) == ["parts.a.path=runs/epoch=3.ckpt"]
    assert candidates(["scaffold.path=runs/.h"]) == ["scaffold.path=runs/.hidden"]
    assert candidates(["convert.path=nowhere/x"]) == []


def test_rules_of_a_users_folder_are_offered(tmp_path: Path) -> None:
    (tmp_path / "mine/rules").mkdir(parents=True)
    (tmp_path / "mine/rules/ours.yaml").touch()

    assert candidates(["--config-dir", "mine", "rules=[o"]) == ["rules=[ours]", "rules=[ours,"]


def test_hydra_gets_words_that_it_can_read() -> None:
    words = ["model=linear", "verify.input={shape:", "--config-dir", "mine", "--json", "checkpoint.path=a=b.pt", "mod"]

    assert line_for_hydra(words) == "--config-dir mine model=linear mod"
    assert line_for_hydra(["model=linear", ""]) == "model=linear "


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("run.py mode=pl", "mode=plan"),
        ("run.py model=null dev", "device="),
        ("run.py checkpoint.path=a=b.pt experiment=dd", "experiment=ddp"),
        ("run.py 'verify.input={shape: [1, 2]}' experiment=dd", "experiment=ddp"),
        ("run.py chekpoint.path=x chec", "checkpoint="),
        ("run.py 'rules=[ddp", ""),
        ("run.py mode=plan   # lists mode=pl", ""),
        ("run.py model=linear model.", "model._target_= model.in_features= model.out_features="),
    ],
)
def test_a_shell_is_answered(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    assert run_command(["-sc", "query=bash"]) == 0
    assert capsys.readouterr().out.strip() == expected
    assert run_command(["-sc", "query=fish"]) == 0
    assert capsys.readouterr().out.split() == expected.split()


@pytest.mark.parametrize("words", [["--schema", "report"], ["--schema=report"], ["device=cpu", "--schema", "report"]])
def test_a_schema_is_shown_as_its_file_has_it(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    shown(capsys, *words)

    assert capsys.readouterr().out == (REPOSITORY / "loader/schemas/report.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message", "line"),
    [
        (["--schema", "confg"], "there is no schema 'confg' (did you mean 'config'?)", "--schema config"),
        (["--schema", "../x"], "there is no schema '../x'", "--schema config"),
        (["--schema"], "--schema has no name", "--schema config"),
    ],
)
def test_an_unknown_schema_is_refused_with_the_line(
    words: list[str], message: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(words) == 2

    err = capsys.readouterr().err
    assert f"error  {message}, expected one of config, report, summary\n" in err
    assert f"{line}   # prints the JSON Schema" in err


def test_a_shell_completes_the_names_of_schemas() -> None:
    assert candidates(["--schema", "re"]) == ["report"]
    assert candidates(["--sch"]) == ["--schema"]


def test_a_schema_needs_no_torch() -> None:
    shows = "from loader.cli.main import run_command; run_command(['--schema', 'config'])"
    code = f"import sys; {shows}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("{")
    assert done.stdout.endswith("}\nFalse\n")
