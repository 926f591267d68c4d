from __future__ import annotations

from loader.suggest.arguments import changed, numbers


def test_the_numbers_of_a_config_are_named_by_their_place() -> None:
    config = {"_target_": "x", "classes": 10, "deep": True, "head": {"size": 4, "scale": 0.5}, "a b": 3}

    assert list(numbers(config)) == [("classes", 10), ("head.size", 4)]


def test_a_changed_config_leaves_the_given_one_alone() -> None:
    config = {"head": {"size": 10, "bias": True}, "width": 3}

    assert changed(config, {"head.size": 37, "depth": [1, 2]}) == {
        "head": {"size": 37, "bias": True}, "width": 3, "depth": [1, 2],
    }  # fmt: skip
    assert config == {"head": {"size": 10, "bias": True}, "width": 3}
