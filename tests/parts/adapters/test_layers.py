"""Which way the weight of a layer lies: its class knows, a rule may say, and a square shape does not show it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from tests.command import REPOSITORY, run_loader
from tests.parts.adapters.made import change, normal, pair, peft


class Conv1D(nn.Module):
    """A linear layer whose weight is [in, out]; named as that of transformers."""

    def __init__(self, out: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, out))


Conv1D.__module__ = "transformers.pytorch_utils"


class Own(nn.Module):
    """The same, of a class that nobody knows."""

    def __init__(self, out: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, out))


class Mixed(nn.Module):
    """Layers of both kinds."""

    def __init__(self, turned: type[nn.Module] = Own) -> None:
        super().__init__()
        self.square = turned(4, 4)
        self.wide = turned(6, 4)
        self.head = nn.Linear(4, 4, bias=False)


PAIRS = pair("square", 4, 4) | pair("wide", 6, 4) | pair("head", 4, 4)


def saved(folder: Path, **config: Any) -> tuple[Path, dict[str, Any]]:
    torch.save({"square.weight": normal(4, 4), "wide.weight": normal(4, 6), "head.weight": normal(4, 4)}, folder / "b")
    return folder / "b", {"lora": {"path": str(peft(folder / "lora", PAIRS, **config))}}


@pytest.mark.parametrize("flag", [False, True])
def test_the_class_of_a_layer_decides_as_in_peft(tmp_path: Path, *, flag: bool) -> None:
    file, adapters = saved(tmp_path, fan_in_fan_out=flag)
    net = Mixed(Conv1D)
    loader.load_into(net, file, adapters=adapters)
    for name, turned in (("square", True), ("wide", True), ("head", False)):
        added = 2 * change(PAIRS, name)
        base = torch.load(file)[f"{name}.weight"]
        torch.testing.assert_close(net.state_dict()[f"{name}.weight"], base + (added.T if turned else added))


def test_the_magnitudes_of_dora_lie_as_the_layer_does(tmp_path: Path) -> None:
    names = {f"base_model.model.{name}.lora_magnitude_vector": torch.rand(4) for name in ("square", "head")}
    tensors = pair("square", 4, 4) | pair("head", 4, 4) | names
    found = []
    for flag in (False, True):
        file, _ = saved(tmp_path)
        lora = peft(tmp_path / str(flag), tensors, use_dora=True, fan_in_fan_out=flag)
        net = Mixed(Conv1D)
        loader.load_into(net, file, adapters={"lora": {"path": str(lora)}})
        found.append(net.state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_rule_has_the_last_word(tmp_path: Path) -> None:
    file, adapters = saved(tmp_path)
    adapters["lora"]["rules"] = {"turned": {"rearrange": "head", "pattern": "i o -> o i"}}
    net = Mixed(Conv1D)
    loader.load_into(net, file, adapters=adapters)
    torch.testing.assert_close(net.head.weight, normal(4, 4) + 2 * change(PAIRS, "head").T)


def test_both_readings_are_offered_where_no_class_says_it(tmp_path: Path) -> None:
    file, adapters = saved(tmp_path)
    with pytest.raises(loader.FitError) as caught:
        loader.load_into(Mixed(), file, adapters=adapters)
    one, both = caught.value.fixes
    assert one.line == "'+adapters.lora.rules={turned: {rearrange: wide, pattern: \"i o -> o i\"}}'"
    assert one.note == "leaves the square ones as they are: head, square"
    assert both.line == "'+adapters.lora.rules={turned: {rearrange: *, pattern: \"i o -> o i\"}}'"
    assert both.note == "turns the square ones too: head, square"
    for fix in (one, both):
        done = run_loader(
            "model._target_=tests.parts.adapters.test_layers.Mixed",
            "verify.forward=false",
            f"checkpoint.path={file}",
            f"+adapters={{lora: {{path: {adapters['lora']['path']}}}}}",
            *shlex.split(fix.line),
            cwd=tmp_path,
            PYTHONPATH=str(REPOSITORY),
        )
        assert done.code == 0, done.err
