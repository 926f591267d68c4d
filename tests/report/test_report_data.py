from __future__ import annotations

import json
import math
import pickle
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loader.report import environment
from loader.report.data import (
    Check,
    ErrorReport,
    EvaluationReport,
    KeysReport,
    ModelReport,
    PartReport,
    Report,
    VerificationReport,
    write_json,
    write_report,
    write_text,
)
from loader.text.lines import Fix
from loader.text.redaction import remember


def full_report() -> Report:
    """A report with something in every field."""
    return Report(
        status="failed",
        exit_code=4,
        error=ErrorReport.of("FitError", "does not fit", [Fix("key=value", "it fits so")]),
        mode="plan",
        model=ModelReport("my.Net", 12, 48, "cpu", ["float32"], "hollow"),
        parts={
            "": PartReport(
                path="/a.pt",
                format="torch-zip",
                key="state",
                sha256="ab",
                bytes=100,
                tensors=2,
                rules=[{"name": "ddp", "hits": 2}],
                other={"epoch": "int"},
                trust={"trust": True},
            )
        },
        keys=KeysReport(
            2,
            ["a"],
            ["b"],
            [{"key": "c", "model": [1], "checkpoint": [2]}],
            ["d"],
            [{"key": "e", "checkpoint": "float16", "model": "float32", "loss": ""}],
            [["f", "g"]],
        ),
        verification=VerificationReport([Check("forward", True, "fine")], [{"shape": [1]}], [{"name": "0"}], "abc"),
        timings={"load": 0.1, "total": 0.2},
        memory={"peak_rss_bytes": 5},
        environment={"torch": "2"},
        config={"seed": 0},
        overrides=["seed=0"],
    )


def test_a_report_has_the_fields_that_others_read() -> None:
    expected = full_report().to_dict()

    assert set(expected) == {
        "schema", "status", "exit_code", "error", "mode", "model", "parts", "keys", "verification", "evaluation",
        "timings", "memory", "environment", "config", "overrides",
    }  # fmt: skip
    assert expected["schema"] == 1
    assert expected["error"] == {
        "type": "FitError",
        "message": "does not fit",
        "hint": "key=value   # it fits so",
        "fixes": [{"line": "key=value", "note": "it fits so"}],
    }
    assert set(expected["model"]) == {"target", "parameters", "bytes", "device", "dtypes", "build", "trust"}
    part = set(expected["parts"][""])
    assert part - {"note", "other", "beside", "applied", "trust"} == {
        "path", "format", "key", "sha256", "bytes", "tensors", "rules", "dangers",
    }  # fmt: skip
    assert set(expected["keys"]) == {"loaded", "missing", "unexpected", "mismatched", "dropped", "cast", "tied"}
    assert set(expected["verification"]) == {"checks", "inputs", "outputs", "fingerprint", "kept"}
    assert expected["verification"]["checks"] == [{"name": "forward", "ok": True, "detail": "fine"}]


def test_a_report_is_plain_data() -> None:
    expected = full_report().to_dict()

    assert json.loads(json.dumps(expected, allow_nan=False)) == expected


def test_an_empty_report_is_that_of_a_job_that_knows_nothing_yet() -> None:
    content = Report().to_dict()

    assert (content["status"], content["exit_code"], content["error"], content["model"], content["parts"]) == (
        "ok",
        0,
        None,
        None,
        {},
    )
    assert content["keys"]["loaded"] == 0


def test_to_dict_returns_a_copy() -> None:
    report = full_report()

    report.to_dict()["keys"]["missing"].append("more")

    assert report.keys.missing == ["a"]


def test_a_report_crosses_processes() -> None:
    report = full_report()

    assert pickle.loads(pickle.dumps(report)) == report


def test_reports_do_not_share_their_lists() -> None:
    one, other = Report(), Report()

    one.keys.missing.append("a")
    one.parts["a"] = PartReport("", "", None, None, 0, 0)
    one.verification.checks.append(Check("a", True, ""))

    assert other == Report()


def test_every_field_is_documented_by_its_type() -> None:
    def records(kind: type) -> set[type]:
        below = {
            inner
            for hint in get_type_hints(kind).values()
            for inner in (hint, *get_args(hint))
            if isinstance(inner, type) and is_dataclass(inner)
        }
        return {kind}.union(*(records(inner) for inner in below))

    found = records(Report)

    assert found == {
        Report,
        ErrorReport,
        ModelReport,
        PartReport,
        KeysReport,
        VerificationReport,
        EvaluationReport,
        Check,
    }
    plain: set[Any] = {str, int, float, bool, list, dict, type(None)}
    for kind in found:
        assert {type(getattr(full, field.name)) for full in instances(kind) for field in fields(kind)} <= plain | found


def instances(kind: type) -> list[Any]:
    report = full_report()
    everything = [report, report.error, report.model, report.keys, report.verification]
    return [item for item in (*everything, *report.parts.values(), *report.verification.checks) if type(item) is kind]


def test_the_version_of_torch_is_torchs_own_imported_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The package's own version may lack what torch was built for: 2.6.0, and 2.6.0+cu124."""
    monkeypatch.setattr("loader.report.environment.metadata.version", lambda package: "0.0.0")
    assert environment._torch_version() == str(torch.__version__)


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
