"""Arguments behind a builder's ``**kwargs``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import pytest
from torch import nn

from loader.errors import ConfigError
from loader.suggest.sizes.arguments import Knob, behind, hands_on, knobs_of, reaches_outside, taking
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


REACHING = [
    "pretrained", "pretrained_backbone", "download", "weights", "weights_backbone", "checkpoint", "checkpoint_path",
    "use_checkpoint", "path", "model_path", "url", "base_url", "token", "use_auth_token", "hf_token", "force_download",
    "force_reload", "push_to_hub", "local_files_only", "cache_dir", "downloadWeights", "loadPretrained", "resume",
    "trust_remote_code", "save_to", "output_dir", "proxies", "config.force_download", "hub.retries",
    "attn_implementation",
]  # fmt: skip
NETWORK = [
    "width", "bias", "num_classes", "class_token", "num_tokens", "token_dim", "user_token_dim", "tie_weights",
    "share_weights", "drop_path", "drop_path_rate", "weight_norm", "log_scale", "num_write_heads", "config.hidden_size",
    "wide", "reg_tokens", "use_norm", "checkpointing", "predict_forces",
]  # fmt: skip


@pytest.mark.parametrize("name", REACHING)
def test_a_name_that_reaches_outside_is_known(name: str) -> None:
    assert reaches_outside(name)


@pytest.mark.parametrize("name", NETWORK)
def test_a_name_of_something_in_the_network_is_not_taken_for_one(name: str) -> None:
    assert not reaches_outside(name)


def test_an_argument_that_reaches_outside_has_no_values_to_try() -> None:
    def build(pretrained: bool = False, path=None, download: int = 0, *, token: bool, bias: bool = True) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        pass

    kinds = {knob.name: knob.kind for knob in knobs_of(inspect.signature(build))}
    assert kinds == {"pretrained": "", "path": "", "download": "", "token": "", "bias": "choice"}
    assert [taking(knob, True).kind for knob in knobs_of(inspect.signature(build))][:3] == ["", "", ""]
