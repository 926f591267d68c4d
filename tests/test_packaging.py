"""What is shipped: the wheel, from building it to running it in an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import loader
import noxfile
from tests.command import REPOSITORY, run

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def checked(*command: str, cwd: Path, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    checked(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), cwd=REPOSITORY)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it, to stand before everything else on Python's path."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    checked(*pip, str(wheel), cwd=target)
    return target


def run_installed(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(str(installed / "bin" / "hydra-loader"), *arguments, cwd=cwd, PYTHONPATH=str(installed))


@pytest.mark.slow
def test_wheel_holds_the_package_its_configs_and_its_weights(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"loader/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "conf").rglob("*.yaml")}
    assert configs
    assert configs <= names
    assert {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "loader/examples/run").iterdir()} <= names
    assert {
        "loader/py.typed",
        "loader/examples/weights/digits.safetensors",
        *(f"loader/schemas/{name}.json" for name in ("config", "report", "summary")),
        "loader/examples/weights/simple_net.safetensors",
        "loader/examples/weights/simple_net.safetensors.golden.safetensors",
        "loader/page/template/sweep.html",
        "loader/page/template/page.js",
        "loader/page/vendor/charts.min.js",
        "loader/page/vendor/LICENSES.txt",
        f"hydra_loader-{loader.__version__}.dist-info/licenses/LICENSE",
    } <= names
    assert {name.split("/")[0] for name in names} == {
        "hydra_loader",
        "loader",
        f"hydra_loader-{loader.__version__}.dist-info",
    }


@pytest.mark.slow
def test_wheel_holds_every_module_of_the_checkout(wheel: Path) -> None:
    modules = {
        str(p.relative_to(REPOSITORY)) for home in ("hydra_loader", "loader") for p in (REPOSITORY / home).rglob("*.py")
    }
    assert modules <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_installed_copy_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import loader; print(loader.__file__)"
    out = checked(sys.executable, "-P", "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(out.strip()).is_relative_to(installed)


@pytest.mark.slow
def test_console_script_finds_its_configs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = run_installed(installed, tmp_path, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "_target_: loader.examples.SimpleNet" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_console_script_does_the_main_job_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = run_installed(installed, tmp_path, f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "ok"
    assert Path(report["parts"][""]["path"]).is_relative_to(installed)


@pytest.mark.slow
def test_console_script_sweeps_next_to_a_loader_of_the_users_own(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text("raise RuntimeError('a file of the user hid the package')\n")
    done = run_installed(installed, tmp_path, "-m", "seed=0,0", "hydra.sweep.dir=sweep")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "sweep" / "summary.json").read_text())["ok"] == 2


@pytest.mark.slow
def test_pytest_finds_the_plugin_next_to_a_loader_of_the_projects_own(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    shipped = "checkpoint: {path: pkg://loader.examples/weights/simple_net.safetensors}"
    (tmp_path / "conf" / "experiment" / "shipped.yaml").write_text(f"# @package _global_\ndevice: cpu\n{shipped}\n")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\ncheckpoints = ['conf/experiment/*.yaml']\n")
    (tmp_path / "loader.py").write_text("def load():\n    return 'own'\n")
    (tmp_path / "test_own.py").write_text(
        "import sys, loader\n\n"
        "def test_own():\n"
        "    assert loader.load() == 'own'\n"
        "    assert 'torch' not in sys.modules\n"
    )

    out = checked(sys.executable, "-m", "pytest", "-v", cwd=tmp_path, PYTHONPATH=str(installed))

    assert set(re.findall(r"^(\S+) PASSED", out, re.MULTILINE)) == {
        "conf/experiment/shipped.yaml::shipped",
        "test_own.py::test_own",
    }


@pytest.mark.slow
def test_another_hydra_app_finds_the_configs_on_its_search_path(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "app.yaml").write_text("defaults: [{model@net: simple_net}, _self_]\n")
    (tmp_path / "app.py").write_text(
        "import hydra\n"
        "@hydra.main(config_path='conf', config_name='app', version_base='1.3')\n"
        "def main(config): print(config.net._target_)\n"
        "main()\n"
    )
    searchpath = f"hydra.searchpath=[file://{installed / 'loader' / 'conf'}]"
    command = [sys.executable, "app.py", searchpath, "hydra.run.dir=.", "hydra.output_subdir=null"]
    out = checked(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert out.strip() == "loader.examples.SimpleNet"


def _name(line: str) -> str:
    """The name in a requirement or a pin, as a package index knows it."""
    return re.split(r"[^\w.-]", line)[0].lower().replace("_", "-")


def _pins(file: str) -> dict[str, str]:
    lines = (REPOSITORY / file).read_text().splitlines()
    return {_name(line): line.partition("==")[2] for line in lines if line and not line.startswith("#")}


def test_constraints_pin_torch_and_every_dependency() -> None:
    pinned = _pins("constraints.txt")
    assert pinned["torch"] == "2.13.0"
    extras = PROJECT["optional-dependencies"]
    # Benchmarks are run beside whatever releases of the peers are current, and say which.
    elsewhere = {"bench", *noxfile.APART}
    wanted = [*PROJECT["dependencies"], *(line for name in extras.keys() - elsewhere for line in extras[name])]
    assert {_name(line) for line in wanted} <= set(pinned)


@pytest.mark.parametrize("part", noxfile.APART)
def test_a_part_with_an_environment_of_its_own_is_pinned_whole(part: str) -> None:
    pinned = _pins(f".ci/{part}.txt")
    assert {_name(line) for line in PROJECT["optional-dependencies"][part]} <= set(pinned)
    assert all(pinned.values())
    # The packages that nothing may be installed twice of, or in another version than the tests run with.
    assert not {"torch", "hydra-core", "omegaconf", "hydra-loader"} & set(pinned)
    assert callable(getattr(noxfile, part))
    assert part in re.findall(r"^for session in (.*); do$", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)[0]


def test_the_lowest_versions_that_are_tested_are_those_that_are_asked_for() -> None:
    pinned = dict(
        line.split("==")
        for line in (REPOSITORY / "constraints-lowest.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    asked = {
        name.partition("[")[0]: floor.partition(",")[0] for name, _, floor in (one.partition(">=") for one in lines)
    }
    wrong = {name for name, floor in asked.items() if not f"{pinned.get(name, floor)}.".startswith(f"{floor}.")}
    assert wrong == {"torch"}  # the oldest one brings gigabytes along
    assert {line.partition(">=")[0].partition("[")[0] for line in PROJECT["dependencies"]} <= set(pinned)
    assert "constraints-lowest.txt" in (REPOSITORY / "noxfile.py").read_text()


def test_ci_script_is_executable_and_valid_shell() -> None:
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert run("bash", "-n", str(script), cwd=REPOSITORY).stderr == ""
