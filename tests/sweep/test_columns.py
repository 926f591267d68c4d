"""``summary.csv``: its columns, and what a spreadsheet makes of its cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.sweep.columns import csv_of
from loader.sweep.record import JobRecord
from loader.sweep.summary import Summary
from loader.sweep.table import columns_of

ORDER = (
    "job,status,exit_code,checkpoint.path,model.width,step,accuracy,accuracy_stderr,n,fingerprint,output_diff,golden_diff,"
    "parameters,loaded,missing,unexpected,mismatched,cast,dtype,device,file_bytes,load_seconds,forward_seconds,"
    "evaluate_seconds,seconds,peak_rss_bytes,torch,error_type,error,hint,command,report"
)


def rows(jobs: Sequence[JobRecord]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_of(jobs), newline="")))


def cell(value: object) -> str:
    return rows([JobRecord(0, values={"key": value})])[0]["key"]


def test_the_columns_are_in_the_documented_order() -> None:
    swept = {"checkpoint.path": "a.pt", "dtype": "half", "model.width": 2}
    measured = {"accuracy": {"value": 0.5, "stderr": 0.25, "n": 4}}
    job = JobRecord(0, status="ok", exit_code=0, values=swept, metrics=measured, dtype="float16", step=3)
    assert csv_of([job]).splitlines()[0] == ORDER
    row = rows([job])[0]
    assert [row[name] for name in ("step", "accuracy", "accuracy_stderr", "dtype")] == ["3", "0.5", "0.25", "float16"]


def test_what_one_job_lacks_is_empty_there() -> None:
    first = JobRecord(0, values={"seed": 0}, metrics={"loss": {"value": 1.5, "stderr": None, "n": 2}})
    second = JobRecord(1, values={"flag": False})
    found = [{name: row[name] for name in ("seed", "flag", "loss", "loss_stderr")} for row in rows([first, second])]
    assert found == [
        {"seed": "0", "flag": "", "loss": "1.5", "loss_stderr": ""},
        {"seed": "", "flag": "false", "loss": "", "loss_stderr": ""},
    ]


def test_a_key_or_metric_with_the_name_of_a_column_has_another() -> None:
    job = JobRecord(0, values={"step": 7}, metrics={"n": {"value": 0.5}}, step=3, n=9)
    row = rows([job])[0]
    assert [row[name] for name in ("values.step", "step", "metrics.n", "n")] == ["7", "3", "0.5", "9"]


def test_a_metric_with_the_name_of_a_swept_key_has_another() -> None:
    swept = {"a.path": "x.pt", "b_stderr": 1, "metrics.a.path": 2}
    job = JobRecord(0, values=swept, metrics={"a.path": {"value": 0.5}, "b": {"value": 1.5, "stderr": 0.25}})
    header, *_ = csv_of([job]).splitlines()
    assert header.split(",")[3:11] == [
        *swept,
        "step",
        "metrics.metrics.a.path",
        "a.path_stderr",
        "b",
        "metrics.b_stderr",
    ]
    heads = [column.head for column in columns_of([job])]
    assert heads == ["job", *swept, "metrics.metrics.a.path", "b", "seconds"]


def test_a_job_is_one_line(tmp_path: Path) -> None:
    error = {"type": "FitError", "message": "two\n  lines, and a comma", "hint": 'a "quote"'}
    job = JobRecord(0, ["a=1"], "failed", 4, error, report=str(tmp_path / "0" / "report.json"))
    row = rows(Summary(tmp_path, [job]).relative())[0]
    assert [row[name] for name in ("error_type", "error", "hint", "report")] == [
        "FitError",
        "two lines, and a comma",
        'a "quote"',
        "0/report.json",
    ]


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "\tx", "\r=1", "\n=1", "=HYPERLINK(1)", "-1-1", "+", "-"])
def test_a_formula_is_text(text: str) -> None:
    assert cell(text).startswith("'")


@pytest.mark.parametrize("text", ["-1", "+1.5", "-1e-3", ".5", "a=1", "'=1", "1e5", ""])
def test_a_number_or_harmless_text_is_itself(text: str) -> None:
    assert cell(text) == text


@given(st.text())
def test_no_text_is_a_formula_or_takes_a_second_line(text: str) -> None:
    written = csv_of([JobRecord(0, values={text or "key": text}, error={"message": text})])
    assert len(written.splitlines()) == 2
    for line in csv.reader(io.StringIO(written, newline="")):
        assert not any(found.startswith(("=", "@", "\t", "\r")) for found in line)


@pytest.mark.parametrize(
    ("value", "expected"),
    [([1, 2], "[1,2]"), (["ddp"], "[ddp]"), ({"a": 1}, "{a: 1}"), (None, ""), (True, "true"), (1e-05, "1e-05")],
)
def test_other_values_are_as_they_are_typed(value: object, expected: str) -> None:
    assert cell(value).replace(", ", ",") == expected


def test_a_job_without_a_model_has_what_it_was_to_get() -> None:
    job = JobRecord(0, values={"dtype": "float16", "device": "cuda:9"}, dtype="float32")
    assert [rows([job])[0][name] for name in ("dtype", "device")] == ["float32", "cuda:9"]
