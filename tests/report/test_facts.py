"""The figures of a job, out of its report."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.report.data import ErrorReport, EvaluationReport, KeysReport, ModelReport, PartReport, Report
from loader.report.facts import facts_of
from loader.sweep.record import JobRecord

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def part(path: str, nbytes: int, step: float | None = None) -> PartReport:
    return PartReport(path, "torch", None, None, nbytes, 1, step=step)


def facts(**fields: Any) -> dict[str, Any]:
    return facts_of(Report(**fields).to_dict())


def test_every_figure_is_a_field_of_a_record() -> None:
    JobRecord(0).describe(Report().to_dict())
    assert facts().keys() < JobRecord.__dataclass_fields__.keys()


def test_a_load_is_described_in_numbers() -> None:
    found = facts(
        model=ModelReport("Net", 6, 24, "cpu", ["float32", "int64"]),
        parts={"": part("a.pt", 10), "b": part("b.pt", 5, step=7), "c": part("a.pt", 10, step=9)},
        keys=KeysReport(2, ["x"], ["y", "z"], [], cast=[{}]),
        timings={"open": 0.5, "build": 0.25, "plan": 0.0, "apply": 0.0, "place": 0.125, "verify": 9.0, "forward": 2.0},
        memory={"peak_rss_bytes": 1000},
        environment={"torch": "2.13.0"},
    )
    assert {name: value for name, value in found.items() if value is not None and name != "higher_is_better"} == {
        "step": 7,
        "metrics": {},
        "parameters": 6,
        "dtype": "float32/int64",
        "device": "cpu",
        "file_bytes": 15,
        "loaded": 2,
        "missing": 1,
        "unexpected": 2,
        "mismatched": 0,
        "cast": 1,
        "load_seconds": 0.875,
        "forward_seconds": 2.0,
        "peak_rss_bytes": 1000,
        "torch": "2.13.0",
    }


def test_a_job_that_was_refused_before_the_cast_has_no_dtype() -> None:
    model, error = ModelReport("Net", 6, 24, "cpu", ["float32"]), ErrorReport("FitError", "no")
    for timings, dtype in (({"place": 0.1}, None), ({"place": 0.1, "verify": 0.1}, "float32")):
        assert facts(model=model, error=error, timings=timings)["dtype"] == dtype
    assert facts(model=model, timings={"plan": 0.1})["dtype"] == "float32"


def test_a_job_that_looked_at_no_key_counts_none() -> None:
    assert facts(timings={"open": 0.1})["loaded"] is None
    assert facts(timings={"plan": 0.1})["missing"] == 0
    assert facts(keys=KeysReport(missing=["a"]))["loaded"] == 0


@pytest.mark.parametrize(
    ("itself", "expect", "better"),
    [
        ({"m": True}, {}, {"m": True}),
        ({}, {"m": {"min": 0.5}}, {"m": True}),
        ({}, {"m": {"max": 0.5}}, {"m": False}),
        ({"m": False}, {"m": {"min": 0.5}}, {"m": False}),
        ({}, {"m": {"min": 0.1, "max": 0.5}}, {}),
        ({}, {"m": {"value": 0.1, "within": 0.1}}, {}),
        ({"other": True}, None, {}),
    ],
)
def test_the_direction_is_the_metrics_own_else_the_limits(
    itself: dict[str, bool], expect: Any, better: dict[str, bool]
) -> None:
    measured = {"value": 0.25, "stderr": None, "n": 2}
    report = Report(evaluation=EvaluationReport(2, metrics={"m": measured}), config={"evaluate": {"expect": expect}})
    content = report.to_dict()
    content["evaluation"]["higher_is_better"] = itself
    found = facts_of(content)
    assert (found["metrics"], found["n"], found["higher_is_better"]) == ({"m": measured}, 2, better)


@given(JSON, st.sampled_from(sorted(Report().to_dict())))
def test_a_damaged_report_is_no_reason_to_stop(damage: Any, name: str) -> None:
    found = facts_of({**Report().to_dict(), name: damage})
    assert found.keys() == facts().keys()


@given(JSON)
def test_damage_inside_a_metric_is_an_empty_figure(damage: Any) -> None:
    metrics = facts_of({"evaluation": {"metrics": {"m": damage}}})["metrics"]
    assert metrics["m"].keys() == {"value", "stderr", "n"}
