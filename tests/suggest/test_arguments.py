from __future__ import annotations

from loader.plan import Mismatch
from loader.suggest.arguments import changed, resized

HEAD = [Mismatch("head.weight", (10, 64), (37, 64)), Mismatch("head.bias", (10,), (37,))]


def test_the_one_number_that_is_the_size_is_named() -> None:
    assert resized({"_target_": "x", "classes": 10, "width": 64}, HEAD) == {"classes": 37}
    assert resized({"head": {"size": 10}, "deep": True}, HEAD) == {"head.size": 37}


def test_two_numbers_of_that_value_are_no_answer() -> None:
    assert resized({"classes": 10, "heads": 10}, HEAD) == {}


def test_a_size_that_no_number_says_is_no_answer() -> None:
    assert resized({"width": 64}, HEAD) == {}


def test_sizes_that_would_have_to_become_two_things_are_no_answer() -> None:
    assert resized({"size": 10}, [*HEAD, Mismatch("x", (10,), (20,))]) == {}
    assert resized({"size": 10}, [Mismatch("x", (10,), (10, 1))]) == {}


def test_a_changed_config_leaves_the_given_one_alone() -> None:
    config = {"head": {"size": 10, "bias": True}, "width": 3}

    assert changed(config, {"head.size": 37}) == {"head": {"size": 37, "bias": True}, "width": 3}
    assert config == {"head": {"size": 10, "bias": True}, "width": 3}
