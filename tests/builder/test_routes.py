"""No way leads from a model's config to code that no name in it stands for."""

from __future__ import annotations

import enum
import functools
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from loader.builder import build_model
from loader.builder.policy import OfAFile, Policy, documented_module
from loader.errors import ConfigError
from loader.examples import models
from tests.builder.routes import EVIL, EVIL_SOURCE, FA4, ROUTES, Node, call, inside, lookup, partial
from tests.command import REPOSITORY, run

POLICIES: list[Policy] = [OfAFile(), *(Policy(trusted) for trusted in (["torch.nn.*"], ["torch.nn.*", "loader.*"]))]
POLICIES += [Policy(["torch.*", "loader.*"]), Policy(["*"])]


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / f"{EVIL}.py").write_text(EVIL_SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ZZ_MARKER", str(tmp_path / "marker"))
    return tmp_path / "marker"


def refusal(node: Node, policy: Policy) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        build_model(node, trusted=policy)
    return caught.value


@pytest.mark.skipif(find_spec("torch.nn.attention._fa4") is None, reason="a route leads through a newer torch")
def test_every_route_is_alive_for_one_who_builds_without_a_policy(tmp_path: Path, marker: Path) -> None:
    code = f"from tests.builder.routes import live; print(sorted(live({str(marker)!r})))"
    done = run(sys.executable, "-c", code, cwd=REPOSITORY, PYTHONPATH=str(tmp_path), ZZ_MARKER=str(marker))
    assert done.stdout.strip() == str(sorted(ROUTES)), done.stderr


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: str(p.trusted))
@pytest.mark.parametrize("route", ROUTES)
def test_no_route_is_taken(route: str, policy: Policy, marker: Path) -> None:
    error = refusal(ROUTES[route], policy)
    assert "is refused" in error.message or "_partial_" in error.message
    assert not marker.exists()
    assert EVIL not in sys.modules


GELU = "torch.nn.functional.gelu"
LINEAR = call("torch.nn.Linear", 2, 3)


def test_a_function_is_trusted_by_its_exact_name_alone() -> None:
    layer = call("torch.nn.TransformerEncoderLayer", 4, 2, activation=lookup(GELU))
    for policy in POLICIES[1:]:
        error = refusal(layer, policy)
        assert error.message == (
            f"model.activation.path: {GELU} is refused: it is not a class, and a pattern in trusted_targets allows "
            "classes only"
        )
        assert error.hint == f"'trusted_targets=[{','.join([*(policy.trusted or ()), GELU])}]'"
    built = build_model(layer, trusted=["torch.nn.*", GELU]).module
    assert built.activation is nn.functional.gelu


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("torch.nn.Linear.forward", "it is not a class, and a pattern in trusted_targets allows classes only"),
        ("torch.nn.init.zeros_", "it is not a class, and a pattern in trusted_targets allows classes only"),
        ("torch.nn.modules.module._IncompatibleKeys", "it is not needed by any model that uses torch"),
        ("torch.nn.utils._named_member_accessor.NamedMemberAccessor", "it is not needed by any model that uses torch"),
        (FA4, "it can run code, load pickles or access files"),
    ],
)
def test_a_pattern_stands_for_public_classes(name: str, why: str) -> None:
    assert refusal(inside(call(name, 1)), Policy(["torch.nn.*"])).message.endswith(f"{name} is refused: {why}")


def test_private_names_of_a_package_of_ones_own_are_trusted_exactly() -> None:
    private = "it is private, and a pattern in trusted_targets allows public names only"
    assert Policy(["my_pkg.*"]).objection("my_pkg._impl.Net") == private
    assert Policy(["my_pkg.*"]).objection("my_pkg.net._Net") == private
    assert Policy(["my_pkg.*", "my_pkg._impl.Net"]).objection("my_pkg._impl.Net") == ""
    hidden = type("_Net", (nn.Module,), {"__module__": "my_pkg.net"})
    assert Policy(["my_pkg.*"]).objection_to(hidden, "my_pkg.Net") == (
        "it is really my_pkg.net._Net, which is private, and a pattern allows public names only"
    )
    shown = type("Net", (nn.Module,), {"__module__": "my_pkg._impl"})
    assert Policy(["my_pkg.*"]).objection_to(shown, "my_pkg.Net") == ""


@pytest.mark.parametrize("value", [3, "x", None, (1, [2.0, {"a": b"x"}]), torch.float16, torch.Size([1])])
def test_a_pattern_stands_for_plain_values(value: object) -> None:
    assert Policy(["my_pkg.*"]).objection_to(value, "my_pkg.VALUE") == ""


class Colour(enum.Enum):
    """Plain members."""

    RED = (1, "red")


class Runner(enum.Enum):
    """Members that can be called."""

    SHELL = "sh"

    def __call__(self, command: str) -> None:
        raise AssertionError(command)


class Wrapped(enum.Enum):
    """Members that hold code."""

    PRINT = enum.member(functools.partial(print))


def test_a_pattern_stands_for_plain_members_of_an_enum() -> None:
    assert Policy(["my_pkg.*"]).objection_to(Colour.RED, "my_pkg.Colour.RED") == ""


CALLED = "it is not a class, and a pattern in trusted_targets allows classes only"


@pytest.mark.parametrize("member", [Runner.SHELL, Wrapped.PRINT])
def test_a_pattern_does_not_stand_for_members_of_an_enum_that_hold_code(member: object) -> None:
    assert Policy(["my_pkg.*"]).objection_to(member, "my_pkg.Runner.SHELL") == CALLED


def test_a_member_of_an_enum_is_not_called_by_a_pattern() -> None:
    error = refusal(inside({"_target_": f"{__name__}.Runner.SHELL", "command": "x"}), Policy(["torch.nn.*", "tests.*"]))
    assert error.message == f"model._args_.0._target_: {__name__}.Runner.SHELL is refused: {CALLED}"


@pytest.mark.parametrize("trusted", [None, ["torch.nn.*"], ["*"]])
def test_a_value_of_another_module_goes_by_its_own_name(trusted: list[str] | None) -> None:
    path = "torch.nn.parallel.distributed.sys.path"
    error = refusal(inside(lookup(path)), Policy(trusted))
    assert error.message == (
        f"model._args_.0.path: {path} is refused: it is really sys.path, "
        "which belongs to Python's own 'sys', which contains no models"
    )


def test_a_pattern_does_not_reach_the_values_of_a_module_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    package, other = ModuleType("zz_package"), ModuleType("zz_other")
    package.other, other.SIZES = other, [1, 2]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zz_package", package)
    name = "zz_package.other.SIZES"
    assert Policy(["zz_package.*"]).objection_to([1, 2], name) == (
        "it is really zz_other.SIZES, which trusted_targets does not name"
    )
    for trusted in (None, ["zz_package.*", "zz_other.*"], [name]):
        assert Policy(trusted).objection_to([1, 2], name) == ""


@pytest.mark.parametrize("value", [torch, [len], {"a": nn.Linear}, nn.Linear(1, 1), object()])
def test_a_pattern_does_not_stand_for_objects(value: object) -> None:
    assert Policy(["my_pkg.*"]).objection_to(value, "my_pkg.VALUE")


NN = [f"torch.nn.{name}" for name in nn.modules.__all__ if issubclass(getattr(nn, name), nn.Module)]


@pytest.mark.parametrize("name", [*NN, "torch.nn.modules.linear.Linear", "torch.nn.DataParallel"])
def test_a_file_may_name_every_documented_module(name: str) -> None:
    policy, found = OfAFile(), documented_module(name)
    assert policy.objection(name) == ""
    assert policy.objection_to(found, name) == ""


def test_a_file_may_name_the_example_models() -> None:
    for name in ("SimpleNet", "LinearModel", "CustomModel"):
        for home in ("loader.examples", "loader.examples.models"):
            assert documented_module(f"{home}.{name}") is getattr(models, name)


@pytest.mark.parametrize(
    "name",
    [
        GELU,
        "torch.nn.Parameter",
        "torch.nn.init.zeros_",
        "torch.nn.Linear.forward",
        "torch.nn.Module.apply",
        "torch.nn.Module.to",
        "torch.nn.Module.T_destination",
        "torch.nn.parallel.DistributedDataParallel",
        "torch.nn.utils.parametrize.ParametrizationList",
        "torch.nn.modules.linear.init",
        "torch.nn.modules.module.Module._call_impl",
        "torch.nn.quantized.Linear",
        "torch.nn.Nowhere",
        "torch.nn.nowhere.Net",
        "torch.optim.Adam",
        "torch.ao.nn.quantized.Linear",
        "loader.examples.models.nn.Linear",
        "loader.load_model",
        "builtins.range",
        "builtins.bytes",
        "pathlib.Path",
        "types.SimpleNamespace",
        "my_pkg.Net",
    ],
)
def test_a_file_may_name_nothing_else(name: str) -> None:
    assert OfAFile().objection(name)
    for node in (call(name), partial(name), lookup(name)):
        assert "is refused" in refusal(inside(node), OfAFile()).message


def test_a_file_may_leave_nothing_for_later() -> None:
    error = refusal(call("torch.nn.Identity", partial("torch.nn.Linear", 2)), OfAFile())
    assert error.message == "model._args_.0._partial_: not allowed in a file's config; no _partial_ was expected"
    assert error.hint == "'~model._args_.0._partial_'"


def test_a_file_may_hold_values_and_modules_of_modules() -> None:
    node = call(
        "torch.nn.Sequential",
        {**LINEAR, "dtype": lookup("torch.float64"), "device": call("torch.device", "cpu")},
        call("torch.nn.Unflatten", 1, call("builtins.tuple", [1, 3])),
    )
    module = build_model(node, trusted=OfAFile(), hollow=False).module
    assert module(torch.ones(1, 2, dtype=torch.float64)).shape == (1, 1, 3)
    classes: Any = build_model(inside(call("hydra.utils.get_class", path="torch.nn.ReLU")), trusted=OfAFile()).module
    assert isinstance(classes, nn.Identity)
