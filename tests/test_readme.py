"""The README is true: its commands run, its tables are complete, its reference is the config."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from loader import errors
from loader.examples import EXAMPLE_FILES
from loader.examples.files import write_examples
from loader.formats.sniff import FORMATS
from loader.keys.rules import kinds as rule_kinds
from loader.schema import CheckpointConfig, JobConfig, VerifyConfig
from tests import reader
from tests.command import REPOSITORY, run
from tests.test_experiments import TENSORS

README = (REPOSITORY / "README.md").read_text()
SETUP = "python3 -m venv .venv && "


def blocks(language: str) -> list[str]:
    return reader.blocks(README, language)


COMMANDS = [line for line in reader.shell_lines(README) if not line.startswith(SETUP)]
SETUPS = [line for line in reader.shell_lines(README) if line.startswith(SETUP)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reader.folder(tmp_path_factory.mktemp("reader"))


def test_shell_commands_run_one_after_the_other(folder: Path) -> None:
    reader.run_all(COMMANDS, folder)  # one test, since some use what others have written


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_run(code: str, folder: Path) -> None:
    write_examples(folder / "examples")
    done = run(sys.executable, "-c", code, cwd=folder, PYTHONPATH=f"{REPOSITORY}:{folder}")
    assert done.returncode == 0, done.stderr


def test_set_up_lines_are_what_ci_runs() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text()
    (pattern,) = re.findall(r"^  grep '\^(.*?)' README\.md", script, re.MULTILINE)
    assert pattern == SETUP
    main_job, tests = SETUPS
    install = SETUP + ".venv/bin/python -m pip install -q -c constraints.txt -e {} && .venv/bin/python {}"
    assert main_job == install.format(".", "run.py")
    assert tests == install.format("'.[dev]'", "-m pytest -n auto --dist worksteal")


def without_figures(text: str) -> list[str]:
    """A report's lines without what differs from run to run: figures and where the package is."""
    return [re.sub(r"\S*/loader/", "loader/", re.sub(r"-?\d[\d.]*(e-\d+)?", "N", line)) for line in text.splitlines()]


def test_main_job_prints_what_is_shown(folder: Path) -> None:
    done = reader.run_line("python run.py device=cpu", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (sample,) = blocks("text")
    assert without_figures(done.stdout) == without_figures(sample)
    (shown,) = re.findall("fingerprint .*", sample)
    assert shown in done.stdout  # equal on every machine


def test_other_hydra_app_instantiates_the_shown_config(folder: Path) -> None:
    (shown,) = [block for block in blocks("yaml") if "loader.load_model" in block]
    (folder / "app.yaml").write_text(shown)
    (folder / "app.py").write_text(
        "import hydra\n"
        "@hydra.main(config_path='.', config_name='app', version_base='1.3')\n"
        "def main(config): print(type(hydra.utils.instantiate(config.net)).__name__)\n"
        "main()\n"
    )
    done = reader.run_line("python app.py hydra.run.dir=. hydra.output_subdir=null", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Net"


def test_every_example_and_its_config_has_its_row() -> None:
    row = re.compile(r"^\| .* \| `(\S+)` \| `python run\.py experiment=(\w+)` \|$", re.MULTILINE)
    rows = row.findall(README)
    assert [name for name, _ in rows] == list(EXAMPLE_FILES)
    experiments = (REPOSITORY / "conf" / "experiment").glob("*.yaml")
    single = {path.stem for path in experiments if "sweeper:" not in path.read_text()}
    assert {*(config for _, config in rows), *TENSORS} == single  # those of TENSORS have theirs in docs/examples.md
    for name, config in rows:
        assert f"/{name}\n" in (REPOSITORY / "conf" / "experiment" / f"{config}.yaml").read_text()


def parsed(text: str) -> Any:
    return OmegaConf.to_container(OmegaConf.create(text))


def config_reference() -> Any:
    (block,) = [block for block in blocks("yaml") if "verify:" in block]
    return parsed(block)


def test_config_reference_names_every_key_and_no_other() -> None:
    reference = config_reference()
    assert set(reference) == {field.name for field in fields(JobConfig)}
    assert set(reference["checkpoint"]) == {field.name for field in fields(CheckpointConfig)}
    assert set(reference["verify"]) == {field.name for field in fields(VerifyConfig)}


def test_config_reference_shows_the_defaults() -> None:
    done = run(sys.executable, str(REPOSITORY / "run.py"), "--cfg", "job", cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert parsed(done.stdout) == config_reference()


def test_every_kind_of_rule_and_every_ready_made_one_is_told() -> None:
    kinds = re.findall(r"^\| `\{(\w+): ", README, re.MULTILINE)
    assert kinds == list(rule_kinds())
    page = README + (REPOSITORY / "docs" / "rules.md").read_text()
    settings = {field.name for kind in rule_kinds().values() for field in fields(kind)}
    assert {name for name in settings if not re.search(rf"\b{name}\b", page)} == set()
    for path in (REPOSITORY / "conf" / "rules").glob("*.yaml"):
        assert f"`{path.stem}`" in README or f"`rules={path.stem}`" in README


def test_every_exit_code_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d) \| ", README, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LoaderError)]
    assert told == {0} | {kind.exit_code for kind in kinds}


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or (REPOSITORY / target).exists(), target


def test_every_format_is_named() -> None:
    table = README.partition("## What is read")[2].partition("## ")[0]
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)?)`", table)) >= set(FORMATS)
