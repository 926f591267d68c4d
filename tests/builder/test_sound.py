"""What a constructor makes can be walked, or is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from loader.builder import build_model, unsound
from loader.errors import ConfigError


class Marred(nn.Module):
    """Has values where torch has others."""

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        vars(self.net[0]).update(values)


class Bare(nn.Module):
    """Forgets nn.Module's own constructor."""

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"_parameters": 3}, "in its net.0 _parameters is not what nn.Module.__init__ sets"),
        ({"_parameters": {"weight": 3}}, "in its net.0 _parameters is not what nn.Module.__init__ sets"),
        ({"_buffers": None}, "in its net.0 _buffers is not what nn.Module.__init__ sets"),
        ({"_modules": {"a": 1}}, "in its net.0 _modules is not what nn.Module.__init__ sets"),
        ({"eval": 3}, "in its net.0 an attribute hides eval"),
        ({"named_modules": nn.Identity}, "in its net.0 an attribute hides named_modules"),
    ],
)
@pytest.mark.parametrize("hollow", [True, False])
def test_a_module_that_cannot_be_walked_is_refused(values: dict[str, Any], fault: str, hollow: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model({"_target_": f"{__name__}.Marred", **values}, hollow=hollow)
    assert caught.value.message == f"model: {__name__}.Marred made an invalid module: {fault}"


def test_a_constructor_that_leaves_out_torchs_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="_parameters is not what"):
        build_model({"_target_": f"{__name__}.Bare"})


class Replayed(nn.Module):
    """Has a list that goes by the name of a method that nobody calls on it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        vars(self.net)["buffers"] = [1]


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module.append(module[0])
    return module


def with_functions() -> nn.Module:
    module = nn.Linear(2, 2)
    module.eval, module.train = partial(module.train, mode=False), module.train  # type: ignore[method-assign]
    return module


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "make",
    [
        *(tied, with_functions, Replayed, lambda: nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
        *(lambda: nn.LazyLinear(2), lambda: nn.DataParallel(nn.Linear(2, 2)), lambda: nn.LSTM(2, 2)),
        *(lambda: torch.jit.script(nn.Linear(2, 2)), lambda: nn.ParameterDict({"a": torch.zeros(1)})),
    ],
)
def test_honest_modules_are_sound(make: Any) -> None:
    assert unsound(make()) == ""
