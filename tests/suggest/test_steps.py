"""The rule that renames a head is found next to any number of layers, before an allowance that leaves it random."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader.errors import FitError
from tests.jobs import carry_out, save
from tests.models import filled

NO_WAY = "checkpoint.path=…   # another file: no nested key or rule was found that makes this one fit"
DEPTHS = [2, 17, 40]


class Headed(nn.Module):
    """Many layers of one shape, then some heads by name."""

    def __init__(self, depth: int, heads: dict[str, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(depth))
        for name, size in heads.items():
            self.add_module(name, nn.Linear(4, size))


def refusal(depth: int, mine: dict[str, int], theirs: dict[str, int], folder: Path) -> tuple[FitError, Path]:
    """A file with the second heads in a model with the first; `fc` is called `fc_param` in the file."""
    state = filled(Headed(depth, theirs)).state_dict()
    path = save({renamed(key): value for key, value in state.items()}, folder / "file.pt")
    node = {"_target_": "tests.suggest.test_steps.Headed", "depth": depth, "heads": mine}
    with pytest.raises(FitError) as refused:
        carry_out(node, path)
    return refused.value, path


def renamed(key: str) -> str:
    return key.replace("fc.", "fc_param.") if key.startswith("fc.") else key


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize(
    ("mine", "theirs", "rest"),
    [
        ({"fc": 3}, {"fc": 3, "aux": 5}, "'allow.unexpected=[aux.*]'"),
        ({"fc": 3, "aux": 5}, {"fc": 3}, "'allow.missing=[aux.*]'"),
        ({"fc": 3, "aux": 3}, {"fc": 3, "aux": 3}, ""),
        ({"fc": 3, "aux": 5}, {"fc": 3, "aux": 5}, ""),
    ],
)
def test_a_renamed_head_next_to_another_is_loaded(
    depth: int, mine: dict[str, int], theirs: dict[str, int], rest: str, tmp_path: Path
) -> None:
    error, path = refusal(depth, mine, theirs, tmp_path)

    rule = shlex.quote('rules={fit: {rename: "fc_param.", to: "fc."}}')
    assert error.hint == f"{rule} {rest}".strip()
    settings: dict[str, Any] = {"rules": {"fit": {"rename": "fc_param.", "to": "fc."}}}
    if rest:
        settings["allow"] = {rest.partition("=")[0].removeprefix("'allow."): ["aux.*"]}
    node = {"_target_": "tests.suggest.test_steps.Headed", "depth": depth, "heads": mine}
    loaded = carry_out(node, path, **settings).model.state_dict()
    assert torch.equal(loaded["fc.weight"], torch.load(path)["fc_param.weight"])


def test_a_head_among_more_names_than_are_sampled_is_found(tmp_path: Path) -> None:
    error, _ = refusal(800, {"fc": 3}, {"fc": 3, "aux": 5}, tmp_path)

    assert error.hint == shlex.join(['rules={fit: {rename: "fc_param.", to: "fc."}}', "allow.unexpected=[aux.*]"])


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_head_of_which_two_may_be_meant_is_offered_twice(depth: int, tmp_path: Path) -> None:
    error, _ = refusal(depth, {"fc": 3}, {"fc": 3, "other": 3}, tmp_path)

    assert error.hint.splitlines() == [
        shlex.join(['rules={fit: {rename: "other.", to: "fc."}}', "allow.unexpected=[fc_param.*]"]),
        shlex.join(['rules={fit: {rename: "fc_param.", to: "fc."}}', "allow.unexpected=[other.*]"]),
    ]


@pytest.mark.parametrize("depth", DEPTHS)
def test_no_head_is_left_random_next_to_one_of_its_looks_that_goes_nowhere(depth: int, tmp_path: Path) -> None:
    error, _ = refusal(depth, {"one": 3, "two": 3}, {"fc": 3}, tmp_path)

    assert error.hint.startswith(NO_WAY)


def test_a_parameter_of_the_model_itself_is_not_left_random_either(tmp_path: Path) -> None:
    state = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)).state_dict()
    save({**state, "first": torch.ones(1, 4), "second": torch.ones(1, 4)}, tmp_path / "file.pt")
    with pytest.raises(FitError) as refused:
        carry_out({"_target_": "tests.suggest.test_steps.with_token"}, tmp_path / "file.pt")

    assert not any("allow.missing" in fix.line for fix in refused.value.fixes)


def with_token() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    model.register_parameter("token", nn.Parameter(torch.zeros(1, 4)))
    return model
