"""The pages that are generated from the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import generate
from loader.examples import TENSOR_FILES
from loader.examples.files import write_examples
from loader.schema import JobConfig
from loader.sweep.summary import Summary
from tests import reader
from tests.test_experiments import TENSORS


@pytest.mark.parametrize("name", generate.PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    written = (generate.HERE / name).read_text(encoding="utf-8")

    assert written == generate.PAGES[name](), "run: python docs/generate.py"


@pytest.mark.parametrize("name", generate.PAGES)
def test_every_key_and_field_has_a_meaning(name: str) -> None:
    rows = [line for line in generate.PAGES[name]().splitlines() if line.startswith("| `")]

    assert len(rows) > len(JobConfig.__annotations__)
    assert [row for row in rows if re.search(r"\| +\|$", row)] == []


def test_the_page_of_examples_names_every_file_and_its_experiment() -> None:
    page = (generate.HERE / "examples.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if "experiment=" in line and line.startswith("| ")]
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row[2])]
    assert {name.partition("/")[0] for name in TENSOR_FILES} == {name.rstrip("/") for name in named}
    assert [re.findall(r"experiment=(\w+)`", row[3]) for row in rows] == [[name] for name in TENSORS]


def test_the_summary_has_the_documented_fields() -> None:
    assert generate.SUMMARY.keys() == Summary(Path(), []).to_dict().keys()


PAGES = ["adapters.md", "compare.md", "evaluation.md", "examples.md", "quantized.md", "rules.md"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_run(name: str, tmp_path: Path) -> None:
    page = (generate.HERE / name).read_text(encoding="utf-8")
    folder = reader.folder(tmp_path)
    write_examples(folder / "examples")

    reader.run_all(reader.shell_lines(page), folder)
