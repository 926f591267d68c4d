from __future__ import annotations

import pytest

from loader.formats.tree import Container, TensorEntry
from loader.keys.select import is_moment, optimizers, without_optimizers

WEIGHT = TensorEntry("float32", (2, 2))


def folder(**children: Container | TensorEntry) -> Container:
    return Container("dict", "dict", dict(children))


def keys(root: Container) -> list[str]:
    return [key for key, _ in without_optimizers(root)]


CALLED = [
    "optimizer",
    "optim",
    "opt",
    "optimizer_state_dict",
    "optimizers",
    "optimizer_states",
    "g_optimizer",
    "optim_d",
    "adam",
    "AdamW",
    "sgd",
]


@pytest.mark.parametrize("name", CALLED)
def test_what_is_called_an_optimizer_is_one_with_all_below_it(name: str) -> None:
    root = folder(model=folder(weight=WEIGHT), **{name: folder(m=folder(weight=WEIGHT))})

    assert optimizers(dict(root.walk())) == {name}
    assert keys(root) == ["", "model"]


@pytest.mark.parametrize("name", ["optimus", "option", "optimized", "adamantium", "network", "topt", "state"])
def test_what_only_sounds_like_one_is_none(name: str) -> None:
    assert keys(folder(**{name: folder(weight=WEIGHT)})) == ["", name]


def test_tables_with_weights_next_to_them_are_not_all_of_it() -> None:
    tables = {"state": folder(), "param_groups": folder()}

    assert keys(folder(**tables)) == []
    assert keys(folder(model=folder(weight=WEIGHT), **tables)) == ["", "model", "state", "param_groups"]


@pytest.mark.parametrize("name", ["exp_avg", "a.exp_avg_sq", "exp_avg.a.weight", "optimizer.m.weight", "optim_state.x"])
def test_moments_are_told_by_a_segment(name: str) -> None:
    assert is_moment(name)


@pytest.mark.parametrize(
    "name", ["weight", "my_exp_avg.weight", "optimizer", "optimum.weight", "model.optimizer.weight", ""]
)
def test_weights_are_no_moments(name: str) -> None:
    assert not is_moment(name)


@pytest.mark.parametrize(
    "name",
    [
        "grad", "grads", "gradients", "prev_grad", "mean_gradients", "fisher", "fisher_information", "momentum",
        "second_moment", "first_moments", "max_exp_avg_sqs", "exp_avgs", "m_t",
    ],
)  # fmt: skip
def test_gradients_and_moments_of_any_module_are_no_weights(name: str) -> None:
    assert keys(folder(model=folder(weight=WEIGHT), **{name: folder(weight=WEIGHT)})) == ["", "model"]
    assert is_moment(f"{name}.weight")


@pytest.mark.parametrize("name", ["mu", "nu", "m", "v", "z", "variance"])
def test_a_letter_is_a_layer_where_it_holds_one_and_moments_where_it_holds_a_model(name: str) -> None:
    dotted = Container("dict", "dict", {"fc.weight": WEIGHT})

    assert keys(folder(**{name: folder(weight=WEIGHT)})) == ["", name]
    assert keys(folder(**{name: dotted})) == [""]
    assert keys(folder(**{name: folder(fc=folder(weight=WEIGHT))})) == [""]
    assert not is_moment(f"{name}.weight")


@pytest.mark.parametrize("name", ["grade", "gradnet", "momentum_encoder", "mean", "fish", "state", "gradient_block"])
def test_what_only_sounds_like_gradients_is_weights(name: str) -> None:
    assert keys(folder(**{name: folder(weight=WEIGHT)})) == ["", name]
    assert not is_moment(f"{name}.weight")
