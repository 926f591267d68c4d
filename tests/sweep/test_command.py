"""The line that runs one job alone."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.config.argv import parse_arguments
from loader.config.rewrite import for_hydra, readable, rewrite
from loader.sweep.command import Command, Start, command_of
from loader.text.lines import quoted

PLAIN = Start(("python", "run.py"))


def start(*arguments: str) -> Start:
    return Start.of(parse_arguments(arguments))


def words(*overrides: str, started: Start = PLAIN, job: int = 0) -> list[str]:
    line = command_of(started, job, overrides).line
    assert line is not None
    return shlex.split(line)


def test_a_line_has_the_jobs_overrides_and_how_the_sweep_was_started() -> None:
    typed = ["-m", "seed=1,2", "--config-dir", "my configs", "hydra.job.chdir=true", "-cn", "mine"]
    started = Start(("hydra-loader",), start(*typed).flags, start(*typed).settings)
    line = "hydra-loader seed=2 hydra.job.chdir=true --config-dir 'my configs' -cn mine"
    assert command_of(started, 1, ["seed=2"]) == Command(line)


@pytest.mark.parametrize(
    "override",
    [
        *("sweep.timeout=3", "+sweep.skip=[cuda]", "sweep={timeout: 1}", "~sweep.resume"),
        *("hydra.mode=MULTIRUN", "hydra.sweep.dir=here", "hydra.sweep.subdir=x", "hydra/launcher=joblib"),
        *(
            "hydra.launcher.n_jobs=2",
            "hydra/sweeper=optuna",
            "hydra.sweeper.n_trials=3",
            "+hydra.sweeper.params={a: 1}",
        ),
    ],
)
def test_what_only_a_sweep_has_is_left_out(override: str) -> None:
    assert start("--multi", override, "seed=1").settings == ()
    assert words(override, "seed=1") == ["python", "run.py", "seed=1"]


@pytest.mark.parametrize("override", ["hydra.job.chdir=true", "+hydra.job.env_set={A: b}", "hydra.verbose=true"])
def test_what_a_single_run_has_too_stays(override: str) -> None:
    assert start("-m", override).settings == (override,)


def test_a_config_that_is_a_sweep_is_run_once() -> None:
    started = PLAIN.with_config("", multirun=True)
    assert words("seed=1", started=started) == ["python", "run.py", "seed=1", "hydra.mode=RUN"]


@pytest.mark.parametrize("name", ["${hydra:job.num}", "${hydra:job.id}", "${hydra.job.num}"])
def test_a_job_keeps_its_number_where_something_is_named_after_it(name: str) -> None:
    number = ["hydra.job.num=4", "hydra.job.id=4"]
    assert words(f"convert.path={name}.st", job=4)[-2:] == number
    assert words("seed=1", job=4, started=PLAIN.with_config(f"{{'path': '{name}'}}", multirun=False))[-2:] == number
    assert words("seed=1", job=4)[-1] == "seed=1"


def test_the_config_folder_of_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADER_CONFIG_DIR", "/mine")
    assert start("-m").flags == ("--config-dir", "/mine")
    assert start("-m", "--config-dir=other").flags == ("--config-dir=other",)


@pytest.mark.parametrize("text", ["a\x1bb", "a\nb", "tab\t", "\x7f", "turned\u202e", "\udcff"])
def test_a_control_character_cannot_be_typed(text: str) -> None:
    note = "no command: model.name has control characters, or others that cannot be typed"
    assert command_of(PLAIN, 0, ["seed=1", f"model.name={text}"]) == Command(None, note)


@pytest.mark.parametrize(
    "secret", ["https://me:geheim99@host/a.pt", "https://***@host/a.pt", "s3://b/a.pt?sig=abcdefgh"]
)
def test_credentials_must_be_typed_again(secret: str) -> None:
    command = command_of(PLAIN, 0, [f"checkpoint.path={secret}"])
    assert command.line is not None
    assert "geheim99" not in command.line
    assert "abcdefgh" not in command.line
    assert "***" in shlex.split(command.line)[-1]
    assert command.note == "type the credentials of the URL in checkpoint.path in place of ***"


TEXT = st.text(st.characters(exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=20)


@given(
    st.lists(TEXT, min_size=1, max_size=3), st.sampled_from(["checkpoint.path", "checkpoint.key", "model.name", "x"])
)
def test_what_the_shell_and_the_loader_read_is_what_the_job_had(values: Sequence[str], key: str) -> None:
    job = rewrite([f"{key}{number}={quoted(value)}" for number, value in enumerate(values)])
    typed = words(*readable(job))[2:]
    assert for_hydra(parse_arguments(typed)) == job


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_a_shell_parses_the_words_as_they_were(values: list[str]) -> None:
    assert words(*(f"a={value}" for value in values))[2:] == [f"a={value}" for value in values]


def test_a_real_shell_expands_nothing() -> None:
    hostile = ["a=$HOME", "b=`id`", "c='\"\\", "d=!!", "e=*", "f=~ #x", "g={a,b}", "h=é 漢"]
    line = command_of(Start((sys.executable, "-c", "import sys; print(sys.argv[1:])")), 0, hostile).line
    assert line is not None
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout == f"{hostile}\n"


def started_in(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    monkeypatch.setattr(sys, "argv", [name])
    monkeypatch.chdir(folder)
    return " ".join(Start.of(parse_arguments(["-m"])).program)


def test_the_program_is_started_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("hydra-loader", "python"):
        (tmp_path / "bin" / name).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert started_in(tmp_path, monkeypatch, "run.py") == f"{sys.executable} run.py"
    assert started_in(tmp_path, monkeypatch, str(tmp_path / "bin" / "hydra-loader")) == "hydra-loader"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    assert started_in(tmp_path, monkeypatch, "my/run.py") == "python my/run.py"
    monkeypatch.setenv("PATH", "/nowhere")
    assert started_in(tmp_path, monkeypatch, "bin/hydra-loader") == "bin/hydra-loader"
    assert started_in(tmp_path, monkeypatch, "-c") == "hydra-loader"
