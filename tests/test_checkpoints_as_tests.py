"""The plugin for pytest: each config is a test, in a project that has a `loader.py` of its own."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hydra_loader import pytest_plugin
from hydra_loader.pytest_plugin import arguments
from tests.command import REPOSITORY, TIMEOUT, in_own_session, run_afresh

PYTEST = (sys.executable, "-m", "pytest", "-p", "hydra_loader.pytest_plugin")
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
"""Without other plugins, Hydra's own among them, which imports Hydra."""
GLOB = "conf/experiment/*.yaml"
GOOD = 'device: cpu\ncheckpoint: {path: "pkg://loader.examples/weights/simple_net.safetensors"}\n'
"""The shipped weights, chosen by the config itself."""


def write(project: Path, **configs: str) -> None:
    for name, text in configs.items():
        (project / "conf" / "experiment" / f"{name}.yaml").write_text(f"# @package _global_\n{text}")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "loader.py").write_text("VALUE = 3\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    (tmp_path / "test_own.py").write_text(
        "import sys\n\n"
        "def test_own():\n"
        "    import loader\n"
        "    assert loader.VALUE == 3\n"
        "    assert {'torch', 'hydra', 'omegaconf', 'loader.api'}.isdisjoint(sys.modules)\n"
    )
    write(tmp_path, good=GOOD, bad=f"{GOOD}inspect: {{depht: 1}}\n")
    return tmp_path


def run_pytest(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_afresh(*PYTEST, *words, cwd=project, PYTHONPATH=str(REPOSITORY), **ALONE)


def outcomes(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Node id → outcome, of a verbose run."""
    return dict(re.findall(r"^(\S+) (PASSED|FAILED|ERROR)", done.stdout, re.MULTILINE))


def test_each_config_is_a_test_and_a_refusal_its_text(project: Path) -> None:
    (project / "build").mkdir()  # a folder that pytest itself leaves out
    (project / "build" / "plain.yaml").write_text(GOOD)

    done = run_pytest(project, "--checkpoints", GLOB, "--checkpoints", "build/plain.yaml", "-v", "-rA")

    assert done.returncode == 1
    assert outcomes(done) == {
        "conf/experiment/bad.yaml::bad": "FAILED",
        "conf/experiment/good.yaml::good": "PASSED",
        "build/plain.yaml::plain": "PASSED",
        "test_own.py::test_own": "PASSED",
    }
    assert "\nerror  unknown config key 'inspect.depht' (did you mean 'depth'?)\n" in done.stdout
    assert "Traceback" not in done.stdout
    # pytest shows what the run printed.
    assert "simple_net.safetensors" in done.stdout.partition("Captured stdout call")[2]
    assert {path.name for path in project.iterdir()} - {".pytest_cache", "__pycache__"} == {
        "build", "conf", "loader.py", "pytest.ini", "test_own.py",
    }  # fmt: skip


def test_without_the_option_nothing_changes(project: Path) -> None:
    done = run_pytest(project, "-v")

    assert (done.returncode, outcomes(done)) == (0, {"test_own.py::test_own": "PASSED"})
    code = "import sys, hydra_loader.pytest_plugin; print({'loader', 'torch', 'hydra'} & sys.modules.keys())"
    loaded = run_afresh(sys.executable, "-P", "-c", code, cwd=project, PYTHONPATH=str(REPOSITORY))
    assert (loaded.stdout, loaded.stderr) == ("set()\n", "")


def test_the_setting_is_like_the_option_unless_paths_are_typed(project: Path) -> None:
    (project / "pytest.ini").write_text(f"[pytest]\ncheckpoints =\n    {GLOB}\n")
    every = "conf/experiment/bad.yaml::bad\nconf/experiment/good.yaml::good\n"

    def ids(*words: str) -> str:
        done = run_pytest(project, "--collect-only", "-q", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.partition("\n\n")[0] + "\n"

    assert ids() == f"test_own.py::test_own\n{every}"
    assert ids("test_own.py") == "test_own.py::test_own\n"
    assert ids("conf/experiment/good.yaml") == "conf/experiment/good.yaml::good\n"
    assert ids("conf/experiment/bad.yaml::bad") == "conf/experiment/bad.yaml::bad\n"
    assert ids("conf", "--checkpoints", "conf/experiment/good.yaml") == every
    assert ids("-m", "checkpoint", "-k", "good") == "conf/experiment/good.yaml::good\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--checkpoints", "conf/absent/*.yaml"],
            "--checkpoints: no file matches 'conf/absent/*.yaml' (searched from ",
        ),
        (["--checkpoints", "loader.py"], "loader.py is not a config, expected a .yaml file\n"),
        (["--checkpoints", "conf/"], "expected a .yaml file; for the configs in it: 'conf/*.yaml'\n"),
        (["-o", "checkpoints=absent.yaml"], "the setting 'checkpoints': no file matches 'absent.yaml' (searched from "),
    ],
)
def test_what_is_not_a_config_is_a_usage_error(project: Path, words: list[str], message: str) -> None:
    done = run_pytest(project, *words)

    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.startswith("ERROR: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_pytests_own_options_choose_among_the_configs(project: Path) -> None:
    first = run_pytest(project, "--checkpoints", GLOB, "-x", "-v", "-m", "checkpoint")
    again = run_pytest(project, "--checkpoints", GLOB, "--lf", "-v")
    write(project, bad=GOOD)
    mended = run_pytest(project, "--checkpoints", GLOB, "--lf", "-v")

    assert outcomes(first) == {"conf/experiment/bad.yaml::bad": "FAILED"}
    assert outcomes(again) == {"conf/experiment/bad.yaml::bad": "FAILED"}
    assert outcomes(mended) == {"conf/experiment/bad.yaml::bad": "PASSED"}


def test_configs_are_spread_over_the_workers_of_xdist(project: Path) -> None:
    write(project, more=GOOD, bad=GOOD)

    done = run_pytest(project, "--checkpoints", GLOB, "-p", "xdist", "-n", "2", "-v", "-m", "checkpoint")

    assert done.returncode == 0, done.stdout
    assert set(re.findall(r"PASSED (\S+)", done.stdout)) == {
        f"conf/experiment/{name}.yaml::{name}" for name in ("bad", "good", "more")
    }

    own = run_pytest(project, "-o", f"checkpoints={GLOB}", "-p", "xdist", "-n", "1", "-v", "test_own.py")
    assert set(re.findall(r"PASSED (\S+)", own.stdout)) == {"test_own.py::test_own"}


def test_a_config_runs_from_the_root_folder_with_pytests_module_path(project: Path) -> None:
    (project / "src").mkdir()
    (project / "src" / "my_reader.py").write_text("from hydra_loader.examples.models import SimpleNet as Net\n")
    (project / "pytest.ini").write_text("[pytest]\npythonpath = src\n")
    (project / "net.safetensors").write_bytes(
        (REPOSITORY / "loader/examples/weights/simple_net.safetensors").read_bytes()
    )
    write(project, good="device: cpu\ncheckpoint: {path: net.safetensors}\nmodel: {_target_: my_reader.Net}\n")

    done = run_pytest(project / "conf", "--rootdir", "..", "--checkpoints", "experiment/good.yaml", "-m", "checkpoint")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/a/conf/experiment/ddp.yaml", ["--config-dir", "/a/conf", "experiment=ddp"]),
        ("/a/conf/experiment/v1/ddp.yaml", ["--config-dir", "/a/conf", "experiment=v1/ddp"]),
        ("/a/experiment/b/experiment/x y.yaml", ["--config-dir", "/a/experiment/b", "experiment='x y'"]),
        (r"/a/experiment/it's\.yaml", ["--config-dir", "/a", r"experiment='it\'s\\'"]),
        ("/a/conf/mine.v2.yaml", ["--config-dir", "/a/conf", "--config-name", "mine.v2"]),
    ],
)
def test_the_folder_decides_how_a_config_is_run(path: str, words: list[str]) -> None:
    assert arguments(Path(path)) == words


def test_a_crashed_process_is_named_by_its_signal() -> None:
    assert pytest_plugin._failure(-signal.SIGSEGV, "") == "the process was killed by SIGSEGV"
    assert pytest_plugin._failure(-signal.SIGKILL, "note") == "the process was killed by SIGKILL\nnote"
    assert pytest_plugin._failure(3, "") == "the process ended with exit code 3 and no message"


MODELS = """\
import os, pathlib, signal, time
import torch

class Dies(torch.nn.Linear):
    def __init__(self):
        os.kill(os.getpid(), signal.SIGSEGV)

class Leaves(torch.nn.Linear):
    def __init__(self):
        os._exit(0)

class Sleeps(torch.nn.Linear):
    def __init__(self):
        pathlib.Path("pid.part").write_text(str(os.getpid()))
        os.rename("pid.part", "pid")
        time.sleep(600)
"""


@pytest.mark.slow
def test_loads_crashes_and_sweeps(project: Path) -> None:
    (project / "my_models.py").write_text(MODELS)
    write(
        project,
        good=f"{GOOD}defaults: [{{override /evaluate: digits}}]\n",
        bad=f"{GOOD}evaluate: {{expect: {{accuracy: {{min: 0.999}}}}}}\ndefaults: [{{override /evaluate: digits}}]\n",
        dies=f"{GOOD}model: {{_target_: my_models.Dies}}\n",
        leaves=f"{GOOD}model: {{_target_: my_models.Leaves}}\n",
        sweep=f"{GOOD}hydra: {{mode: MULTIRUN, sweeper: {{params: {{dtype: 'null,float1'}}}}}}\n",
    )

    done = run_pytest(project, "--checkpoints", GLOB, "-v", "-m", "checkpoint")

    assert outcomes(done) == {
        "conf/experiment/bad.yaml::bad": "FAILED",
        "conf/experiment/dies.yaml::dies": "FAILED",
        "conf/experiment/good.yaml::good": "PASSED",
        "conf/experiment/leaves.yaml::leaves": "FAILED",
        "conf/experiment/sweep.yaml::sweep": "FAILED",
    }
    assert "the process was killed by SIGSEGV\n" in done.stdout
    assert "the process ended with exit code 0 before the load was done: it has written no report\n" in done.stdout
    assert re.search(r"^error  .*accuracy", done.stdout, re.MULTILINE)
    assert re.search(r"^job 1 \(.*dtype=float1.*\): 'dtype' is 'float1'", done.stdout, re.MULTILINE)


def test_a_config_that_tests_no_checkpoint_of_its_own_fails(project: Path) -> None:
    write(project, empty="", typo="checkpont: {path: nothing.pt}\n", plan=f"{GOOD}mode: plan\n")
    (project / "conf" / "experiment" / "bad.yaml").unlink()
    (project / "plain.yaml").write_text("device: cpu\n")

    done = run_pytest(project, "--checkpoints", GLOB, "--checkpoints", "plain.yaml", "-v", "-m", "checkpoint")

    assert outcomes(done) == {
        "conf/experiment/empty.yaml::empty": "FAILED",
        "conf/experiment/good.yaml::good": "PASSED",
        "conf/experiment/plan.yaml::plan": "FAILED",
        "conf/experiment/typo.yaml::typo": "FAILED",
        "plain.yaml::plain": "FAILED",
    }
    default = "the default, pkg://loader.examples/weights/simple_net.safetensors"
    unchosen = f"\nerror  the config chooses no checkpoint, and a test of it would load {default}\n"
    assert done.stdout.count(f"{unchosen}  try  checkpoint.path=FILE   # the file to test, in the config\n") == 2
    key = "the config has a key 'checkpont', which the loader does not know (did you mean 'checkpoint'?)"
    assert f"\nerror  {key}\n  try  in a test, rename the key or remove it\n" in done.stdout
    mode = "'mode' is 'plan', which verifies nothing; a test loads a checkpoint"
    assert f"\nerror  {mode}\n  try  mode=load\n" in done.stdout


@pytest.mark.slow
def test_what_chooses_a_checkpoint(project: Path) -> None:
    (project / "conf" / "checkpoint").mkdir()
    (project / "conf" / "checkpoint" / "mine.yaml").write_text(GOOD.partition("checkpoint: {")[2].rstrip("}\n"))
    swept = "hydra: {mode: MULTIRUN, sweeper: {params: {"
    shipped = GOOD.partition("path: ")[2].rstrip("}\n")
    write(
        project,
        good="device: cpu\ndefaults: [{override /checkpoint: mine}]\n",
        bad=f"device: cpu\n{swept}seed: 1}}}}}}\n",
        sweep=f"device: cpu\n{swept}checkpoint.path: {shipped}}}}}}}\n",
    )

    done = run_pytest(project, "--checkpoints", GLOB, "-v", "-m", "checkpoint")

    assert outcomes(done) == {
        "conf/experiment/bad.yaml::bad": "FAILED",
        "conf/experiment/good.yaml::good": "PASSED",
        "conf/experiment/sweep.yaml::sweep": "PASSED",
    }
    assert re.search(r"^job 0 \(.*\): the config chooses no checkpoint", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_page_does_as_it_says(project: Path) -> None:
    page = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
    blocks = {
        kind: re.findall(rf"^```{kind}\n(.*?)^```", page, re.MULTILINE | re.DOTALL) for kind in ("yaml", "sh", "toml")
    }
    (project / "conf" / "experiment" / "published.yaml").write_text(blocks["yaml"][0].partition("\n")[2])
    (project / "conf" / "experiment" / "bad.yaml").unlink()
    typed = run_pytest(project, *shlex.split(blocks["sh"][0])[1:], "-v")
    (project / "pytest.ini").unlink()
    (project / "pyproject.toml").write_text(blocks["toml"][0])
    listed = run_pytest(project, "-v", "-k", "published")

    ids = {f"conf/experiment/{name}.yaml::{name}": "PASSED" for name in ("good", "published")}
    assert outcomes(typed) == {**ids, "test_own.py::test_own": "PASSED"}
    assert outcomes(listed) == {"conf/experiment/published.yaml::published": "PASSED"}
    for line in blocks["sh"][1].splitlines():
        program, *words = shlex.split(line)
        assert program == "hydra-loader"
        done = run_afresh(sys.executable, str(REPOSITORY / "run.py"), *words, "device=cpu", cwd=project / "conf")
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_load_outlives_pytest(project: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "my_models.py").write_text(MODELS)
    write(project, good=f"{GOOD}model: {{_target_: my_models.Sleeps}}\n")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv(*next(iter(ALONE.items())))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    (project / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(project / "temporary"))
    pid = project / "pid"

    with in_own_session(signal.SIGINT, *PYTEST, "--checkpoints", "conf/experiment/good.yaml", cwd=project) as process:
        wait(pid.exists)
        process.send_signal(number)
        out, _ = process.communicate(timeout=TIMEOUT)

    assert number == signal.SIGKILL or "KeyboardInterrupt" in out
    wait(lambda: not Path(f"/proc/{pid.read_text()}").exists())
    assert not list((project / "temporary").glob("checkpoint-*"))


def wait(condition) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
