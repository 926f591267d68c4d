from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.schema import EACH_REPLACED, REPLACED, overlay

KEYS = st.sampled_from(["mode", "model", "checkpoint", "rules", "verify", "input", "expect", "path", "typo"])
CONFIG = st.dictionaries(
    KEYS, st.recursive(st.integers() | st.none(), lambda below: st.dictionaries(KEYS, below, max_size=3)), max_size=4
)

DEFAULTS: dict[str, Any] = {
    "model": {"_target_": "loader.examples.SimpleNet", "hidden": 128},
    "checkpoint": {"path": "digits.safetensors", "key": None, "mmap": True},
    "rules": {"ddp": {"strip": "module."}},
    "verify": {"input": {"shape": [1, 784]}, "forward": True, "expect": {"shape": [1, 10], "finite": True}},
}


@given(CONFIG, CONFIG)
def test_neither_side_is_changed(defaults: dict[str, Any], given_: dict[str, Any]) -> None:
    before = copy.deepcopy((defaults, given_))

    overlay(defaults, given_)

    assert (defaults, given_) == before


@given(CONFIG)
def test_nothing_laid_over_a_config_is_the_config(defaults: dict[str, Any]) -> None:
    assert overlay(defaults, {}) == defaults
    assert overlay({}, defaults) == defaults


@given(CONFIG, CONFIG)
def test_laying_the_same_over_twice_changes_no_more(defaults: dict[str, Any], given_: dict[str, Any]) -> None:
    once = overlay(defaults, given_)

    assert overlay(once, given_) == once


def test_sections_are_merged_key_by_key() -> None:
    result = overlay(DEFAULTS, {"checkpoint": {"path": "mine.pt"}, "verify": {"expect": {"finite": False}}})

    assert result["checkpoint"] == {"path": "mine.pt", "key": None, "mmap": True}
    assert result["verify"]["expect"] == {"shape": [1, 10], "finite": False}
    assert result["verify"]["input"] == {"shape": [1, 784]}
    assert result["model"] == DEFAULTS["model"]


@pytest.mark.parametrize(
    ("given_", "place"),
    [
        ({"model": {"_target_": "my.Net"}}, ("model",)),
        ({"model": None}, ("model",)),
        ({"rules": {"tidy": {"drop": "head.*"}}}, ("rules",)),
        ({"rules": {}}, ("rules",)),
        ({"parts": {"a": {"key": "x"}}}, ("parts",)),
        ({"verify": {"input": {"value": [1]}}}, ("verify", "input")),
        ({"trusted_targets": ["my.*"]}, ("trusted_targets",)),
        ({"evaluate": {"data": {"_target_": "my.Data"}}}, ("evaluate", "data")),
        ({"evaluate": {"step": {"_target_": "my.step"}}}, ("evaluate", "step")),
        ({"evaluate": {"metrics": {"a": {"_target_": "my.metric"}}}}, ("evaluate", "metrics", "a")),
        ({"evaluate": {"expect": {"a": {"max": 1}}}}, ("evaluate", "expect", "a")),
    ],
)
def test_what_belongs_together_is_replaced_as_a_whole(given_: dict[str, Any], place: tuple[str, ...]) -> None:
    node = {"_target_": "its.own", "argument": 1}
    own = {"data": node, "step": node, "metrics": {"a": node, "b": node}, "expect": {"a": {"min": 0}}}
    result: Any = overlay({**DEFAULTS, "parts": {"b": {"key": "y"}}, "evaluate": own}, given_)
    expected: Any = given_
    for name in place:
        result, expected = result[name], expected[name]

    assert result == expected
    assert ".".join(place) in REPLACED or ".".join(place[:-1]) in EACH_REPLACED
    assert result != node


def test_other_metrics_and_settings_of_an_evaluation_are_kept() -> None:
    own = {"batch_size": 8, "metrics": {"a": {"_target_": "my.a"}}, "expect": {"a": {"min": 0}}}
    assert overlay({"evaluate": own}, {"evaluate": {"metrics": {"b": {"_target_": "my.b"}}, "batches": 1}}) == {
        "evaluate": {
            "batch_size": 8,
            "batches": 1,
            "metrics": {"a": {"_target_": "my.a"}, "b": {"_target_": "my.b"}},
            "expect": {"a": {"min": 0}},
        }
    }


def test_keys_that_do_not_exist_are_kept_for_the_parser_to_refuse() -> None:
    assert overlay(DEFAULTS, {"chekpoint": 1, "verify": {"forwrad": 2}})["chekpoint"] == 1
    assert overlay(DEFAULTS, {"verify": {"forwrad": 2}})["verify"]["forwrad"] == 2


def test_null_over_a_section_takes_it_away() -> None:
    assert overlay(DEFAULTS, {"verify": None})["verify"] is None
    assert overlay({"verify": None}, {"verify": {"forward": False}})["verify"] == {"forward": False}
