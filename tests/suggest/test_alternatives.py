"""Refusals that another size of the model, or its parts, would avoid."""

from __future__ import annotations

import re
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loader import load
from loader.builder.locate import locate
from loader.errors import FitError
from loader.keys.written import parts_override, value_override
from loader.suggest import alternatives
from loader.suggest.alternatives import changed, numbers
from tests.jobs import carry_out, save
from tests.libraries import library
from tests.models import filled
from tests.modes.scaffold.nets import Switched
from tests.suggest.architectures import Sized, auto_encoder
from tests.suggest.sizes import builders

SIZED = "tests.suggest.architectures.Sized"


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found must not depend on how busy the machine is; the number of builds stays bounded."""
    monkeypatch.setattr(alternatives, "_MOST_SECONDS", 600)


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
    assert error.message.endswith(f"24 of 24 keys would be loaded this way: {reason}")


def test_a_value_of_the_config_is_replaced(tmp_path: Path) -> None:
    state = filled(Sized(bias=False)).state_dict()

    assert refusal({"_target_": SIZED, "bias": True}, state, tmp_path).hint == "model.bias=false"


def test_a_size_that_the_shapes_do_not_tell_is_not_named(tmp_path: Path) -> None:
    node = {"_target_": "tests.modes.scaffold.nets.Attention", "dim": 12}
    state = {"qkv.weight": torch.rand(288, 12), "qkv.bias": torch.rand(288), "out.weight": torch.rand(12, 96),
             "out.bias": torch.rand(12)}  # fmt: skip

    error = refusal(node, state, tmp_path)
    assert "model." not in error.hint
    expected = (
        r"all names and shapes fit with model\.\w+=\d+.*, and with other values of model\.\w+.*, so none is proposed"
    )
    assert re.fullmatch(expected, error.message.splitlines()[-1])


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
        "12 of 12 keys would be loaded this way: encoder: its weights are under 'encoder_state'; "
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


BUILDERS = "tests.suggest.sizes.builders."


@pytest.fixture
def calls() -> list[dict[str, Any]]:
    """The arguments of every build from now on."""
    builders.CALLS.clear()
    return builders.CALLS


@pytest.fixture
def asked() -> Iterator[Callable[[], int]]:
    """Tells how often a weight server was asked."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        builders.PORT[0] = server.getsockname()[1]
        server.settimeout(0)
        yield lambda: sum(1 for _ in iter(lambda: accepted(server), None))


def accepted(server: socket.socket) -> socket.socket | None:
    try:
        connection, _ = server.accept()
    except BlockingIOError:
        return None
    connection.close()
    return connection


@pytest.mark.parametrize("settings", [{}, {"rules": "auto"}, {"checkpoint": {"key": "auto"}}])
def test_arguments_that_reach_outside_keep_the_users_value(
    tmp_path: Path, calls: list[dict[str, Any]], settings: dict[str, Any]
) -> None:
    given = {"pretrained": False, "weights": True, "force_download": False, "retries_of_url": 5}
    state = filled(builders.Recording(width=6, depth=3, bias=False)).state_dict()
    calls.clear()
    error = refusal({"_target_": f"{BUILDERS}Recording", **given}, state, tmp_path, **settings)

    assert error.hint.endswith("model.bias=false model.depth=3 model.width=6")
    assert len(calls) > 3
    assert all({name: call[name] for name in given} == given for call in calls)
    assert not any(call["push_to_hub"] for call in calls)


def test_a_constructor_that_fetches_is_tried_in_no_other_size(tmp_path: Path, asked: Callable[[], int]) -> None:
    state = filled(builders.Fetching(width=6, pretrained=False)).state_dict()
    error = refusal({"_target_": f"{BUILDERS}Fetching"}, state, tmp_path)

    assert asked() == 1  # by the build that the user asked for
    expected = (
        r"no other sizes of the model were tried: its constructor connects to something outside \(socket\.\w+\), "
    )
    assert re.fullmatch(expected + "which a trial build may not do", error.message.splitlines()[-1])
    assert "model." not in error.hint


def test_a_constructor_that_writes_is_tried_in_no_other_size(tmp_path: Path) -> None:
    state, log = filled(builders.Fetching(width=6, pretrained=False)).state_dict(), tmp_path / "log"
    error = refusal({"_target_": f"{BUILDERS}Fetching", "pretrained": False, "logs": str(log)}, state, tmp_path)

    assert "its constructor writes a file (open), which a trial build may not do" in error.message
    assert error.hint.startswith("checkpoint.path=…   # another file: no nested key or rule")


@pytest.mark.parametrize("blocks", [[2, 2, 2], (2, 2, 2)])
def test_a_list_in_the_config_is_searched_like_any_argument(tmp_path: Path, blocks: Any) -> None:
    state = filled(builders.Base([2, 3, 2, 1])).state_dict()
    error = refusal({"_target_": f"{BUILDERS}Base", "blocks": blocks}, state, tmp_path)

    assert error.hint == "'model.blocks=[2,3,2,1]'"


@pytest.mark.parametrize(
    "value", [float("inf"), float("nan"), -1, 10**30, 10**400, 1e308, "text", None, {"a": [1]}, [[1], [2]]]
)
def test_a_value_of_any_kind_is_not_a_bug(tmp_path: Path, value: Any) -> None:
    state = filled(builders.Odd(width=5)).state_dict()
    error = refusal({"_target_": f"{BUILDERS}Odd", "width": 4, "odd": value}, state, tmp_path)

    assert error.hint == "model.width=5"


@pytest.mark.parametrize("builder", ["built", "Derived", "Holding", "picky"])
def test_arguments_behind_keywords_are_found(tmp_path: Path, builder: str) -> None:
    state = filled(getattr(builders, builder)(classes=7)).state_dict()
    error = refusal({"_target_": BUILDERS + builder}, state, tmp_path)

    assert error.hint.splitlines()[0] == "model.classes=7"
    assert pasted({"_target_": BUILDERS + builder}, tmp_path / "file.pt", error.hint.splitlines()[0]) == state.keys()


def pasted(node: dict[str, Any], path: Path, line: str) -> Any:
    typed = [f"model.{key}={value}" for key, value in node.items()]
    loaded = load([*typed, f"checkpoint.path={path}", "device=cpu", "verify.forward=false", *shlex.split(line)])
    return loaded.model.state_dict().keys()


@pytest.mark.parametrize(
    ("builder", "node", "other", "line"),
    [  # a published builder, what the user gives it, and what the file's model has in addition to its seven classes
        ("timm.create_model", {"model_name": "resnet10t", "pretrained": False}, {}, "model.num_classes=7"),
        (
            "timm.create_model",
            {"model_name": "vit_tiny_patch16_224"},
            {"depth": 9},
            "model.depth=9 model.num_classes=7",
        ),
        ("torchvision.models.resnet18", {}, {}, "model.num_classes=7"),
        ("torchvision.models.mobilenet_v2", {}, {}, "model.num_classes=7"),
    ],
)
def test_the_builders_of_image_libraries_get_the_number_of_classes(
    builder: str,
    node: dict[str, Any],
    other: dict[str, Any],
    line: str,
    tmp_path: Path,
) -> None:
    library(builder.partition(".")[0])
    build: Any = locate(builder, "model._target_")
    error = refusal({"_target_": builder, **node}, build(**node, **other, num_classes=7).state_dict(), tmp_path)

    assert error.hint.splitlines()[0] == line


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_a_network_without_its_head_is_built_so_before_a_random_head_is_offered(name: str, tmp_path: Path) -> None:
    build = library("timm").create_model
    state = build(name, num_classes=0).state_dict()
    error = refusal({"_target_": "timm.create_model", "model_name": name}, state, tmp_path)

    assert error.hint.splitlines()[0] == "model.num_classes=0"


SWITCHES: list[dict[str, Any]] = [
    {"wide": True}, {"deep": True}, {"other": True}, {"wide": True, "deep": True}, {"flat": True, "deep": True},
]  # fmt: skip


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize("switches", SWITCHES, ids="-".join)
def test_a_switch_is_named_also_where_it_changes_names(switches: dict[str, Any], width: int, tmp_path: Path) -> None:
    file_of = Switched(width, **switches)
    node = {"_target_": "tests.modes.scaffold.nets.Switched"}
    error = refusal(node, filled(file_of).state_dict(), tmp_path)

    expected = {f"model.{name}=true" for name in switches} | ({"model.width=6"} if width == 6 else set())
    assert set(error.hint.splitlines()[0].split()) == expected
    assert pasted(node, tmp_path / "file.pt", error.hint.splitlines()[0]) == file_of.state_dict().keys()


def test_a_number_that_a_switch_can_stand_in_for_is_not_called_sure(tmp_path: Path) -> None:
    node = {"_target_": "tests.modes.scaffold.nets.Switched"}
    error = refusal(node, filled(Switched(3, wide=True, other=True)).state_dict(), tmp_path)

    expected = r"all names and shapes fit with .*, and with other values of model\.width, so none is proposed"
    assert re.fullmatch(expected, error.message.splitlines()[-1])
    assert "model." not in error.hint


def test_the_numbers_of_a_config_are_named_by_their_place() -> None:
    config = {"_target_": "x", "classes": 10, "deep": True, "head": {"size": 4, "scale": 0.5}, "a b": 3}

    assert list(numbers(config)) == [("classes", 10), ("head.size", 4)]


def test_a_changed_config_leaves_the_given_one_alone() -> None:
    config = {"head": {"size": 10, "bias": True}, "width": 3}

    assert changed(config, {"head.size": 37, "depth": [1, 2]}) == {
        "head": {"size": 37, "bias": True}, "width": 3, "depth": [1, 2],
    }  # fmt: skip
    assert config == {"head": {"size": 10, "bias": True}, "width": 3}
