from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch
from torch import nn

from loader.builder import build_model
from loader.builder.policy import Policy
from loader.builder.targets import find_targets
from loader.errors import ConfigError
from tests.builder import things

KEEPS = "tests.builder.things.Keeps"


def refusal(config: dict[str, Any], trusted: list[str] | None = None) -> ConfigError:
    things.CALLED.clear()
    with pytest.raises(ConfigError) as caught:
        build_model(config, trusted=trusted)
    assert things.CALLED == []
    assert caught.value.exit_code == 2
    return caught.value


DANGEROUS = "it belongs to Python's own 'os', which contains no models"


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"_target_": "os.system", "command": "false"}, "model._target_"),
        ({"_target_": KEEPS, "a": {"_target_": "os.system"}}, "model.a._target_"),
        ({"_target_": KEEPS, "a": [1, [{"b": {"_target_": "os.system"}}]]}, "model.a.1.0.b._target_"),
        ({"_target_": KEEPS, "_args_": [{"_target_": "os.system"}]}, "model._args_.0._target_"),
        ({"_target_": KEEPS, "a": {"_target_": "os.system", "_partial_": True}}, "model.a._target_"),
        ({"_target_": KEEPS, "_recursive_": False, "a": {"_target_": "os.system"}}, "model.a._target_"),
        ({"_target_": KEEPS, "a": {"_target_": "hydra.utils.get_object", "path": "os.system"}}, "model.a.path"),
        ({"_target_": KEEPS, "a": {"_target_": "hydra.utils.get_method", "_args_": ["os.system"]}}, "model.a.path"),
        ({"_target_": KEEPS, "a": ({"_target_": "os.system"},)}, "model.a.0._target_"),
    ],
)
@pytest.mark.parametrize("trusted", [None, ["tests.*"], ["*"]])
def test_a_dangerous_target_is_refused_wherever_it_stands(
    config: dict[str, Any], where: str, trusted: list[str] | None
) -> None:
    error = refusal(config, trusted)
    assert error.message == f"{where}: os.system is refused: {DANGEROUS}"
    assert error.hint == (f"{where}=my_pkg.Net   # a class of your own" if where.endswith("_target_") else "")


def test_a_target_outside_the_list_is_refused_with_what_to_type() -> None:
    error = refusal(
        {"_target_": KEEPS, "a": {"_target_": "torch.nn.ReLU"}, "b": [{"_target_": "torch.nn.ReLU"}]}, ["my_pkg.*"]
    )
    assert error.message == (
        "model._target_: tests.builder.things.Keeps is refused: trusted_targets does not name it\n"
        "model.a._target_: torch.nn.ReLU is refused: trusted_targets does not name it\n"
        "model.b.0._target_: torch.nn.ReLU is refused: trusted_targets does not name it"
    )
    assert error.hint == "'trusted_targets=[my_pkg.*,tests.builder.things.Keeps,torch.nn.ReLU]'"


def test_what_the_hint_says_is_enough() -> None:
    config = {"_target_": KEEPS, "a": {"_target_": "torch.nn.ReLU"}}
    build_model(config, trusted=[KEEPS, "torch.nn.ReLU"])
    build_model(config, trusted=["tests.*", "torch.nn.*"])


def test_an_alias_of_a_dangerous_function_is_refused_after_the_import() -> None:
    hub = refusal({"_target_": "torch.nn.modules.module.torch.hub.os.system"}, ["torch.*"])
    assert "really posix.system" in hub.message
    error = refusal({"_target_": "tests.builder.things.os.system", "_args_": ["false"]})
    assert error.message == (
        "model._target_: tests.builder.things.os.system is refused: it is really posix.system, which belongs to "
        "Python's own 'posix', which contains no models"
    )
    assert error.hint == "model._target_=my_pkg.Net   # a class of your own"


@pytest.mark.parametrize("home", ["loader.examples", "hydra_loader.examples"])
def test_a_mistyped_example_model_is_refused_with_the_one_that_is_meant(home: str) -> None:
    error = refusal({"_target_": f"{home}.SimpelNet"})
    assert error.message.startswith(
        f"model._target_: {home}.SimpelNet cannot be found: module '{home}' has no 'SimpelNet' "
        "(did you mean 'SimpleNet'?)"
    )
    assert error.hint == f"model._target_={home}.SimpleNet"
    shipped = ("CustomLayer", "CustomModel", "LinearModel", "SimpleNet", "TinyBert", "TinyGPT2", "TinyLlama", "TinyViT")
    every = [f"model._target_={home}.{name}" for name in shipped]
    assert refusal({"_target_": f"{home}.Qqq"}).hint.splitlines() == every
    assert "is refused" in refusal({"_target_": f"{home}.files.write"}).message


def test_a_class_that_a_trusted_package_passes_on_is_refused_with_what_to_type() -> None:
    error = refusal({"_target_": "tests.builder.things.nn.Linear", "in_features": 1, "out_features": 1}, ["tests.*"])
    assert error.message == (
        "model._target_: tests.builder.things.nn.Linear is refused: it is really torch.nn.modules.linear.Linear, which "
        "trusted_targets does not name"
    )
    assert error.hint == "'trusted_targets=[tests.*,tests.builder.things.nn.Linear]'"


def test_nothing_is_imported_before_all_names_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "zz_untouched.py").write_text("raise RuntimeError('imported')\n")
    for trusted in (["my_pkg.*"], None):
        refusal({"_target_": "zz_untouched.Net", "a": {"_target_": "os.system"}}, trusted)
    assert "zz_untouched" not in sys.modules


def test_targets_that_are_not_there_are_told_together() -> None:
    error = refusal({"_target_": "torch.nn.Linaer", "a": {"_target_": "torch.nn.ReLUU"}, "b": {"_target_": "relu"}})
    assert error.message == "model.b._target_: 'relu' is not the dotted name of a class or function"
    error = refusal({"_target_": "torch.nn.Linaer", "a": {"_target_": "torch.nn.ReLUU"}})
    assert "model._target_: torch.nn.Linaer cannot be found" in error.message
    assert "model.a._target_: torch.nn.ReLUU cannot be found" in error.message
    assert error.hint == "model._target_=torch.nn.Linear\nmodel.a._target_=torch.nn.ReLU"


def test_a_target_that_cannot_be_called() -> None:
    error = refusal({"_target_": "tests.builder.things.SIZES"})
    assert error.message == "model._target_: tests.builder.things.SIZES is a tuple, which cannot be called"
    assert "is a module, which cannot be called" in refusal({"_target_": "tests.builder.things"}).message


def test_a_lookup_may_lead_to_what_cannot_be_called() -> None:
    config = {"_target_": KEEPS, "sizes": {"_target_": "hydra.utils.get_object", "path": "tests.builder.things.SIZES"}}
    module = build_model(config).module
    assert isinstance(module, things.Keeps)
    assert module.kwargs["sizes"] is things.SIZES


@pytest.mark.parametrize("path", [None, 3, {"_target_": "builtins.str", "_args_": ["os.system"]}, "${a}", ["os"], ""])
def test_the_path_of_a_lookup_must_be_written_out(path: object) -> None:
    message = refusal({"_target_": KEEPS, "a": {"_target_": "hydra.utils.get_object", "path": path}}).message
    assert message.startswith("model.a.path: ")
    assert message.endswith(" is not the dotted name of a class or function")


def test_a_lookup_by_another_name_is_refused() -> None:
    config = {"_target_": KEEPS, "a": {"_target_": "loader.builder.targets.instantiate", "config": {}}}
    assert "is refused" in refusal(config).message
    things.get_object = hydra.utils.get_object  # type: ignore[attr-defined]
    try:
        message = refusal(
            {"_target_": KEEPS, "a": {"_target_": "tests.builder.things.get_object", "path": "os.system"}}
        )
    finally:
        del things.get_object  # type: ignore[attr-defined]
    assert "it is really hydra.utils.get_object; write that" in message.message


def test_a_target_is_not_resolved_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZZ_TARGET", "os.system")
    assert "is not the dotted name" in refusal({"_target_": "${oc.env:ZZ_TARGET}"}).message


def test_torch_dtypes_need_no_trust() -> None:
    dtype = {"_target_": "hydra.utils.get_object", "path": "torch.float16"}
    config = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2, "dtype": dtype}
    assert build_model(config, trusted=["torch.nn.*"]).module.get_parameter("weight").dtype is torch.float16


@pytest.mark.skipif(version("hydra-core") < "1.3.8", reason="Hydra refuses nothing of its own before 1.3.8")
def test_what_hydra_itself_refuses_is_refused_even_if_it_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE", "os.system")
    error = refusal({"_target_": KEEPS, "a": {"_target_": "os.system", "command": "false"}}, [KEEPS, "os.system"])
    assert error.message.startswith(
        "model.a._target_: os.system is refused by Hydra: Target 'os.system' is blocklisted"
    )
    path = {"_target_": "hydra.utils.get_object", "path": "os.system"}
    assert "os.system is refused by Hydra" in refusal({"_target_": KEEPS, "a": path}, [KEEPS, "os.system"]).message


def test_hydras_allow_list_variable_widens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE", "os.remove:os.kill")
    assert refusal({"_target_": "os.remove"}).message == f"model._target_: os.remove is refused: {DANGEROUS}"


def test_a_class_may_be_given_in_place_of_its_name() -> None:
    node = {"_target_": nn.Linear, "in_features": 2, "out_features": 3}
    target = find_targets([("model", node)], Policy(["torch.nn.*"]))[id(node)]
    assert (target.name, target.found) == ("torch.nn.modules.linear.Linear", nn.Linear)
    with pytest.raises(ConfigError, match="trusted_targets does not name it"):
        find_targets([("model", node)], Policy(["my_pkg.*"]))
    with pytest.raises(ConfigError, match=r"torch\.serialization\.load is refused: it can run code"):
        find_targets([("model", {"_target_": torch.load})], Policy(None))
