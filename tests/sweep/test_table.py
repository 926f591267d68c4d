"""The table at the end of a sweep, the errors below it, and the labels of jobs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from loader.sweep.label import Labels, line_of, message_of
from loader.sweep.record import JobRecord, error_of
from loader.sweep.refusals import errors_of, show_errors
from loader.sweep.summary import Summary, show_summary
from loader.sweep.table import table_of
from loader.text.lines import Fix
from loader.text.wording import is_printable


def measured(value: float | None, stderr: float | None = None) -> dict[str, Any]:
    return {"value": value, "stderr": stderr, "n": 4}


def job(number: int, status: str = "ok", **fields: Any) -> JobRecord:
    return JobRecord(number, status=status, exit_code=0, seconds=1.234, **fields)


def checkpoints() -> list[JobRecord]:
    """Three jobs over files of one run, of which one fails."""
    jobs = []
    for number, (step, accuracy) in enumerate([(100, 0.91234), (200, 0.97512), (300, None)]):
        path = f"runs/step={step}.pt"
        jobs.append(
            job(
                number,
                "failed" if accuracy is None else "ok",
                overrides=[f"checkpoint.path={path}", "seed=1"],
                values={"checkpoint.path": path},
                step=step,
                metrics={} if accuracy is None else {"accuracy": measured(accuracy, 0.0123)},
                higher_is_better={"accuracy": True},
                dtype="float32",
                error=error_of("FitError", "nothing fits\n  at all") if accuracy is None else None,
            )
        )
    return jobs


def lines(jobs: Sequence[JobRecord], width: int | None = None) -> list[str]:
    return table_of(jobs, width).plain.splitlines()


def test_the_table_has_what_differs_and_marks_the_best() -> None:
    assert lines(checkpoints()) == [
        "job  status  checkpoint.path  step  accuracy         seconds  error",
        "  0  ok      step=100.pt       100  0.9123 ± 0.012      1.23",
        "  1  ok      step=200.pt       200  0.9751 ± 0.012*     1.23",
        "  2  failed  step=300.pt       300                      1.23  FitError: nothing fits",
    ]


def test_figures_that_are_equal_are_left_out() -> None:
    both: dict[str, Any] = {"dtype": "float32", "parameters": 6, "fingerprint": "a" * 32, "n": 360}
    assert lines([job(0, **both), job(1, **both)])[0].split() == ["job", "seconds"]
    other: dict[str, Any] = {"dtype": "float16", "parameters": 1234, "fingerprint": "b" * 32, "n": None}
    assert lines([job(0, **both), job(1, **other)]) == [
        "job  dtype    fingerprint  parameters  seconds",
        "  0  float32  aaaaaaaa              6     1.23",
        "  1  float16  bbbbbbbb          1,234     1.23",
    ]


def test_what_the_model_got_stands_for_a_swept_dtype() -> None:
    jobs = [job(0, values={"dtype": "half"}, dtype="float16"), job(1, "failed", values={"dtype": "bfloat16"})]
    assert [line.split()[2] for line in lines(jobs)] == ["dtype", "float16", "bfloat16"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_row_is_as_wide_as_the_terminal_at_most(width: int) -> None:
    wide = {"model.a.very.long.key.indeed": "x" * 50, "checkpoint.path": "漢字/" * 8 + "last.pt", "seed": 3}
    fields: dict[str, Any] = {"values": wide, "metrics": {"accuracy": measured(0.5, 0.25)}, "overrides": ["a=1"]}
    error = error_of("ConfigError", "a long message " * 10)
    jobs = [job(0, **fields, output_diff=1e-6), job(1, "failed", **fields, error=error, output_diff=2.0, cast=3)]
    shown = lines(jobs, width)
    assert max(map(cell_len, shown)) <= max(width, 75)
    assert all(head in shown[0].split() for head in ("job", "status", "path", "seed", "accuracy", "error"))
    assert all("0.5 ± 0.25" in line and "…" in line and "last.pt" in line for line in shown[1:])
    assert ("output_diff" in shown[0]) is (width == 120)


def shown(summary: Summary, *, terminal: bool) -> str:
    stream = io.StringIO()
    show_summary(summary, Console(file=stream, force_terminal=terminal, width=60, highlight=False))
    return stream.getvalue()


def test_a_table_off_a_terminal_is_plain_and_complete(tmp_path: Path) -> None:
    error = error_of("FitError", "a \x1b[31mlong " + "word " * 30)
    jobs = [
        job(0, values={"a": "b"}),
        job(1, "failed", values={"a": "c"}, error=error),
        job(2, "skipped"),
        job(3, "not run"),
    ]
    text = shown(Summary(tmp_path, jobs), terminal=False)
    assert text.splitlines()[2].startswith("  1  failed   c     1.23  FitError: a \\x1b[31mlong word word")
    assert text.splitlines()[-1] == f"1 of 4 jobs ok, 1 skipped, 1 not run: {tmp_path}/summary.json"
    assert "\x1b" not in text


def test_a_table_on_a_terminal_has_colours_and_no_markup(tmp_path: Path) -> None:
    jobs = [job(0, values={"x": "[bold]x"}), job(1, "not run", values={"x": "y"})]
    text = shown(Summary(tmp_path, jobs), terminal=True)
    assert "\x1b[32mok" in text
    assert "[bold]x" in text


def test_the_best_jobs_are_named(tmp_path: Path) -> None:
    text = shown(Summary(tmp_path, checkpoints()), terminal=False)
    assert text.splitlines()[-2] == "best accuracy: 0.9751 ± 0.012  job 1 step=200.pt"


def test_an_error_is_shown_once_with_all_its_jobs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    error = error_of("DeviceError", "'cuda:9' is absent", Fix("device=auto", "takes the best"))
    jobs = [job(number, "failed", error=error) for number in range(3)]
    jobs += [job(3, "not run", error=error_of("NotRun", "x")), job(4, "crashed", error=error_of("Interrupted", "x"))]
    (tmp_path / "output.txt").write_text("Traceback")
    jobs.append(job(5, "error", error=error_of("TypeError", "oh"), output_dir=str(tmp_path)))
    show_errors(jobs)
    assert capsys.readouterr().err == (
        "error  jobs 0, 1, 2: 'cuda:9' is absent\n  try  device=auto   # takes the best\n"
        f"error  job 5: oh\n  try  cat {tmp_path}/output.txt   # has the traceback\n"
    )


def test_damaged_fixes_are_left_out() -> None:
    error = {"message": "m", "fixes": [1, {"line": 2}, {"note": "n", "x": 1}]}
    (shown_error,) = errors_of([job(0, "failed", error=error)])
    assert [str(fix) for fix in shown_error.fixes] == ["2", "n"]
    assert [list(one.fixes) for one in errors_of([job(0, "failed", error={"message": "m", "fixes": 3})])] == [[]]


def test_many_different_errors_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    show_errors([job(number, "failed", error=error_of("A", str(number))) for number in range(25)])
    assert capsys.readouterr().err.splitlines()[-1] == "note   5 more errors: summary.csv lists them"
    assert len(list(errors_of([job(0)]))) == 0


def test_a_line_says_how_a_job_ended() -> None:
    done = job(3, metrics={"accuracy": measured(0.9714), "loss": measured(None)})
    assert (
        line_of(done, "step=300 dtype=bfloat16", "12/120")
        == "12/120  ok  1.2 s  step=300 dtype=bfloat16  accuracy 0.9714"
    )
    bad = job(3, "failed", error=error_of("FitError", "two\nlines \x1b"))
    assert line_of(bad, "", "1/2") == "1/2  failed  1.2 s  FitError: two"
    assert message_of(job(1, "failed", error=error_of("A", ""))) == "A: "


@pytest.mark.parametrize(
    ("override", "step", "label"),
    [
        ("checkpoint.path=runs/a/last.pt", 300, "a/last.pt step=300 seed=1"),
        ("checkpoint.path=runs/a/step=300.pt", 300, "a/step=300.pt seed=1"),
        ("checkpoint.path='runs/a b.pt'", None, "a b.pt seed=1"),
        ("checkpoint.path=/elsewhere/x.pt", None, "/elsewhere/x.pt seed=1"),
    ],
)
def test_a_label_has_the_swept_values(override: str, step: float | None, label: str) -> None:
    jobs = [["checkpoint.path=runs/a/x.pt"], ["checkpoint.path='runs/b c.pt'"]]
    labels = Labels(["checkpoint.path", "seed"], jobs)
    assert labels.of([override, "+seed=1", "device=cpu"], step) == label


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=200), max_size=3))
def test_a_label_is_one_printable_line(values: dict[str, str]) -> None:
    texts = Labels(list(values), []).values(values).values()
    assert all(is_printable(text) and len(text) <= 60 for text in texts)


def test_urls_are_shown_from_where_they_differ() -> None:
    jobs = [[f"checkpoint.path=pkg://my.package/run/{name}"] for name in ("a.pt", "b/c.pt")]
    labels = Labels(["checkpoint.path"], jobs)
    assert [labels.of(job) for job in jobs] == ["a.pt", "b/c.pt"]


def test_secrets_are_hidden() -> None:
    jobs = [[f"checkpoint.path=https://me:hunter2@host/run/{name}"] for name in ("a.pt", "b.pt")]
    assert Labels(["checkpoint.path"], jobs).of(jobs[0]) == "a.pt"
    assert "hunter2" not in Labels(["checkpoint.path"], [["checkpoint.path=https://me"], *jobs]).of(jobs[0])
    labels = Labels(["checkpoint.path"], [])
    assert "hunter2" not in labels.of(["checkpoint.path=https://me:hunter2@host/a.pt"])
