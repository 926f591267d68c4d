"""Arguments behind a builder's ``**kwargs``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import pytest
from torch import nn

from loader.errors import ConfigError
from loader.suggest.sizes.behind import behind, hands_on
from loader.suggest.sizes.knobs import Knob
from tests.suggest.sizes.builders import Base, Derived, Holding, built


def untried(knob: Knob) -> bool:
    raise AssertionError(knob)


@pytest.mark.parametrize("build", [Derived, built])
def test_the_arguments_of_the_constructor_are_found_with_the_values_that_it_got(
    build: Callable[..., nn.Module],
) -> None:
    found = {knob.name: (knob.kind, knob.default) for knob in behind(lambda: build(scale=3.0), {"act"}, untried)}

    width = 6 if build is built else 4
    assert found == {
        "width": ("int", width), "classes": ("int", 3), "scale": ("float", 3.0), "wide": ("choice", False)
    }  # fmt: skip


def test_only_a_callable_with_open_keywords_hands_arguments_on() -> None:
    assert hands_on(inspect.signature(built))
    assert not hands_on(inspect.signature(Base))
    assert not hands_on(None)


def test_the_layers_inside_are_not_taken_for_the_model() -> None:
    assert behind(lambda: nn.Sequential(nn.Linear(2, 3)), {}, untried) == []


def test_a_module_inside_is_asked_where_the_builder_takes_its_arguments() -> None:
    asked: list[str] = []

    def takes(knob: Knob) -> bool:
        asked.append(knob.name)
        return knob.name in ("classes", "wide")

    assert [knob.name for knob in behind(Holding, {"rate", "scale"}, takes)] == ["classes", "wide"]
    assert asked == ["width", "classes", "wide", "act"]


def test_watching_a_build_leaves_a_profiler_as_it_was_also_where_the_build_fails() -> None:
    def fails() -> nn.Module:
        raise ConfigError("no")

    def profiler(*_: object) -> None:
        pass

    before = sys.getprofile()
    try:
        sys.setprofile(profiler)
        assert behind(fails, {}, untried) == []
        assert sys.getprofile() is profiler
    finally:
        sys.setprofile(before)
