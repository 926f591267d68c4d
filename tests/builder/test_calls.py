from __future__ import annotations

import functools
from typing import Any

import hydra.utils
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn

from loader.builder.calls import plan_calls
from loader.builder.policy import Policy
from loader.errors import ConfigError, FitError
from loader.text.lines import Fix
from tests.builder import things
from tests.laws import examples

KEEPS = "tests.builder.things.Keeps"
NET = "tests.builder.things.Net"


def made(config: dict[str, Any]) -> Any:
    return plan_calls(config, Policy(None), "model").make()


def refusal(config: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        made(config)
    return caught.value


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc. ", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=examples(60))
@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), values))
def test_arguments_arrive_as_they_are_written(arguments: dict[str, Any]) -> None:
    assert made({"_target_": KEEPS, **arguments}).kwargs == arguments


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(values, max_size=3), st.dictionaries(st.sampled_from(["a", "b"]), values), st.booleans(), st.booleans())
def test_what_is_made_is_what_hydra_makes(
    positional: list[Any], named: dict[str, Any], recursive: bool, partial: bool
) -> None:
    inner = {"_target_": "builtins.dict", "_args_": [[["x", 1]]], "_partial_": partial}
    config = {
        "_target_": "tests.builder.things.Keeps",
        "_args_": [*positional, inner],
        "_recursive_": recursive,
        "nested": [inner, {"deep": inner}],
        **named,
    }
    ours, hydras = made(config), hydra.utils.instantiate(config, _convert_="all")
    for mine, theirs in ((ours.args, hydras.args), (ours.kwargs, hydras.kwargs)):
        assert _plain(mine) == _plain(theirs)


def _plain(value: Any) -> Any:
    if isinstance(value, functools.partial):
        return "partial", value.func, _plain(list(value.args)), _plain(value.keywords)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_configs_of_omegaconf_arrive_as_plain_containers() -> None:
    config = OmegaConf.create({"_target_": KEEPS, "_args_": [[1, {"a": [2]}]], "b": {"c": [3]}})
    module = made(config)  # type: ignore[arg-type]
    assert module.args == ([1, {"a": [2]}],)
    assert type(module.args[0]) is list
    assert type(module.args[0][1]["a"]) is list
    assert type(module.kwargs["b"]) is dict
    assert type(module.kwargs["b"]["c"]) is list


def test_tuples_and_objects_of_python_configs_arrive_as_they_are() -> None:
    marker = object()
    module = made({"_target_": KEEPS, "sizes": (1, [2]), "dtype": torch.float16, "marker": marker})
    assert module.kwargs["sizes"] == (1, [2])
    assert module.kwargs["dtype"] is torch.float16
    assert module.kwargs["marker"] is marker


def test_strings_stay_strings_whatever_they_look_like() -> None:
    texts = {"a": "torch.float16", "b": "${oc.env:HOME}", "c": "1e3", "d": "null", "e": "os.system"}
    assert made({"_target_": KEEPS, **texts}).kwargs == texts


def test_dtypes_devices_tuples_and_classes_are_built_where_the_config_says_so() -> None:
    module = made(
        {
            "_target_": "tests.builder.things.DtypeNet",
            "dtype": {"_target_": "hydra.utils.get_object", "path": "torch.float16"},
            "device": {"_target_": "torch.device", "_args_": ["cpu"]},
            "sizes": {"_target_": "builtins.tuple", "_args_": [[3, 4]]},
            "activation": {"_target_": "hydra.utils.get_class", "path": "torch.nn.GELU"},
        }
    )
    assert module.inner.weight.dtype is torch.float16
    assert module.inner.weight.shape == (4, 3)
    assert isinstance(module.activation, nn.GELU)


def test_a_partial_call_is_handed_over_uncalled() -> None:
    things.CALLED.clear()
    partial = made({"_target_": KEEPS, "make": {"_target_": NET, "_partial_": True, "depth": 1}}).kwargs["make"]
    assert things.CALLED == []
    assert isinstance(partial(width=2), things.Net)


def test_what_recursive_forbids_is_handed_over_as_a_mapping() -> None:
    inner = {"_target_": NET, "width": 3}
    assert made({"_target_": KEEPS, "_recursive_": False, "net": inner, "nets": [inner]}).kwargs == {
        "net": inner,
        "nets": [inner],
    }


def test_every_build_gets_arguments_of_its_own() -> None:
    call = plan_calls({"_target_": KEEPS, "sizes": [1, {"a": []}]}, Policy(None), "model")
    first, second = call.make().kwargs["sizes"], call.make().kwargs["sizes"]
    first[1]["a"].append(1)
    assert second == [1, {"a": []}]


def test_no_target() -> None:
    for config in ({}, {"width": 3}, {"_target_": None}):
        error = refusal(config)
        assert error.message == "model has no _target_: it must name the class or function that makes the model"
        assert error.hint == "model._target_=your_module.YourModel"


def test_wrong_arguments_of_all_targets_are_told_at_once_before_anything_is_called() -> None:
    things.CALLED.clear()
    error = refusal(
        {
            "_target_": KEEPS,
            "made": {"_target_": "tests.builder.things.makes"},
            "net": {"_target_": NET, "widht": 3, "colour": "red"},
            "nets": [{"_target_": NET, "_args_": [1], "width": 1}],
        }
    )
    assert error.message == (
        "model.net: wrong arguments for Net(width: int, depth: int = 2): missing width; unexpected widht (did you mean "
        "'width'?); unexpected colour\n"
        "model.nets.0: wrong arguments for Net(width: int, depth: int = 2): given twice, in _args_ and by name: width"
    )
    assert error.hint == "'~model.net.widht' +model.net.width=3 '~model.net.colour'"
    assert things.CALLED == []


def test_missing_arguments_of_the_model() -> None:
    error = refusal({"_target_": NET})
    assert error.message == "model: wrong arguments for Net(width: int, depth: int = 2): missing width"
    assert error.hint == "+model.width=…\nmode=scaffold   # infers arguments from the shapes in the file"


def test_values_that_are_still_missing_are_told_together() -> None:
    error = refusal({"_target_": NET, "width": "???", "deep": [{"_target_": NET, "width": "???"}]})
    assert error.message == "model.width has no value yet (???)\nmodel.deep.0.width has no value yet (???)"
    assert error.hint == "model.width=…\nmodel.deep.0.width=…"


def test_a_partial_call_may_leave_values_missing() -> None:
    config = {"_target_": KEEPS, "make": {"_target_": NET, "_partial_": True, "width": "???"}}
    assert made(config).kwargs["make"].keywords == {}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"_recursive_": "no"}, "model._recursive_ is 'no', expected true or false"),
        ({"_partial_": 1}, "model._partial_ is 1, expected true or false"),
        ({"_args_": "ab"}, "model._args_ is 'ab', expected a list"),
        ({"_args_": {"a": 1}}, "model._args_ is {'a': 1}, expected a list"),
    ],
)
def test_keywords_of_the_wrong_type(extra: dict[str, Any], message: str) -> None:
    assert refusal({"_target_": KEEPS, **extra}).message == message


def test_a_constructor_that_raises_is_told_with_its_place() -> None:
    error = refusal({"_target_": KEEPS, "net": {"_target_": "tests.builder.things.Raises", "width": 5}})
    assert error.message.startswith(
        "model.net: the constructor of tests.builder.things.Raises raised ValueError: no net is 5 wide ("
    )
    assert _line(error) == "things.py", "the place in the user's file"
    assert error.hint == ""
    assert isinstance(error.__cause__, ValueError)


def test_a_constructor_that_raises_inside_torch_is_told_with_the_place_in_the_users_file() -> None:
    error = refusal({"_target_": "tests.builder.things.RaisesInTorch"})
    assert "raised RuntimeError: " in error.message
    assert _line(error) == "things.py"


def _line(error: ConfigError) -> str:
    return error.message.rpartition("(")[2].partition(":")[0].rpartition("/")[2]


def test_a_constructor_that_exits_is_told() -> None:
    message = refusal({"_target_": "tests.builder.things.Exits"}).message
    assert message.startswith(
        "model: the constructor of tests.builder.things.Exits exited: it called sys.exit('enough') ("
    )


def test_a_function_that_raises_is_not_called_a_constructor() -> None:
    message = refusal({"_target_": "tests.builder.things.makes", "kind": "nonsense"}).message
    assert message.startswith("model: tests.builder.things.makes raised KeyError: 'nonsense' (")


def test_an_interruption_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        made({"_target_": "tests.builder.things.Interrupted"})


def test_refusals_of_our_own_pass_as_they_are() -> None:
    def refuses() -> nn.Module:
        raise FitError("it does not fit", Fix("try this"))

    with pytest.raises(FitError, match="it does not fit"):
        made({"_target_": refuses})


def test_a_config_that_is_nested_too_deep_is_refused() -> None:
    config: dict[str, Any] = {"_target_": KEEPS}
    for _ in range(150):
        config = {"_target_": KEEPS, "a": config}
    assert refusal(config).message.endswith("is nested deeper than 100 levels")


def test_a_config_that_repeats_itself_without_end_is_refused_in_no_time() -> None:
    bomb: Any = ["x"]
    for _ in range(60):
        bomb = [bomb, bomb]
    assert refusal({"_target_": KEEPS, "a": bomb}).message == "model contains more than 100,000 lists and mappings"


def test_a_thousand_layers_are_fine() -> None:
    layers = [{"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2} for _ in range(1000)]
    assert len(made({"_target_": "torch.nn.Sequential", "_args_": layers})) == 1000


def test_places_that_look_alike_keep_their_own_targets() -> None:
    long = "x" * 100
    module = made(
        {
            "_target_": KEEPS,
            f"{long}1": {"_target_": "builtins.int", "_args_": [1]},
            f"{long}2": {"_target_": "builtins.str", "_args_": [1]},
            "a.b": {"_target_": "builtins.int", "_args_": [2]},
            "a": {"b": {"_target_": "builtins.str", "_args_": [2]}},
        }
    )
    assert list(module.kwargs.values()) == [1, "1", 2, {"b": "2"}]


@pytest.mark.parametrize(
    "config",
    [
        {"_target_": "tests.builder.things.Wrapped", "width": 1, "num_labels": 5},
        {"_target_": "tests.builder.things.Renamed", "size": 5},
        {"_target_": "tests.builder.things.Signed", "width": 5},
    ],
)
def test_a_signature_that_is_not_the_truth_refuses_nothing(config: dict[str, Any]) -> None:
    assert 5 in vars(made(config)).values()
    nested = made({"_target_": KEEPS, "config": config}).kwargs["config"]
    assert 5 in vars(nested).values()


def test_a_call_that_a_decorator_passes_on_is_explained_by_the_signature() -> None:
    error = refusal({"_target_": "tests.builder.things.Wrapped", "widht": 1})
    assert error.message == (
        "model: wrong arguments for Wrapped(width: int, deep: bool = False): missing width; unexpected widht (did you "
        "mean 'width'?)"
    )
    assert error.hint == "'~model.widht' +model.width=1"
    assert isinstance(error.__cause__, TypeError)


def test_a_call_that_python_turns_away_is_explained_where_a_signature_is_known() -> None:
    error = refusal({"_target_": KEEPS, "a": {"_target_": "builtins.slice"}})
    assert error.message.startswith("model.a: the constructor of builtins.slice raised TypeError: slice expected")
    assert "wrong arguments for sqrt(x, /)" in refusal({"_target_": KEEPS, "a": {"_target_": "math.sqrt"}}).message


@pytest.mark.parametrize("config", [{"width": 1, "deep": True, "num_labels": 1}, {"width": -1, "num_labels": 1}])
def test_a_type_error_from_inside_a_constructor_is_not_explained_by_its_signature(config: dict[str, Any]) -> None:
    error = refusal({"_target_": "tests.builder.things.Wrapped", **config})
    assert error.message.startswith("model: the constructor of tests.builder.things.Wrapped raised TypeError: ")
    assert _line(error) == "things.py"


def test_a_constructor_that_raises_is_answered_with_the_arguments_that_it_names() -> None:
    error = refusal({"_target_": KEEPS, "net": {"_target_": "tests.builder.things.Heads", "embed_dim": 4}})
    assert "raised ValueError: embed_dim must be divisible by num_heads (" in error.message
    assert error.hint == "model.net.embed_dim=… +model.net.num_heads=…"


def test_a_package_that_a_constructor_needs_is_to_be_installed() -> None:
    assert refusal({"_target_": "tests.builder.things.Needs"}).hint == "pip install zz_not_installed"
