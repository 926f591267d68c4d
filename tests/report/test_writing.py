from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.report.data import Report
from loader.report.writing import write_json, write_report, write_text
from loader.text.redaction import remember

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text() | st.integers(), below, max_size=3),
    max_leaves=8,
)


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def test_a_report_is_written_under_its_name(tmp_path: Path) -> None:
    written = write_report(Report(overrides=["seed=1"]), tmp_path)

    assert written == tmp_path / "report.json"
    assert strict(written.read_text())["overrides"] == ["seed=1"]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@given(JSON)
def test_whatever_is_written_is_json_that_any_reader_takes(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"

    write_json(path, {"content": content})

    assert path.read_bytes().isascii()
    assert set(strict(path.read_text())) == {"content"}


@given(JSON.filter(lambda content: "inf" not in repr(content) and "nan" not in repr(content)))
def test_ordinary_content_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"

    write_json(path, content)

    assert strict(path.read_text()) == json.loads(json.dumps(content))


def test_a_secret_next_to_a_quote_leaves_json_behind(tmp_path: Path) -> None:
    typed = 'checkpoint.path="https://h.invalid/a.pt?sig=hunter2"'
    remember([typed])

    path = write_json(tmp_path / "a.json", {"overrides": [typed], typed: 1})

    assert "hunter2" not in path.read_text()
    assert len(strict(path.read_text())["overrides"]) == 1


def test_numbers_that_json_lacks_become_null(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"mean": math.nan, "range": [-math.inf, 1.5], "deep": {"max": math.inf}})

    assert strict(path.read_text()) == {"mean": None, "range": [None, 1.5], "deep": {"max": None}}


def test_other_values_are_written_as_text(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", {"path": Path("runs/a.pt"), "pair": (1, 2), 5: "five"})

    assert strict(path.read_text()) == {"path": "runs/a.pt", "pair": [1, 2], "5": "five"}


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "a longer text than the next\n")

    write_text(path, "größe\r\n")

    assert path.read_bytes() == "größe\r\n".encode()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)

    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_rows_take_a_line_each(tmp_path: Path) -> None:
    content = {"files": [{"rows": [{"key": "a", "shape": [1, 2]}, {"key": "b", "mean": math.nan}]}], "dtypes": ["x"]}
    assert write_json(tmp_path / "a.json", content).read_text() == (
        "{\n"
        '  "files": [\n'
        "    {\n"
        '      "rows": [\n'
        '        {"key": "a", "shape": [1, 2]},\n'
        '        {"key": "b", "mean": null}\n'
        "      ]\n"
        "    }\n"
        "  ],\n"
        '  "dtypes": ["x"]\n'
        "}\n"
    )
