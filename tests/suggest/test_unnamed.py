"""A checkpoint is given and no model."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import nn

import loader
from loader.errors import ConfigError, FitError, LoaderError
from loader.examples import SimpleNet
from loader.job import names_model
from tests.command import run_loader
from tests.jobs import save

FOREIGN = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).state_dict()


def refused(*overrides: str) -> LoaderError:
    with pytest.raises(LoaderError) as refusal:
        loader.load([*overrides, "device=cpu", "verify.forward=false"])
    return refusal.value


def two_lines(path: Path) -> list[str]:
    return [
        f"mode=scaffold model._target_=my_pkg.Net checkpoint.path={path}   # writes the config for your class",
        f"model._target_=my_pkg.Net checkpoint.path={path}",
    ]


@pytest.mark.parametrize(
    "more", [[], ["mode=plan"], ["rules=auto"], ["checkpoint.key=auto", "rules=auto"], ["checkpoint.key=x"]]
)
def test_a_file_of_another_model_is_answered_with_the_two_lines(more: list[str], tmp_path: Path) -> None:
    path = save(FOREIGN, tmp_path / "mine.pth")

    error = refused(f"checkpoint.path={path}", *more)

    assert isinstance(error, ConfigError)
    assert error.message == (
        f"no model was given, and {path} does not fit the default example, loader.examples.SimpleNet "
        "(0 keys would be loaded); expected the class of its model"
    )
    assert error.hint.splitlines() == two_lines(path)


def test_the_command_line_says_so_too(tmp_path: Path) -> None:
    save(FOREIGN, tmp_path / "mine.pth")

    done = run_loader("checkpoint.path=mine.pth", cwd=tmp_path)

    assert done.code == 2
    assert done.err.startswith(f"error  no model was given, and {tmp_path}/mine.pth does not fit")
    assert "try  mode=scaffold model._target_=my_pkg.Net checkpoint.path=mine.pth" in done.err


@pytest.mark.parametrize("given", [["model=simple_net"], ["model._target_=loader.examples.SimpleNet"]])
def test_the_example_by_name_is_refused_as_any_other_model(given: list[str], tmp_path: Path) -> None:
    path = save(FOREIGN, tmp_path / "mine.pth")

    assert isinstance(refused(f"checkpoint.path={path}", *given), FitError)


def test_from_python_a_config_without_a_model_is_refused_in_the_same_way(tmp_path: Path) -> None:
    path = save(FOREIGN, tmp_path / "mine.pth")

    with pytest.raises(ConfigError, match="no model was given"):
        loader.load({"checkpoint": {"path": str(path)}})
    with pytest.raises(FitError):
        loader.load({"checkpoint": {"path": str(path)}, "model": {"_target_": "loader.examples.SimpleNet"}})


def test_the_examples_own_files_need_no_model(tmp_path: Path) -> None:
    state = SimpleNet().state_dict()
    plain = save(state, tmp_path / "plain.pth")
    wrapped = save({f"module.{key}": value for key, value in state.items()}, tmp_path / "ddp.pth")

    assert loader.load([f"checkpoint.path={plain}", "device=cpu"]).report.keys.loaded == 4
    error = refused(f"checkpoint.path={wrapped}")
    assert isinstance(error, FitError)
    assert error.hint == "'rules=[ddp]'"
    assert error.message.endswith("\nno model was given; the default is loader.examples.SimpleNet")


def test_bare_rules_are_about_the_shipped_weights() -> None:
    error = refused("rules=[ddp]")

    assert isinstance(error, FitError)
    assert "no model was given" not in error.message


NAMED: dict[str, tuple[Any, str]] = {
    "arch": ({"state_dict": FOREIGN, "arch": "resnet18"}, "model._target_=torchvision.models.resnet18"),
    "a target": (
        {"state_dict": FOREIGN, "hyper_parameters": {"net": {"_target_": "my.Net", "width": 3}, "lr": 0.1}},
        "model._target_=my.Net model.width=3",
    ),
    "a class path": (
        {"state_dict": FOREIGN, "hparams": {"class_path": "my.Net", "init_args": {"width": 3, "names": "a b"}}},
        "model._target_=my.Net model.width=3 'model.names=\"a b\"'",
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_an_architecture_that_the_file_names_is_offered_first(name: str, tmp_path: Path) -> None:
    content, line = NAMED[name]
    path = save(content, tmp_path / "mine.pth")

    assert refused(f"checkpoint.path={path}").hint.splitlines() == [f"{line} checkpoint.path={path}", *two_lines(path)]


@pytest.mark.parametrize("target", ["os.system", "posix.system", "builtins.eval", "net", "$(touch x)", "a.b\x1b[31m"])
def test_a_name_that_is_not_a_class_of_a_model_is_not_offered(target: str, tmp_path: Path) -> None:
    path = save({"state_dict": FOREIGN, "config": {"_target_": target}, "arch": target}, tmp_path / "mine.pth")

    assert [line for line in refused(f"checkpoint.path={path}").hint.splitlines() if target != "net"] in (
        two_lines(path),
        [],
    )


def test_a_whole_pickled_model_is_offered_with_what_it_needs(tmp_path: Path) -> None:
    path = save(nn.Sequential(nn.Linear(2, 3)), tmp_path / "whole.pt")

    line, *others = refused(f"checkpoint.path={path}").hint.splitlines()

    assert others == two_lines(path)
    assert loader.load([*shlex.split(line, comments=True), "verify.forward=false"]).report.keys.loaded == 2


def test_a_converted_file_is_offered_as_what_it_says_it_is(tmp_path: Path) -> None:
    source, path = save(nn.Linear(2, 3).state_dict(), tmp_path / "a.pth"), tmp_path / "b.safetensors"
    node = "model={_target_: torch.nn.Linear, in_features: 2, out_features: 3}"
    loader.load(["mode=convert", node, f"checkpoint.path={source}", f"convert.path={path}"])

    line, *others = refused(f"checkpoint.path={path}").hint.splitlines()

    assert (line, others) == (f"model=embedded checkpoint.path={path}", two_lines(path))
    assert loader.load(shlex.split(line)).report.keys.loaded == 2


CONFIGS = {
    "transformers": (
        {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 4},
        "mode=scaffold checkpoint.path={folder}   # config.json names transformers.BertModel",
    ),
    "timm": (
        {"architecture": "resnet18", "num_classes": 10},
        "model._target_=timm.create_model model.model_name=resnet18 model.num_classes=10 checkpoint.path={path}",
    ),
}


@pytest.mark.parametrize("given", ["", "model.safetensors"])
@pytest.mark.parametrize("library", CONFIGS)
def test_a_folder_whose_config_names_the_architecture_is_read(library: str, given: str, tmp_path: Path) -> None:
    content, line = CONFIGS[library]
    save_file(FOREIGN, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(content))
    path = tmp_path / given

    first, *others = refused(f"checkpoint.path={path}").hint.splitlines()

    assert first == line.format(folder=tmp_path, path=path)
    assert others == two_lines(path)


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"architecture": "$(touch x)"}', '{"architectures": ["os.system"], "model_type": "x"}']
)
def test_a_config_that_says_nothing_usable_does_not_fail(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(FOREIGN, path)
    (tmp_path / "config.json").write_text(text)

    assert refused(f"checkpoint.path={path}").hint.splitlines() == two_lines(path)


def test_what_is_typed_of_a_model_counts_as_given() -> None:
    for typed in (
        "model=x",
        "model._target_=a.B",
        "+model.width=3",
        "++model.w=1",
        "~model.w",
        "model@x=y",
        "experiment=ddp",
    ):
        assert names_model(["device=cpu", typed])
    assert not names_model(["checkpoint.path=model.pth", "modelx=1", "rules=[ddp]", "mode=plan"])
