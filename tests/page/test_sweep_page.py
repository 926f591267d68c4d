"""What the page of a sweep says, without a browser."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from loader.page import write_sweep_page
from loader.page.figures import lines_of
from loader.page.jobs import Job, Limits, jobs_of
from loader.page.plain import figure, typed_line, without_shared_folder
from loader.page.table import table_of
from loader.report.kept import KEPT
from loader.report.sketched import SKETCHED
from loader.schema import CompareConfig
from tests.page.folders import (
    DTYPES,
    failed,
    job_row,
    keep,
    make_sweep,
    module_row,
    new_folder,
    summary_of,
    write_report,
)
from tests.page.parsed import Parsed, parsed

pytestmark = pytest.mark.damaged_reports


def written(folder: Path, rows: list[dict[str, Any]], **compare: Any) -> Parsed:
    return parsed(write_sweep_page(folder, summary_of(rows), CompareConfig(**compare)))


def headings(page: Parsed) -> list[str]:
    return [text.strip() for text in page.texts["th"] if text.strip() and not text.strip().isdigit()]


def test_the_table_is_whole_without_scripts(tmp_path: Path) -> None:
    page = parsed(write_sweep_page(tmp_path, make_sweep(tmp_path)))
    columns = ["job", "status", "checkpoint.path", "dtype", "step", "accuracy", "output diff", "seconds", "peak memory"]
    assert headings(page)[: len(columns)] == columns
    assert {"loaded", "missing", "unexpected", "cast", "parameters", "fingerprint", "torch", "error"} <= {
        *headings(page)
    }
    ids = [found["id"] for tag, found in page.tags if tag == "tr" and "id" in found]
    assert ids == [f"job-{number}" for number in range(8)]
    assert not [found for tag, found in page.tags if tag in ("td", "th", "tr") and "hidden" in found]
    assert {f"./{number}/report.json" for number in range(8)} <= {*page.attributes("href")}


def test_the_best_value_is_marked(tmp_path: Path) -> None:
    page = written(tmp_path, [job_row(0), job_row(1), failed(2)])
    marked = [found for tag, found in page.tags if tag == "td" and "best" in (found.get("class") or "")]
    assert [found["data-v"] for found in marked] == ["0.51"]
    assert "Best: 0.51 (job 1); worst: 0.5 (job 0)." in page.text


def test_without_a_direction_nothing_is_the_best(tmp_path: Path) -> None:
    summary = summary_of([job_row(0), job_row(1)]) | {"best": {}}
    page = parsed(write_sweep_page(tmp_path, summary))
    assert not [found for tag, found in page.tags if tag == "td" and "best" in (found.get("class") or "")]
    assert "From 0.5 (job 0) to 0.51 (job 1)." in page.text


def test_what_is_alike_is_said_once(tmp_path: Path) -> None:
    page = written(tmp_path, [job_row(0), job_row(2)])
    assert "The same in all jobs:" in page.text
    unchecked = [found for tag, found in page.tags if tag == "input" and found["type"] == "checkbox"]
    assert any("checked" not in found for found in unchecked)


def test_a_swept_device_has_a_column_of_what_was_asked_for(tmp_path: Path) -> None:
    asked = ("cpu", "cuda:*", None)
    rows = [job_row(0, values={"device": device}, device="cpu" if device != "cuda:*" else None) for device in asked]
    table = table_of(jobs_of(summary_of(rows), tmp_path), [None] * 3, Limits())
    (column,) = [column for column in table.columns if column.title == "device"]
    assert [(cell.text, cell.more) for cell in column.cells] == [("cpu", ""), ("cuda:*", ""), ("null", "cpu")]
    assert column.shown
    assert "device" not in dict(table.alike)
    assert {"dtype", "torch"} <= dict(table.alike).keys()


def test_a_failed_job_has_its_message_a_line_to_type_and_its_command(tmp_path: Path) -> None:
    write_report(tmp_path, job_row(0))
    page = written(tmp_path, [job_row(0), failed(1)])
    assert "the checkpoint does not fit: plain\n  head.{weight,bias}  2 missing" in page.text
    assert "'allow.missing=[head.*]'" in page.texts["code"]
    assert "hydra-loader seed=1" in page.texts["code"]
    assert "hydra-loader seed=0" not in page.texts["code"]


def test_a_job_without_a_command_says_why(tmp_path: Path) -> None:
    page = written(tmp_path, [failed(0, command=None, command_note="a value has control characters")])
    assert "a value has control characters" in page.texts["p"]
    assert page.texts["code"] == ["'allow.missing=[head.*]'"]


@pytest.mark.parametrize("line", ["a\nrm -rf /", "a\x1b[2J", "\u202ea", "x" * 100])
def test_a_line_is_shown_whole_or_not_at_all(line: str) -> None:
    assert typed_line(line, 50) == ""
    assert typed_line("seed=1", 50) == "seed=1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "its report.json is not JSON (Expecting property name enclosed in double quotes"),
        ("[]", "its report.json is not a mapping"),
        ("[" * 100_000, "its report.json has more than 100 lists and mappings inside each other"),
        ("\udcff", "its report.json is not JSON ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_a_damaged_report_costs_one_job_its_details(tmp_path: Path, content: str, said: str) -> None:
    summary = make_sweep(tmp_path, 3)
    (tmp_path / "1" / "report.json").write_text(content, errors="surrogateescape")
    page = parsed(write_sweep_page(tmp_path, summary))
    assert said in page.text
    assert len([found for tag, found in page.tags if tag == "tr" and "id" in found]) == 3
    assert "0.51" in page.text  # the metric is the summary's
    (picture,) = page.pictures("coverage")
    assert [job for each in picture["maps"] for job, _ in each["jobs"]] == [0, 2]


def test_a_report_that_is_no_file_is_named(tmp_path: Path) -> None:
    summary = make_sweep(tmp_path, 3)
    (tmp_path / "0" / "report.json").unlink()
    (tmp_path / "1" / "report.json").unlink()
    os.mkfifo(tmp_path / "1" / "report.json")
    summary["jobs"][2]["report"] = "a\x00b"
    page = parsed(write_sweep_page(tmp_path, summary))
    assert "its report.json cannot be read: No such file or directory" in page.text
    assert "its report.json is not a regular file (expected a report)" in page.text
    assert "its report.json has a path that is not valid" in page.text
    assert "Notes" in page.texts["h2"]


def test_a_metric_over_the_step_has_a_line_for_each_other_value(tmp_path: Path) -> None:
    (picture,) = written(tmp_path, [job_row(number) for number in range(6)]).pictures("metric")
    assert (picture["over"], picture["best"]) == ("step", 5)
    assert picture["series"] == [
        {"name": "float32", "points": [[0, 0.5, 0.01, 0], [100, 0.52, 0.01, 2], [200, 0.54, 0.01, 4]]},
        {"name": "bfloat16", "points": [[0, 0.51, 0.01, 1], [100, 0.53, 0.01, 3], [200, 0.55, 0.01, 5]]},
    ]


def test_without_a_step_there_are_bars(tmp_path: Path) -> None:
    (picture,) = written(tmp_path, [job_row(number, step=None) for number in range(2)]).pictures("metric")
    assert picture["over"] == ""
    assert [point[1:] for point in picture["series"][0]["points"]] == [[0.5, 0.01, 0], [0.51, 0.01, 1]]


def test_lines_of_several_values_have_their_keys(tmp_path: Path) -> None:
    rows = [job_row(at, values={"dtype": DTYPES[at % 2], "seed": at // 2 % 2}, step=at // 4) for at in range(8)]
    page = written(tmp_path, rows)
    names = [line["name"] for line in page.pictures("metric")[0]["series"]]
    assert names == ["dtype=float32 seed=0", "dtype=bfloat16 seed=0", "dtype=float32 seed=1", "dtype=bfloat16 seed=1"]
    assert "A line for each dtype and seed." in page.text


def jobs(key: str, values: list[Any], steps: list[int], **others: list[Any]) -> list[Job]:
    columns = {key: values, **others}
    return [
        Job(at, "ok", {"step": step, "values": {name: column[at] for name, column in columns.items()}})
        for at, step in enumerate(steps)
    ]


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (jobs("checkpoint.path", ["r/s=1.pt", "r/s=2.pt"], [1, 2]), [""]),
        (jobs("checkpoint.path", ["a/s=1.pt", "b/s=1.pt", "a/s=2.pt", "b/s=2.pt"], [1, 1, 2, 2]),
         ["a/s=*.pt", "b/s=*.pt"]),
        (jobs("checkpoint.path", ["run-7/checkpoint-100", "run-7/checkpoint-200"], [100, 200]), [""]),
        (jobs("p", ["1/step-100/m.pt", "1/step-200/m.pt", "2/step-100/m.pt"], [100, 200, 100]),
         ["1/step-*/m.pt", "2/step-*/m.pt"]),
        (jobs("p", ["run-100/step-100/m.pt", "run-100/step-200/m.pt"], [100, 200]), [""]),
        (jobs("p", ["seed1_step10.pt", "seed2_step10.pt", "seed1_step20.pt", "seed2_step20.pt"], [10, 10, 20, 20]),
         ["seed1_step*.pt", "seed2_step*.pt"]),
        (jobs("p", ["epoch=1-step=50.ckpt", "epoch=2-step=100.ckpt"], [50, 100]), [""]),
        (jobs("p", ["m/step1.pt", "m/step2.pt", "m/step2_half.pt"], [1, 2, 2]), ["m/step*.pt", "m/step2_half.pt"]),
        (jobs("epoch", [1, 2, 3], [1, 2, 3], seed=[0, 0, 1]), ["0", "1"]),
        (jobs("dtype", ["float16", "float32"], [1, 1]), ["float16", "float32"]),
    ],
)  # fmt: skip
def test_a_path_is_a_line_without_its_step(found: list[Job], names: list[str]) -> None:
    keys = list(dict.fromkeys(key for job in found for key in job.values))
    _, lines = lines_of(found, keys)
    assert [name for name, _ in lines] == names
    assert sorted(job.number for _, line in lines for job in line) == [job.number for job in found]


VALUES = st.sampled_from(["a", "b", "x/1.pt", "x/2.pt", "y/10.pt", 1, 2, True, None])


@given(st.lists(st.tuples(VALUES, VALUES, st.integers(0, 3)), max_size=12))
def test_every_job_is_on_one_line(drawn: list[tuple[Any, Any, int]]) -> None:
    found = [Job(at, "ok", {"step": step, "values": {"a": a, "b": b}}) for at, (a, b, step) in enumerate(drawn)]
    _, lines = lines_of(found, ["a", "b"])
    assert sorted(job.number for _, line in lines for job in line) == list(range(len(found)))
    assert len({name for name, _ in lines}) == len(lines)
    for _, line in lines:
        assert [job.figure("step") for job in line] == sorted(job.figure("step") or 0 for job in line)


def test_outputs_are_compared_pair_by_pair(tmp_path: Path) -> None:
    values = [
        torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, 2.5]),
        torch.tensor([1.0, 2.0]),
        torch.tensor([4.0, math.nan]),
    ]
    rows = [job_row(number) for number in range(4)]
    for row, value in zip(rows, values, strict=True):
        write_report(tmp_path, row)
        keep(tmp_path, row["job"], value)
    page = written(tmp_path, rows)
    (picture,) = page.pictures("matrix")
    assert picture["jobs"] == [0, 1, 2, 3]
    assert picture["cells"] == [[], [0.5], [0.0, 0.5], ["inf", "inf", "inf"]]
    assert "Equal bit for bit: jobs 0 and 2." in page.text
    assert "a NaN or infinity that the other lacks" in page.text
    assert written(tmp_path, rows, outputs=False).pictures("matrix") == []


@given(st.integers(2, 12), st.integers(1, 30), st.integers(0, 2**32))
def test_a_difference_is_torchs(count: int, size: int, seed: int) -> None:
    outputs = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    rows = [job_row(number) for number in range(count)]
    with new_folder() as folder:
        for row, value in zip(rows, outputs, strict=True):
            write_report(folder, row)
            keep(folder, row["job"], value.clone())
        (picture,) = written(folder, rows).pictures("matrix")
    for one, two in itertools.combinations(range(count), 2):
        expected = float((outputs[one] - outputs[two]).abs().max())
        assert picture["cells"][two][one] == pytest.approx(expected, rel=1e-3)


def test_jobs_with_other_inputs_or_unreadable_outputs_are_named(tmp_path: Path) -> None:
    rows = [job_row(number) for number in range(5)]
    for row in rows:
        write_report(tmp_path, row)
        keep(tmp_path, row["job"], torch.ones(2), torch.zeros(3) if row["job"] == 3 else None)
    (tmp_path / "4" / KEPT).write_bytes(b"short")
    page = written(tmp_path, rows)
    assert page.pictures("matrix")[0]["jobs"] == [0, 1, 2]
    assert "All 3 jobs give the same outputs, bit for bit." in page.text
    assert "Other inputs or outputs, not compared: job 3." in page.text
    assert "Job 4: " in page.text


def test_jobs_of_different_inputs_have_no_matrix(tmp_path: Path) -> None:
    rows = [job_row(number) for number in range(2)]
    for row in rows:
        write_report(tmp_path, row)
        keep(tmp_path, row["job"], torch.ones(2), torch.full((3,), float(row["job"])))
    page = written(tmp_path, rows)
    assert "No two jobs had the same inputs." in page.text
    assert page.pictures("matrix") == []


def test_large_outputs_are_compared_as_far_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loader.page.compared.MOST_BYTES", 10_000)
    rows = [job_row(number) for number in range(4)]
    for row in rows:
        write_report(tmp_path, row)
        keep(tmp_path, row["job"], torch.full((1000,), float(row["job"])))
    page = written(tmp_path, rows)
    assert page.pictures("matrix")[0]["jobs"] == [0, 1]
    assert "Not read, for their size: jobs 2 and 3." in page.text


def sketch(folder: Path, number: int, **modules: torch.Tensor) -> None:
    save_file({f"exact:{name}": value for name, value in modules.items()}, folder / str(number) / SKETCHED)


def test_weights_are_compared_with_the_reference(tmp_path: Path) -> None:
    rows = [failed(0), *(job_row(number) for number in range(1, 5))]
    for row in rows:
        write_report(tmp_path, row)
    for number, factor in ((1, 1.0), (2, 1.1), (3, 1.0)):
        sketch(tmp_path, number, fc1=torch.ones(4), fc2=torch.full((2,), factor))
    page = written(tmp_path, rows, weights=True)
    (picture,) = page.pictures("drift")
    assert (picture["modules"], picture["jobs"]) == (["fc1", "fc2"], [1, 2, 3])
    assert picture["values"] == [[0.0, 0.0, 0.0], [0.0, 0.1, 0.0]]
    # The reference failed: the first job that did not takes its place.
    about = "Distance of each module to that of job 1, relative to its norm (exact). The farthest: 10 %, fc2 of job 2."
    assert about in page.text
    assert "The same weights as job 1: job 3." in page.text
    assert "Without kept weights, as they ran without sweep.compare.weights or are too large: job 4." in page.text
    assert written(tmp_path, rows, weights=True, reference=2).pictures("drift")[0]["values"][1][1] == 0
    assert written(tmp_path, rows).pictures("drift") == []


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    rows = [job_row(number) for number in range(2)]
    for row in rows:
        write_report(tmp_path, row, verification={"kept": None})
    page = written(tmp_path, rows, weights=True)
    assert "Less than two jobs kept their outputs." in page.text
    assert "Less than two jobs kept their weights." in page.text
    assert not page.pictures("matrix") + page.pictures("drift")


def test_the_drift_of_many_alike_modules_is_folded(tmp_path: Path) -> None:
    rows = [job_row(number) for number in range(2)]
    for row in rows:
        write_report(tmp_path, row)
        state = {f"blocks.{index}.{name}": torch.ones(4) for index in range(30) for name in ("q", "k")}
        state["blocks.3.q"] = torch.full((4,), 1.0 + row["job"])
        sketch(tmp_path, row["job"], **state)
    (picture,) = written(tmp_path, rows, weights=True).pictures("drift")
    assert {*picture["modules"]} == {"blocks.{0..29}.q", "blocks.{0..29}.k"}
    values = sorted(value for row in picture["values"] for value in row)
    assert values == [0.0, 0.0, 0.0, pytest.approx(math.sqrt(4 / 120), rel=1e-2)]


def test_coverage_shows_different_maps_once_and_incomplete_ones_first(tmp_path: Path) -> None:
    page = parsed(write_sweep_page(tmp_path, make_sweep(tmp_path, 8)))
    (picture,) = page.pictures("coverage")
    assert [[job for job, _ in each["jobs"]] for each in picture["maps"]] == [[3], [0, 1, 2, 4, 5, 6, 7]]
    assert picture["maps"][0]["rows"] == [["fc1", 1, 100480, [2, 0, 0, 0]], ["head", 1, 1290, [0, 2, 0, 0]]]
    assert picture["maps"][0]["about"] == (
        "my.Net, 101,770 parameters: 2 loaded, 2 missing of 4 keys. Not loaded whole: head."
    )
    assert "Every key is loaded in 7 of 8 jobs." in page.text


def test_a_job_that_failed_later_has_loaded_nothing(tmp_path: Path) -> None:
    rows = [job_row(0), failed(1)]
    for row in rows:
        write_report(tmp_path, row, modules=[module_row("fc1", 6)])
    page = written(tmp_path, rows)
    (picture,) = page.pictures("coverage")
    assert [each["about"] for each in picture["maps"]] == [
        "my.Net, 6 parameters: all 2 keys found; the job failed later.",
        "my.Net, 6 parameters: all 2 keys loaded.",
    ]
    assert "Every key is loaded in 1 of 2 jobs." in page.text


def test_a_map_with_many_modules_keeps_the_important_ones(tmp_path: Path) -> None:
    row = job_row(0)
    modules = [module_row(f"m{index}", index) for index in range(500)] + [module_row("tiny", 0, missing=1)]
    write_report(tmp_path, row, modules=modules)
    ((found,),) = [page["maps"] for page in written(tmp_path, [row]).pictures("coverage")]
    names = [name for name, *_ in found["rows"]]
    assert len(names) == 401
    assert {"m499", "tiny", "…"} <= {*names}
    assert "m0" not in names
    assert sum(parameters for _, _, parameters, _ in found["rows"]) == sum(range(500))


def test_every_picture_has_words(tmp_path: Path) -> None:
    page = parsed(write_sweep_page(tmp_path, make_sweep(tmp_path)))
    assert {picture["kind"] for picture in page.data.values()} == {"metric", "matrix", "coverage", "seconds", "memory"}
    labels = [found["aria-label"] or "" for tag, found in page.tags if "data-picture" in found]
    assert len(labels) == len(page.data)
    assert all(len(label.split(": ", 1)[1]) > 20 for label in labels)
    assert "From 0.50 s (job 0) to 1.40 s (job 7); 7.60 s in all." in page.text
    assert "From 300.0 MB (job 0) to 307.0 MB (job 7)." in page.text


def test_an_empty_summary_makes_a_page(tmp_path: Path) -> None:
    assert "0 jobs" in parsed(write_sweep_page(tmp_path, {})).text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (0, "0"), (0.0, "0"), (101770, "101,770"), (0.97222, "0.9722"), (3.2e-05, "3.2e-05"),
     (1161.29, "1,161"), (-2.5, "-2.5"), (10**30, "1e+30"), (1e300, "1e+300"), (2.0, "2")],
)  # fmt: skip
def test_numbers_are_short(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_paths_lose_the_folders_that_all_share() -> None:
    assert without_shared_folder(["/data/runs/a/1.pt", "", "/data/runs/b/2.pt"]) == ["…/a/1.pt", "", "…/b/2.pt"]
    assert without_shared_folder(["a/1.pt", "a/2.pt"]) == ["a/1.pt", "a/2.pt"]
    assert without_shared_folder(["/data/runs/1.pt", "x"]) == ["/data/runs/1.pt", "x"]


def test_the_summary_of_the_folder_makes_the_same_page(tmp_path: Path) -> None:
    """The page needs nothing but the files of the sweep's folder."""
    summary = make_sweep(tmp_path)
    first = write_sweep_page(tmp_path, summary).read_bytes()
    assert write_sweep_page(tmp_path, json.loads(json.dumps(summary))).read_bytes() == first
