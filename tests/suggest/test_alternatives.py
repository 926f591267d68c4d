"""Refusals that another size of the model, or its parts, would mend."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from loader import alternatives
from loader.errors import FitError
from loader.suggest.overrides import parts_override, value_override
from tests.jobs import carry_out, save
from tests.models import filled
from tests.suggest.architectures import Sized, auto_encoder

SIZED = "tests.suggest.architectures.Sized"


def refusal(node: dict[str, Any], file: Any, folder: Path, **settings: Any) -> FitError:
    path = save(file, folder / "file.pt")
    with pytest.raises(FitError) as refused:
        carry_out(node, path, **settings)
    return refused.value


def test_a_default_of_the_constructor_is_named_where_the_shapes_tell_it(tmp_path: Path) -> None:
    state = filled(Sized(width=20, depth=5)).state_dict()
    error = refusal({"_target_": SIZED}, {"model": state}, tmp_path)

    assert error.hint == "checkpoint.key=model model.depth=5 model.width=20"
    reason = "the weights are under 'model'; the file's sizes are those of model.depth=5 model.width=20"
    assert error.message.endswith(f"24 of 24 keys would be loaded so: {reason}")


def test_a_value_of_the_config_is_replaced(tmp_path: Path) -> None:
    state = filled(Sized(bias=False)).state_dict()

    assert refusal({"_target_": SIZED, "bias": True}, state, tmp_path).hint == "model.bias=false"


def test_a_size_that_the_shapes_do_not_tell_is_not_named(tmp_path: Path) -> None:
    node = {"_target_": "tests.scaffold.nets.Attention", "dim": 12}
    state = {"qkv.weight": torch.rand(288, 12), "qkv.bias": torch.rand(288), "out.weight": torch.rand(12, 96),
             "out.bias": torch.rand(12)}  # fmt: skip

    error = refusal(node, state, tmp_path)
    assert "model." not in error.hint
    told = r"all names and shapes fit with model\.\w+=\d+.*, and with other values of model\.\w+.*, so none is proposed"
    assert re.fullmatch(told, error.message.splitlines()[-1])


def test_a_search_for_sizes_that_is_cut_off_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternatives, "_MOST_SECONDS", 0)
    error = refusal({"_target_": SIZED}, filled(Sized(width=20)).state_dict(), tmp_path)

    end = "the search for other sizes of the model was cut off after 1 build; mode=scaffold searches longer"
    assert error.message.splitlines()[-1] == end
    assert "model.width" not in error.hint


def test_other_sizes_are_built_under_the_same_trusted_targets(tmp_path: Path) -> None:
    state = filled(Sized(width=20)).state_dict()
    error = refusal({"_target_": SIZED}, state, tmp_path, trusted_targets=["tests.*"])

    assert error.hint == "model.width=20"


def test_one_model_in_several_dicts_is_put_together_from_parts(tmp_path: Path) -> None:
    state = filled(auto_encoder(10)).state_dict()
    halves = {
        f"{name}_state": {f"module.{k.removeprefix(name + '.')}": v for k, v in state.items() if k.startswith(name)}
        for name in ("encoder", "decoder")
    }
    error = refusal({"_target_": "tests.suggest.architectures.build", "name": "auto_encoder"}, halves, tmp_path)

    assert error.message.endswith(
        "12 of 12 keys would be loaded so: encoder: its weights are under 'encoder_state'; "
        "decoder: its weights are under 'decoder_state'"
    )
    assert error.hint.startswith("'parts={encoder: {key: encoder_state, rules: {ddp: {regex: ")


def test_two_parts_never_come_from_one_place(tmp_path: Path) -> None:
    half = {
        f"{n}.{leaf}": torch.rand(3, 3) if leaf == "weight" else torch.rand(3)
        for n in (0, 1)
        for leaf in ("weight", "bias")
    }
    error = refusal({"_target_": "tests.models.two_models"}, {"only": half}, tmp_path)

    assert "parts=" not in error.hint


def test_parts_are_written_as_typed() -> None:
    assert parts_override({"a": ("x", {}), "b": (None, {})}) == "parts={a: {key: x}, b: {key: null}}"


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (True, "true"), (None, "null"), (0.5, "0.5"), ([1, 2], "[1,2]"), ("a b", '"a b"')]
)
def test_values_are_written_as_typed(value: object, text: str) -> None:
    assert value_override("model.x", value) == f"model.x={text}"
