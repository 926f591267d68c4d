from __future__ import annotations

import random
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loader.builder import Built, build_model, unsound
from loader.errors import ConfigError
from tests.builder import things

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}


def refusal(config: dict[str, Any], **options: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build_model(config, **options)
    return caught.value


def test_a_model_is_built_hollow_unless_asked_otherwise() -> None:
    built = build_model(LINEAR)
    assert isinstance(built.module, nn.Linear)
    assert (built.hollow, built.reason, built.complete) == (True, "", False)
    assert built.module.weight.is_meta


@pytest.mark.parametrize("seed", [0, 1, 2**40, -1])
def test_a_plain_model_is_the_one_that_the_seed_gives(seed: int) -> None:
    built = build_model(LINEAR, seed=seed, hollow=False)
    assert not built.hollow
    assert built.reason == "initial values were requested"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        expected = nn.Linear(3, 2)
    assert torch.equal(built.module.get_parameter("weight"), expected.weight)
    assert torch.equal(built.module.get_parameter("bias"), expected.bias)


def test_a_model_that_looks_at_its_weights_is_built_plainly_and_its_own_error_is_the_one_told() -> None:
    built = build_model({"_target_": "tests.builder.things.FailsHollow"})
    assert not built.hollow
    assert "reads values of its parameters" in built.reason
    message = refusal({"_target_": "tests.builder.things.Raises"}).message
    assert "raised ValueError: no net is 3 wide" in message


def test_a_second_build_gets_arguments_that_the_first_one_did_not_use_up() -> None:
    built = build_model({"_target_": "tests.builder.things.MutatesItsArguments", "widths": [3, 2]})
    assert not built.hollow
    assert built.module.get_submodule("inner").get_parameter("weight").shape == (3, 2)


@pytest.mark.parametrize("handed", [torch.ones(2), nn.Linear(2, 2), nn.Parameter(torch.ones(2))])
def test_what_lives_outside_the_build_is_not_emptied(handed: Any) -> None:
    built = build_model({"_target_": "tests.builder.things.Keeps", "deep": [{"handed": (handed,)}]})
    assert (built.hollow, built.reason) == (False, "the config contains live tensors")
    tensors = handed.parameters() if isinstance(handed, nn.Module) else [handed]
    assert not any(tensor.is_meta for tensor in tensors)


@pytest.mark.parametrize(
    ("kind", "what"), [("number", "int"), ("none", "NoneType"), ("class", "type"), ("array", "numpy.ndarray")]
)
@pytest.mark.parametrize("hollow", [True, False])
def test_a_result_that_is_no_module_is_refused(kind: str, what: str, hollow: bool) -> None:
    message = refusal({"_target_": "tests.builder.things.makes", "kind": kind}, hollow=hollow).message
    assert message == f"model: tests.builder.things.makes returned a {what}, not a torch.nn.Module"


def test_a_function_that_returns_a_module_will_do() -> None:
    assert isinstance(build_model({"_target_": "tests.builder.things.makes"}).module, nn.Linear)


@pytest.mark.parametrize("target", ["tests.builder.things.NoModule", "builtins.dict", "torch.device"])
def test_a_class_that_is_no_module_is_refused_uncalled(target: str) -> None:
    things.CALLED.clear()
    assert refusal({"_target_": target}).message == f"model._target_: {target} is not a subclass of torch.nn.Module"
    assert things.CALLED == []


def test_a_model_that_is_only_half_called_is_refused() -> None:
    message = refusal({**LINEAR, "_partial_": True}).message
    assert message == "model: torch.nn.Linear returned a functools.partial, not a torch.nn.Module"


def test_the_place_in_the_config_can_be_named() -> None:
    assert refusal({"_target_": "torch.nn.Linear"}, where="parts.a.model").message.startswith("parts.a.model: ")


@pytest.mark.parametrize("target", ["Raises", "Exits", "FailsHollow", "Keeps"])
def test_the_random_states_are_left_as_they_were_whatever_happens(target: str) -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    try:
        build_model({"_target_": f"tests.builder.things.{target}"}, seed=9)
    except ConfigError:
        assert target in {"Raises", "Exits"}
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_a_model_that_takes_random_tensors_from_a_cache_is_refused_and_not_built_from_garbage() -> None:
    things.projection.cache_clear()
    assert refusal({"_target_": "tests.builder.things.FromCache"}).message == (
        "model: tests.builder.things.FromCache takes random tensors or layers from a cache that outlives the model; "
        "every build must make its own"
    )
    things.projection.cache_clear()
    things.projection(3)
    assert build_model({"_target_": "tests.builder.things.FromCache"}).hollow


def test_a_model_that_the_world_keeps_is_no_different() -> None:
    things.REGISTRY.clear()
    built = build_model({"_target_": "tests.builder.things.Registered"})
    assert built.hollow
    assert [built.module] == things.REGISTRY
    things.REGISTRY.clear()


def test_an_interruption_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        build_model({"_target_": "tests.builder.things.Interrupted"})


def test_building_imports_no_model_library_and_none_of_torchs_slow_parts() -> None:
    code = (
        "import sys, loader.builder\n"
        f"loader.builder.build_model({LINEAR!r})\n"
        "slow = {'transformers', 'timm', 'sympy', 'torch._dynamo', 'torch._inductor'}\n"
        "print(sorted(slow & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_built_is_plain_data() -> None:
    module = nn.Linear(1, 1)
    assert Built(module, hollow=False, reason="x") == Built(module, hollow=False, reason="x", complete=False)


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
