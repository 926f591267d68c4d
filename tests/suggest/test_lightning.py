"""Checkpoints of Lightning, next to whose weights `save_hyperparameters` pickles the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from loader.errors import ConfigError
from loader.modes.inspect.contents import list_contents
from loader.modes.inspect.nested_keys import candidate_rows
from loader.parts.open import open_checkpoint
from tests.jobs import assert_same_state, carry_out, save
from tests.models import Pair
from tests.suggest.test_refusal import refusal


def checkpoint(prefix: str = "net.") -> dict[str, Any]:
    """As the template writes it: the pickled network has the values of its construction."""
    net = Pair()
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {prefix + key: torch.randn_like(value) for key, value in net.state_dict().items()},
        "hyper_parameters": {"net": net, "lr": 0.1},
        "optimizer_states": [torch.optim.AdamW(net.parameters()).state_dict()],
    }


def weights(file: dict[str, Any], prefix: str = "net.") -> dict[str, torch.Tensor]:
    return {key.removeprefix(prefix): value for key, value in file["state_dict"].items()}


@pytest.mark.parametrize("prefix", ["net.", "model.", ""])
def test_the_refusal_of_the_top_level_offers_the_state_dict_alone(prefix: str, tmp_path: Path) -> None:
    error = refusal("Pair", checkpoint(prefix), tmp_path)

    assert "equally good" not in error.message
    assert "hyper_parameters" not in error.hint
    assert error.hint.startswith("checkpoint.key=state_dict")


@pytest.mark.parametrize("prefix", ["net.", "model.", ""])
def test_auto_loads_the_state_dict(prefix: str, tmp_path: Path) -> None:
    file = checkpoint(prefix)

    loaded = carry_out("Pair", save(file, tmp_path / "last.ckpt"), checkpoint={"key": "auto"}, rules="auto")

    assert loaded.model is not None
    assert_same_state(loaded.model, weights(file, prefix))


def test_a_checkpoint_that_lies_deeper_in_a_file_is_read_in_the_same_way(tmp_path: Path) -> None:
    error = refusal("Pair", {"best": checkpoint(), "scores": [1.0]}, tmp_path)

    assert error.hint == """checkpoint.key=best.state_dict 'rules={fit: {strip: "net."}}'"""


def test_the_hyperparameter_is_loaded_where_it_is_named(tmp_path: Path) -> None:
    file = checkpoint()

    loaded = carry_out("Pair", save(file, tmp_path / "last.ckpt"), checkpoint={"key": "hyper_parameters.net"})

    assert loaded.model is not None
    assert_same_state(loaded.model, file["hyper_parameters"]["net"].state_dict())


def test_no_hyperparameter_is_offered_as_the_whole_model(tmp_path: Path) -> None:
    path = save(checkpoint(), tmp_path / "last.ckpt")

    with pytest.raises(ConfigError, match="holds no whole pickled model") as refused:
        carry_out(None, path)

    assert refused.value.hint == "model._target_=my_pkg.Net checkpoint.key=state_dict"


def test_an_inspection_puts_the_state_dict_first_and_calls_the_other_a_hyperparameter(tmp_path: Path) -> None:
    with open_checkpoint(str(save(checkpoint("x"), tmp_path / "last.ckpt"))) as opened:
        rows = candidate_rows(list_contents(opened.root))

    assert [(row["key"], row["role"]) for row in rows][:2] == [
        ("state_dict", "weights"),
        ("hyper_parameters.net", "tensors"),
    ]
    assert rows[1]["why"].endswith("a hyperparameter; the weights are under 'state_dict'")


def test_an_average_next_to_the_weights_is_still_not_chosen(tmp_path: Path) -> None:
    file = checkpoint()
    file["ema_state_dict"] = {key: value + 1 for key, value in file["state_dict"].items()}

    error = refusal("Pair", file, tmp_path, checkpoint={"key": "auto"}, rules="auto")

    assert "fits the model in 2 ways that are equally good" in error.message
