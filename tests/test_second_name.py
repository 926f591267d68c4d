"""The package under its second name, next to modules of the user's own that have the first, or Hydra's."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import hydra_loader
import loader
import loader.text.redaction
from loader.schema import OF_A_FILE
from tests.command import REPOSITORY, run

NET = """
import torch
from loader import get_loader

class Net(torch.nn.Linear):
    def __init__(self):
        assert get_loader() == "the user's own"
        super().__init__(2, 2)
"""
OWN = 'def get_loader(): return "the user\'s own"\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a `loader`, a `conf/` and a `hydra.py` of its own, a model that needs the first, and weights."""
    folder = tmp_path / "project"
    (folder / "conf").mkdir(parents=True)
    (folder / "conf" / "other.yaml").write_text("x: 1\n")
    (folder / "hydra.py").write_text("raise RuntimeError('the hydra of the user hid Hydra')\n")
    (folder / "loader.py").write_text(OWN)
    (folder / "net.py").write_text(NET)
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "a.pt")
    torch.save(torch.nn.Linear(2, 3).state_dict(), folder / "wide.pt")
    return folder


@pytest.fixture
def script(tmp_path: Path) -> str:
    """The console script, as an installer writes it."""
    path = tmp_path / "bin" / "hydra-loader"
    path.parent.mkdir()
    path.write_text("import sys\nfrom hydra_loader import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    return str(path)


def started(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, *command, cwd=cwd, PYTHONPATH="", PYTHONSAFEPATH="")


def test_both_names_lead_to_the_same_objects_where_nothing_clashes() -> None:
    assert hydra_loader.load is loader.load
    assert hydra_loader.LoaderError is loader.LoaderError
    assert import_module("hydra_loader.text.redaction") is loader.text.redaction
    assert loader.text.redaction.__spec__ is not None
    assert loader.text.redaction.__spec__.name == "loader.text.redaction"
    assert set(loader.__all__) == set(hydra_loader.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'get_loader'"):
        _ = hydra_loader.get_loader


def test_a_config_may_name_the_examples_by_either_name() -> None:
    for name in ("loader", "hydra_loader"):
        module = loader.load([f"model._target_={name}.examples.SimpleNet"]).model
        assert type(module).__name__ == "SimpleNet"


@pytest.mark.parametrize("own", ["loader.py", "loader/__init__.py", "loader/part.py"])
def test_the_command_line_and_its_jobs_leave_loader_to_the_user(project: Path, script: str, own: str) -> None:
    if own != "loader.py":
        (project / "loader.py").unlink()
        (project / "loader").mkdir()
        (project / own).write_text(OWN)
        if own == "loader/part.py":
            (project / "net.py").write_text(NET.replace("from loader import", "from loader.part import"))

    done = started(script, "model._target_=net.Net", "checkpoint.path=a.pt", "hydra.run.dir=run", cwd=project)

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((project / "run" / "report.json").read_text())["status"] == "ok"


def test_the_jobs_of_a_sweep_leave_loader_to_the_user(project: Path, script: str) -> None:
    paths = "checkpoint.path=a.pt,wide.pt"
    done = started(script, "-m", "model._target_=net.Net", paths, "hydra.sweep.dir=sweep", cwd=project)

    assert done.returncode == 4, done.stderr
    jobs = json.loads((project / "sweep" / "summary.json").read_text())["jobs"]
    assert [job["exit_code"] for job in jobs] == [0, 4]


@pytest.mark.parametrize("command", [("-m", "hydra_loader"), (str(REPOSITORY / "run.py"),)])
def test_the_shipped_example_loads_next_to_the_users_own_modules(project: Path, command: tuple[str, ...]) -> None:
    done = started(*command, "hydra.run.dir=run", cwd=project)

    assert (done.returncode, done.stderr) == (0, "")
    model = json.loads((project / "run" / "report.json").read_text())["model"]
    assert model["target"] == "loader.examples.SimpleNet"


def test_the_patterns_of_a_config_out_of_a_file_admit_the_examples_and_no_loader_of_the_user(project: Path) -> None:
    (project / "loader.py").write_text(f"import torch\n{OWN}class Own(torch.nn.Linear): ...\n")
    trusted = f"trusted_targets=[{','.join(OF_A_FILE)}]"
    assert trusted == "trusted_targets=[torch.nn.*,loader.examples.*]"
    command = ("-m", "hydra_loader", trusted, "hydra.run.dir=run")
    assert started(*command, cwd=project).returncode == 0
    assert started(*command, "model._target_=hydra_loader.examples.SimpleNet", cwd=project).returncode == 0
    done = started(*command, "model._target_=loader.Own", cwd=project)
    assert "loader.Own is refused: trusted_targets does not name it" in done.stderr


def test_python_code_has_both_loaders(project: Path) -> None:
    (project / "hydra.py").unlink()
    (project / "app.py").write_text(
        "import hydra_loader, net\n"
        "from loader import get_loader\n"
        "model = hydra_loader.load_model({'_target_': 'net.Net'}, 'a.pt')\n"
        "print(type(model).__name__, get_loader(), hydra_loader.LoaderError.__module__)\n"
        "print(hydra_loader.load().report.status)\n"
    )

    done = started("app.py", cwd=project)

    assert (done.stdout, done.stderr) == ("Net the user's own hydra_loader.errors\nok\n", "")


def test_a_loader_that_this_package_hides_is_named(project: Path) -> None:
    (project / "hydra.py").unlink()
    other = project.parent / "elsewhere"
    other.mkdir()
    call = f"loader.load_model({{'_target_': 'net.Net'}}, {str(project / 'a.pt')!r})"
    code = f"import sys, loader; sys.path.append({str(project)!r}); {call}"

    done = started("-c", code, cwd=other)

    assert "cannot import name 'get_loader' from 'loader'" in done.stderr
    assert "In this process `loader` is hydra-loader's own package, and hides a `loader` of yours" in done.stderr
    assert "# or import hydra_loader instead of loader" in done.stderr


def test_a_module_that_hides_hydra_is_named(project: Path) -> None:
    (project / "hydra.py").write_text("")
    done = started("-c", "import hydra_loader; hydra_loader.load()", cwd=project)

    assert done.returncode == 1
    file = project / "hydra.py"
    assert f"ImportError: {file} hides Hydra, which hydra_loader.load needs: rename it, or move it away" in done.stderr


def test_processes_that_a_model_spawns_have_the_users_loader(project: Path, script: str) -> None:
    (project / "hydra.py").unlink()
    (project / "net.py").write_text(
        NET + "        context = torch.multiprocessing.get_context('spawn')\n"
        "        process = context.Process(target=child)\n"
        "        process.start(); process.join()\n"
        "        assert process.exitcode == 0\n\n"
        "def child():\n"
        '    assert get_loader() == "the user\'s own"\n'
    )

    done = started(script, "model._target_=net.Net", "checkpoint.path=a.pt", "hydra.run.dir=run", cwd=project)

    assert (done.returncode, done.stderr) == (0, "")


def test_the_example_files_are_written_next_to_the_users_own_modules(project: Path) -> None:
    (project / "hydra.py").unlink()
    done = started("-m", "hydra_loader.examples", "written", cwd=project)

    assert (done.returncode, done.stderr) == (0, "")
    assert (project / "written" / "simple_net_ddp.pth").is_file()


def test_a_name_of_the_package_that_is_no_example_is_refused_as_such() -> None:
    with pytest.raises(loader.ConfigError) as refused:
        loader.load(["model._target_=loader.net.Net"])
    assert "loader.net.Net is refused: it is part of hydra-loader itself, not a model" in refused.value.message
