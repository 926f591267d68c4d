"""Changes of an adapter that land on tensors which the model does not take: refused, whatever is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from tests.parts.adapters.made import Net, base, normal, pair, peft
from tests.parts.adapters.test_refusals import refused


def refused_with(file: Path, adapters: dict[str, Any], **settings: Any) -> loader.LoaderError:
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(loader.FitError) as caught:
        loader.load_into(net, file, adapters=adapters, **settings)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert caught.value.exit_code == 4
    return caught.value


@pytest.mark.parametrize("scale", [1.0, 0.0])
def test_a_change_of_an_unexpected_tensor_is_refused(tmp_path: Path, scale: float) -> None:
    file, _ = base(tmp_path, **{"extra.weight": normal(3, 3)})
    folder = peft(tmp_path / "lora", pair("block.to_q") | pair("extra"))
    lora = {"path": str(folder), "scale": scale}
    allow = {"unexpected": ["extra.*"]}
    refusal = refused_with(file, {"lora": lora}, allow=allow)
    assert refusal.message == (
        f"the adapter 'lora' ({folder}/adapter_model.safetensors) changes 1 tensor that the model does not take: "
        "extra.weight (unexpected)"
    )
    assert refusal.hint == "'+adapters.lora.rules={rest: {drop: extra}}'   # leaves it out"
    lora["rules"] = {"rest": {"drop": "extra"}}
    report = loader.load_into(Net(), file, adapters={"lora": lora}, allow=allow)
    assert report.parts[""].adapters[0]["hits"] == 1


def test_a_change_of_a_tensor_of_another_size_is_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path, **{"out.weight": normal(5, 3), "out.bias": normal(5)})
    folder = peft(tmp_path / "lora", pair("out", 5) | pair("block.to_q"))
    refusal = refused_with(file, {"lora": {"path": str(folder)}}, allow={"mismatched": ["out.*"]})
    assert "changes 1 tensor that the model does not take: out.weight (of another size)" in refusal.message


def test_a_replacement_that_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    folder = peft(tmp_path / "lora", pair("block.to_q") | {"base_model.model.out.weight": normal(5, 3)})
    refusal = refused_with(file, {"lora": {"path": str(folder)}}, allow={"mismatched": ["out.*"]})
    assert "out.weight (of another size)" in refusal.message


def test_a_change_of_another_parts_tensor_is_refused(tmp_path: Path) -> None:
    file, state = base(tmp_path)
    torch.save({key.removeprefix("block."): value for key, value in state.items() if "block" in key}, tmp_path / "b.pt")
    folder = peft(tmp_path / "lora", pair("block.to_q") | pair("block.to_k"))
    parts = {"block": {"path": str(tmp_path / "b.pt")}}
    with pytest.raises(loader.FitError) as caught:
        loader.load_into(Net(), file, parts=parts, adapters={"lora": {"path": str(folder)}})
    assert "changes 2 tensors that the model does not take: block.to_k.weight (of another part)" in caught.value.message
    assert caught.value.hint == (
        "'+adapters.lora.rules={rest: {drop: block.to_k}, rest1: {drop: block.to_q}}'   # leaves them out"
    )


def test_a_tensor_that_is_not_allowed_is_refused_as_ever(tmp_path: Path) -> None:
    file, _ = base(tmp_path, **{"extra.weight": normal(3, 3)})
    refusal = refused(file, loader.FitError, lora={"path": str(peft(tmp_path / "lora", pair("extra")))})
    assert "adapter" not in refusal.message.splitlines()[0]


def test_a_base_that_the_adapter_makes_whole_is_taken(tmp_path: Path) -> None:
    file, _ = base(tmp_path, **{"out.weight": normal(5, 3), "out.bias": normal(5)})
    whole = {"base_model.model.out.weight": normal(2, 3), "base_model.model.out.bias": normal(2)}
    net = Net()
    loader.load_into(net, file, adapters={"lora": {"path": str(peft(tmp_path / "lora", pair("block.to_q") | whole))}})
    assert isinstance(net.out, nn.Linear)
    assert torch.equal(net.out.weight, whole["base_model.model.out.weight"])
