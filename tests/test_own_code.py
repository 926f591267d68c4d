"""Models whose own methods do less, or other things, than torch's: they load all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loader import CheckpointError, FitError, LoaderError, load_into, load_model
from tests.jobs import carry_out, checks, save

HERE = __name__ + "."
VERIFY = {"input": {"shape": [1, 3]}}


class Silent(nn.Linear):
    """Its `train` returns nothing."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def train(self, mode: bool = True) -> Any:
        super().train(mode)


def test_a_model_whose_train_returns_nothing_loads(tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    path = save(state, tmp_path / "silent.pt")
    live = Silent()
    assert load_model(live, path) is live
    assert not live.training
    load_into(live, path, verify=VERIFY)
    built = carry_out({"_target_": HERE + "Silent"}, path, verify=VERIFY).model
    assert type(built) is Silent
    assert not built.training


class Stateful(nn.Module):
    """Has extra state that is made and taken in a way of its own."""

    def __init__(self, state: Any = None) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.state = state

    def get_extra_state(self) -> Any:
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


class Taking(nn.Module):
    """Takes extra state, and gives none out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.state: Any = None

    def set_extra_state(self, state: Any) -> None:
        self.state = state

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x)
        return result


STATES: dict[str, Callable[[], Any]] = {
    "a lock": lambda: Stateful(threading.Lock()),
    "a generator": lambda: Stateful(number for number in range(3)),
    "not a leaf": lambda: Stateful(torch.ones(2, requires_grad=True) * 2),
    "an exception": lambda: Stateful(ValueError("not yet")),
    "none given out": Taking,
}


@pytest.mark.parametrize("name", STATES)
def test_extra_state_that_cannot_be_copied_or_had_is_put_back_and_taken(name: str) -> None:
    live = STATES[name]()
    before = live.state
    state: dict[str, Any] = {"layer.weight": torch.ones(2, 3), "layer.bias": torch.ones(2), "_extra_state": 7}
    with pytest.raises(LoaderError, match="forward pass raised"):
        load_into(live, state, verify={"input": {"shape": [1, 9]}})
    assert live.state is before
    assert not torch.equal(live.layer.bias, state["layer.bias"])
    load_into(live, state, verify=VERIFY)
    assert live.state == 7
    assert torch.equal(live.layer.bias, state["layer.bias"])


class Terse(nn.Linear):
    """Its `state_dict` takes no arguments."""

    def __init__(self) -> None:
        super().__init__(3, 2)

    def state_dict(self) -> Any:  # type: ignore[override]
        return super().state_dict()


class Unsaved(nn.Linear):
    """Cannot be saved."""

    def __init__(self) -> None:
        super().__init__(3, 2)
        self.register_state_dict_post_hook(_never)  # type: ignore[no-untyped-call]


def _never(*_: object) -> None:
    raise ValueError("never saved")


@pytest.mark.parametrize("kind", [Terse, Unsaved])
def test_a_model_is_verified_without_its_own_way_to_save(kind: type[nn.Linear], tmp_path: Path) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    path = save(state, tmp_path / "terse.pt")
    report = carry_out({"_target_": HERE + kind.__name__}, path, verify=VERIFY).report
    assert checks(report)["finite weights"]
    assert load_into(kind(), state, verify=VERIFY).status == "ok"  # type: ignore[call-arg]
    state["bias"][0] = float("nan")
    with pytest.raises(LoaderError, match=r"finite weights: inf or nan in bias"):
        load_into(kind(), state, verify=VERIFY)  # type: ignore[call-arg]


class Guarded:
    """Does not let anybody see its attributes."""

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise ValueError("not for you")
        return super().__getattribute__(name)


def test_an_object_that_does_not_show_its_attributes_is_left_alone() -> None:
    live: Any = nn.Linear(3, 2)
    live.guarded = guarded = Guarded()
    load_into(live, {"weight": torch.ones(2, 3), "bias": torch.ones(2)}, verify=VERIFY)
    assert live.guarded is guarded


def _end(*_: object) -> None:
    raise GeneratorExit


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_hook_that_raises_what_ends_a_generator_is_a_refusal(where: str) -> None:
    live: Any = nn.Linear(3, 2)
    register = live.register_load_state_dict_pre_hook if where == "before" else live.register_load_state_dict_post_hook
    register(_end)
    with pytest.raises(LoaderError, match="raised GeneratorExit"):
        load_into(live, {"weight": torch.ones(2, 3), "bias": torch.ones(2)})


def _nested() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])


def _jagged() -> torch.Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


def _fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(2)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "kind"), [(_nested, "nested"), (_jagged, "nested"), (_fake, "FakeTensor, a shape without values")]
)
def test_tensors_without_plain_values_are_named(make: Callable[[], torch.Tensor], kind: str) -> None:
    with pytest.raises(CheckpointError) as refusal:
        load_into(nn.Linear(3, 2), {"weight": torch.ones(2, 3), "bias": make()})
    assert refusal.value.message == f"the state dict holds 1 unsupported tensor: bias ({kind})"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", [_nested, _jagged])
def test_a_nested_tensor_of_the_model_is_kept_or_refused(make: Callable[[], torch.Tensor]) -> None:
    state = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    live: Any = nn.Linear(3, 2)
    live.aside = make()
    live.register_buffer("hidden", make(), persistent=False)
    load_into(live, state, verify=VERIFY)
    assert live.hidden.is_nested
    live.register_buffer("kept", make())
    with pytest.raises(FitError) as refusal:
        load_into(live, state)
    assert refusal.value.message == "the model has nested tensors, which cannot be loaded yet: kept"
