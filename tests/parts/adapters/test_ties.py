"""Tied names that an adapter changes: together, or not at all."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import loader
from tests.command import REPOSITORY, run_loader
from tests.parts.adapters.made import Tensors, normal, pair, peft


class Tied(nn.Module):
    """Words that are also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.inner = nn.Linear(4, 4, bias=False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight


BASE = {"words.weight": normal(7, 4, seed=1), "inner.weight": normal(4, 4, seed=2)}
NAME = "base_model.model."


def loaded(folder: Path, tensors: Tensors, config: dict[str, Any], **adapter: Any) -> tuple[Tied, loader.Report]:
    torch.save(BASE, folder / "base.pt")
    lora = peft(folder / "lora", tensors, **config)
    net = Tied()
    report = loader.load_into(net, folder / "base.pt", adapters={"lora": {"path": str(lora), **adapter}})
    assert net.head.weight is net.words.weight
    return net, report


def whole(name: str, seed: int) -> dict[str, torch.Tensor]:
    return {f"{NAME}{name}": normal(7, 4, seed=seed)}


def from_the_shell(folder: Path, fix: str) -> None:
    done = run_loader(
        "model._target_=tests.parts.adapters.test_ties.Tied",
        "verify.forward=false",
        "checkpoint.path=base.pt",
        "+adapters={lora: {path: lora}}",
        *shlex.split(fix),
        cwd=folder,
        PYTHONPATH=str(REPOSITORY),
    )
    assert done.code == 0, done.err


def test_two_replacements_of_one_tensor_are_refused(tmp_path: Path) -> None:
    tensors = pair("inner", 4, 4) | whole("words.weight", 3) | whole("head.weight", 4)
    with pytest.raises(loader.FitError) as caught:
        loaded(tmp_path, tensors, {})
    assert caught.value.message == (
        "the model ties names that hold different values in the adapter 'lora' "
        f"({tmp_path}/lora/adapter_model.safetensors): words.weight and head.weight"
    )
    (fix,) = caught.value.fixes
    assert fix.line == "'+adapters.lora.rules={untie: {drop: head.weight}}'"
    from_the_shell(tmp_path, fix.line)


def test_two_replacements_of_the_same_values_are_one(tmp_path: Path) -> None:
    tensors = pair("inner", 4, 4) | whole("words.weight", 3) | whole("head.weight", 3)
    net, report = loaded(tmp_path, tensors, {})
    assert torch.equal(net.words.weight, normal(7, 4, seed=3))
    assert report.parts[""].adapters[0]["note"] == ""


def test_a_product_is_added_to_both_of_two_replacements(tmp_path: Path) -> None:
    table = {f"{NAME}words.lora_embedding_A": normal(2, 7), f"{NAME}words.lora_embedding_B": normal(4, 2)}
    tensors = table | whole("words.base_layer.weight", 3) | whole("head.weight", 3)
    net, _ = loaded(tmp_path, tensors, {})
    added = 2 * (table[f"{NAME}words.lora_embedding_B"] @ table[f"{NAME}words.lora_embedding_A"]).T
    torch.testing.assert_close(net.words.weight, normal(7, 4, seed=3) + added)


def test_a_product_for_one_name_and_a_replacement_of_the_other_are_refused(tmp_path: Path) -> None:
    tensors = pair("head", 7, 4) | whole("words.weight", 3)
    with pytest.raises(loader.FitError) as caught:
        loaded(tmp_path, tensors, {})
    assert caught.value.message == (
        f"the adapter 'lora' ({tmp_path}/lora/adapter_model.safetensors) changes names apart that the model ties: it "
        "adds to head.weight and replaces words.weight"
    )
    lines = [fix.line for fix in caught.value.fixes if fix.line]
    assert lines == [
        "'+adapters.lora.rules={once: {drop: head}}'",
        "'+adapters.lora.rules={once: {drop: words.weight}}'",
    ]
    for line in lines:
        from_the_shell(tmp_path, line)


def test_a_replacement_of_one_name_says_that_the_other_takes_it_too(tmp_path: Path) -> None:
    tensors = pair("inner", 4, 4) | whole("words.weight", 3)
    net, report = loaded(tmp_path, tensors, {})
    assert torch.equal(net.words.weight, normal(7, 4, seed=3))
    assert report.parts[""].adapters[0]["note"] == (
        "replaces a tensor that the model ties to others, which take it too: words.weight (head.weight); in PEFT these "
        "keep the values of the base"
    )
    _, tied = loaded(tmp_path, tensors, {"ensure_weight_tying": True})
    assert tied.parts[""].adapters[0]["note"] == ""
    _, none = loaded(tmp_path, tensors, {}, scale=0.0)
    assert none.parts[""].adapters[0]["note"] == ""


def test_products_for_both_names_are_both_added(tmp_path: Path) -> None:
    table = {f"{NAME}words.lora_embedding_A": normal(2, 7), f"{NAME}words.lora_embedding_B": normal(4, 2)}
    head = pair("head", 7, 4)
    net, _ = loaded(tmp_path, table | head, {})
    one = (table[f"{NAME}words.lora_embedding_B"] @ table[f"{NAME}words.lora_embedding_A"]).T
    two = head[f"{NAME}head.lora_B.weight"] @ head[f"{NAME}head.lora_A.weight"]
    torch.testing.assert_close(net.words.weight, BASE["words.weight"] + 2 * one + 2 * two)


def test_one_product_under_both_names_is_added_once(tmp_path: Path) -> None:
    head = pair("head", 7, 4)
    down, up = head[f"{NAME}head.lora_A.weight"], head[f"{NAME}head.lora_B.weight"]
    table = {f"{NAME}words.lora_embedding_A": up.T.contiguous(), f"{NAME}words.lora_embedding_B": down.T.contiguous()}
    net, report = loaded(tmp_path, table | head, {"ensure_weight_tying": True})
    torch.testing.assert_close(net.words.weight, BASE["words.weight"] + 2 * (up @ down))
    assert report.parts[""].adapters[0]["note"] == (
        "was trained with tied names as one tensor (ensure_weight_tying), so this is added once: words.weight"
    )


@pytest.mark.parametrize("config", [{}, {"alpha_pattern": {"head": 9}}])
def test_two_products_of_what_was_trained_as_one_tensor_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    head = pair("head", 7, 4)
    down, up = head[f"{NAME}head.lora_A.weight"], head[f"{NAME}head.lora_B.weight"]
    up = up.T.contiguous() if config else up.T.contiguous() + 1
    table = {f"{NAME}words.lora_embedding_A": up, f"{NAME}words.lora_embedding_B": down.T.contiguous()}
    with pytest.raises(loader.LoaderError) as caught:
        loaded(tmp_path, table | head, {"ensure_weight_tying": True, **config})
    assert caught.value.exit_code == (4 if config else 3)
    assert "trained with tied names as one tensor" in caught.value.message
    assert "differently" in caught.value.message


def test_one_module_under_two_names_is_refused(tmp_path: Path) -> None:
    torch.save(BASE, tmp_path / "base.pt")
    down, up = normal(2, 4), normal(4, 2)
    tensors = {"lora_unet_inner.lora_down.weight": down, "lora_unet_inner.lora_up.weight": up}
    tensors |= {"inner.lora_A.weight": down.clone(), "inner.lora_B.weight": up.clone()}
    save_file(tensors, tmp_path / "lora")
    with pytest.raises(loader.FitError) as caught:
        loader.load_into(Tied(), tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora")}})
    assert caught.value.message == (
        f"the adapter 'lora' ({tmp_path}/lora) changes 1 tensor twice: inner and lora_unet_inner both mean inner.weight"
    )
    assert caught.value.fixes[0].line == "'+adapters.lora.rules={once: {drop: inner}}'"
    from_the_shell(tmp_path, caught.value.fixes[1].line)


def test_names_of_kohya_reach_all_names_of_a_tensor(tmp_path: Path) -> None:
    torch.save(BASE | {"head.weight": BASE["words.weight"]}, tmp_path / "base.pt")
    down, up = normal(2, 4), normal(7, 2)
    tensors = {"lora_unet_head.lora_down.weight": down, "lora_unet_head.lora_up.weight": up}
    save_file(tensors, tmp_path / "lora.safetensors")
    net = Tied()
    loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora.safetensors")}})
    torch.testing.assert_close(net.words.weight, BASE["words.weight"] + up @ down)
