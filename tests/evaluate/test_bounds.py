"""Bounds of metrics."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.errors import ConfigError
from loader.evaluate.bounds import Bounds, parse_bounds

WHERE = "evaluate.expect"
numbers = st.floats(-1e9, 1e9, allow_nan=False)


def faults(bounds: Bounds, value: float) -> list[tuple[str, str]]:
    return [(fault, fix.line) for fault, fix in bounds.faults(value, "evaluate.expect.a")]


@given(numbers)
def test_a_value_on_a_bound_is_within_it(value: float) -> None:
    assert faults(Bounds(min=value, max=value, value=value), value) == []


@given(numbers, numbers)
def test_the_line_of_a_missed_bound_accepts_the_value(bound: float, value: float) -> None:
    for bounds in (Bounds(min=bound), Bounds(max=bound), Bounds(value=bound, within=1e-3)):
        for _, line in faults(bounds, value):
            key, _, accepted = line.removeprefix("evaluate.expect.a.").partition("=")
            own = {"within": 1e-3} if key == "value" else {}
            assert faults(Bounds(**{key: float(accepted), **own}), value) == []


def test_missed_bounds_say_what_was_expected() -> None:
    assert faults(Bounds(min=0.97), 0.96512) == [("0.96512, expected at least 0.97", "evaluate.expect.a.min=0.9651")]
    assert faults(Bounds(max=0.3), 0.41) == [("0.41, expected at most 0.3", "evaluate.expect.a.max=0.41")]
    assert faults(Bounds(value=0.91, within=0.005), 0.9) == [
        ("0.9, expected 0.91 within 0.005", "evaluate.expect.a.value=0.9")
    ]


def test_a_value_without_within_has_to_be_met_nearly() -> None:
    assert faults(Bounds(value=0.5), 0.5 + 9e-7) == []
    assert faults(Bounds(value=0.5), 0.5 + 2e-6) != []


def test_a_decimal_edge_is_within() -> None:
    assert 0.915 - 0.91 > 0.005  # as floats
    assert faults(Bounds(value=0.91, within=0.005), 0.915) == []


@pytest.mark.parametrize(
    ("bounds", "higher"),
    [
        (Bounds(min=1), True),
        (Bounds(max=1), False),
        (Bounds(value=1), None),
        (Bounds(min=0, max=1), None),
        (Bounds(min=0, value=1), True),
    ],
)
def test_bounds_suggest_a_direction(bounds: Bounds, higher: bool | None) -> None:
    assert bounds.higher_is_better is higher


def test_bounds_are_read() -> None:
    raw = {"accuracy": {"min": 0.97}, "loss": {"max": 1}, "f1": {"value": 0.91, "within": 0.005}, "left out": None}
    assert parse_bounds(raw, WHERE) == {
        "accuracy": Bounds(min=0.97),
        "loss": Bounds(max=1.0),
        "f1": Bounds(value=0.91, within=0.005),
    }


@pytest.mark.parametrize(
    ("raw", "message", "line"),
    [
        (0.97, "'evaluate.expect.a' is 0.97, expected {min}, {max} or {value, within}", "{min: 0.97}"),
        ({}, "'evaluate.expect.a' is empty, expected {min}, {max} or {value, within}", "{min: 0.9}"),
        (
            {"minimum": 0.9},
            "unknown config key 'evaluate.expect.a.minimum' (did you mean 'min'?); expected min, max, value, within",
            "{min: 0.9}",
        ),
        ({"min": "high"}, "'evaluate.expect.a.min' is 'high', expected a finite number", "0.9"),
        ({"max": math.nan}, "'evaluate.expect.a.max' is nan, expected a finite number", "0.9"),
        ({"min": True}, "'evaluate.expect.a.min' is True, expected a finite number", "0.9"),
        ({"within": 0.1}, "'evaluate.expect.a.within' is without the 'value' that it belongs to", "within: 0.1"),
        ({"value": 1, "within": -0.1}, "'evaluate.expect.a.within' is negative", "within: 0.1"),
        ({"min": 2, "max": 1}, "'evaluate.expect.a' has min 2 above max 1", "{min: 1.0, max: 2.0}"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(raw: Any, message: str, line: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        parse_bounds({"a": raw}, WHERE)
    assert message in refusal.value.message
    assert line in refusal.value.fixes[0].line


def test_all_faults_are_reported_at_once() -> None:
    with pytest.raises(ConfigError, match=r"expect.a' is 1.*expect.b' is empty"):
        parse_bounds({"a": 1, "b": {}}, WHERE)
