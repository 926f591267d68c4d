"""Adapters of PEFT, merged as PEFT itself merges them in float32."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import loader
from tests.libraries import library

pytestmark = pytest.mark.slow

SCALE_OF_VALUES = 0.3


class Turned(nn.Module):
    """A layer of GPT-2: its weight is [in, out]."""

    def __init__(self, out: int, width: int) -> None:
        super().__init__()
        conv: Any = library("transformers").pytorch_utils.Conv1D
        self.turned = conv(out, width)


class Net(nn.Module):
    """One layer of each kind that PEFT adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6)
        self.block = nn.ModuleDict({"q": nn.Linear(6, 4), "k": nn.Linear(6, 4, bias=False), "v": nn.Linear(6, 6)})
        self.line = nn.Conv1d(3, 4, 2)
        self.image = nn.Conv2d(3, 5, 3)
        self.point = nn.Conv2d(3, 5, 1)
        self.solid = nn.Conv3d(2, 3, 2)
        self.head = nn.Linear(4, 2)


@pytest.fixture(scope="module")
def peft() -> ModuleType:
    return library("peft")


def adapted(peft: ModuleType, model: nn.Module, folder: Path, **settings: Any) -> nn.Module:
    """Trains an adapter, so to speak, and saves base and adapter; returns the model that PEFT merges."""
    torch.save(model.state_dict(), folder / "base.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**settings))
        generator = torch.Generator().manual_seed(1)
        for parameter in made.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn(parameter.shape, generator=generator) * SCALE_OF_VALUES
        made.save_pretrained(folder / "lora")
        merged: nn.Module = made.merge_and_unload()
    return merged


def assert_same(one: nn.Module, other: nn.Module) -> None:
    expected, found = other.state_dict(), one.state_dict()
    assert found.keys() == expected.keys()
    for key in found:
        assert torch.allclose(found[key], expected[key], rtol=1e-6, atol=1e-6), key


ALL = ["words", "q", "k", "v", "line", "image", "point", "solid"]
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {"r": 2, "lora_alpha": 4, "target_modules": ALL},
    "rslora": {"r": 4, "lora_alpha": 3, "use_rslora": True, "target_modules": ALL},
    "dora": {"r": 2, "lora_alpha": 4, "use_dora": True, "target_modules": ALL},
    "patterns": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ALL,
        "rank_pattern": {"q": 3, "block.v": 1, ".*image": 4},
        "alpha_pattern": {"^block.k": 7, "(line|solid)": 5},
    },
    "patterns with dots": {
        "r": 2, "target_modules": ["q", "k", "v"], "rank_pattern": {"block..": 3}, "alpha_pattern": {".": 7}
    },
    "patterns of rslora": {
        "r": 2, "use_rslora": True, "target_modules": ALL, "rank_pattern": {"block.q": 3}, "alpha_pattern": {"q": 9}
    },
    "bias of the product": {"r": 2, "lora_bias": True, "target_modules": ["q", "v", "image"]},
    "all biases": {"r": 2, "bias": "all", "target_modules": ["q", "v", "image"]},
    "their biases": {"r": 2, "bias": "lora_only", "target_modules": ["q", "v", "image"]},
    "modules to save": {"r": 2, "target_modules": ["q"], "modules_to_save": ["head", "image"]},
}  # fmt: skip


@pytest.mark.parametrize("settings", FEATURES.values(), ids=FEATURES)
def test_merges_as_peft_does(peft: ModuleType, tmp_path: Path, settings: dict[str, Any]) -> None:
    expected = adapted(peft, Net(), tmp_path, **settings)
    net = Net()
    report = loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora")}})
    assert_same(net, expected)
    changed = {one["key"] for one in report.keys.derived}
    assert {
        f"{name}.weight" for name, one in net.named_modules() if name.split(".")[-1] in settings["target_modules"]
    } <= changed


def test_weights_that_are_in_by_out(peft: ModuleType, tmp_path: Path) -> None:
    for out, use_dora in ((9, False), (6, False), (9, True), (6, True)):
        folder = tmp_path / f"{out}{use_dora}"
        folder.mkdir()
        expected = adapted(
            peft, Turned(out, 6), folder, r=2, fan_in_fan_out=True, target_modules=["turned"], use_dora=use_dora
        )
        net = Turned(out, 6)
        loader.load_into(net, folder / "base.pt", adapters={"lora": {"path": str(folder / "lora")}})
        assert_same(net, expected)


class MixedLayers(nn.Module):
    """Layers of both orders, of which PEFT saves one flag."""

    def __init__(self) -> None:
        super().__init__()
        conv: Any = library("transformers").pytorch_utils.Conv1D
        self.square, self.wide = conv(6, 6), conv(9, 6)
        self.head = nn.Linear(6, 6)


def test_layers_of_both_orders_in_one_model(peft: ModuleType, tmp_path: Path) -> None:
    for use_dora in (False, True):
        folder = tmp_path / str(use_dora)
        folder.mkdir()
        names = ["square", "wide", "head"]
        expected = adapted(peft, MixedLayers(), folder, r=2, target_modules=names, use_dora=use_dora)
        net = MixedLayers()
        loader.load_into(net, folder / "base.pt", adapters={"lora": {"path": str(folder / "lora")}})
        assert_same(net, expected)


def test_two_adapters_are_added_in_order(peft: ModuleType, tmp_path: Path) -> None:
    net = Net()
    made = adapted(peft, net, tmp_path, r=2, target_modules=["q", "image"])
    second = tmp_path / "second"
    second.mkdir()
    expected = adapted(peft, made, second, r=3, lora_alpha=5, target_modules=["q", "words"], modules_to_save=["head"])
    loader.load_into(
        net,
        tmp_path / "base.pt",
        adapters={"a": {"path": str(tmp_path / "lora")}, "b": {"path": str(second / "lora")}},
    )
    assert_same(net, expected)


def test_half_the_difference(peft: ModuleType, tmp_path: Path) -> None:
    base = Net()
    for dora in (False, True):
        folder = tmp_path / str(dora)
        folder.mkdir()
        whole = adapted(peft, base, folder, r=2, use_dora=dora, target_modules=ALL).state_dict()
        net = Net()
        loader.load_into(net, folder / "base.pt", adapters={"lora": {"path": str(folder / "lora"), "scale": 0.5}})
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, (base.state_dict()[key] + whole[key]) / 2, rtol=1e-5, atol=1e-6)


def test_an_adapter_of_a_transformer(peft: ModuleType, tmp_path: Path) -> None:
    transformers: Any = library("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, vocab_size=40
    )
    make: Callable[[], nn.Module] = lambda: transformers.BertForSequenceClassification(config)  # noqa: E731
    expected = adapted(peft, make(), tmp_path, r=2, task_type="SEQ_CLS", target_modules=["query", "dense"])
    net = make()
    loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora")}})
    assert_same(net, expected)


def test_a_head_that_the_base_lacks_comes_from_the_adapter(peft: ModuleType, tmp_path: Path) -> None:
    expected = adapted(peft, Net(), tmp_path, r=2, target_modules=["q"], modules_to_save=["head"])
    state = torch.load(tmp_path / "base.pt", weights_only=True)
    del state["head.weight"], state["head.bias"]
    torch.save(state, tmp_path / "base.pt")
    net = Net()
    loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora"), "scale": 0.0}})
    torch.testing.assert_close(net.head.weight, expected.get_submodule("head").weight)


def test_an_adapter_of_gpt2_whose_layers_are_turned_and_whose_head_is_tied(peft: ModuleType, tmp_path: Path) -> None:
    transformers: Any = library("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=8)
    make: Callable[[], nn.Module] = lambda: transformers.GPT2LMHeadModel(config)  # noqa: E731
    expected = adapted(
        peft, make(), tmp_path, r=2, fan_in_fan_out=True, target_modules=["c_attn", "c_proj", "wte"], use_rslora=True
    )
    net = make()
    loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora")}})
    assert_same(net, expected)


def test_embeddings_that_the_adapter_holds_whole(peft: ModuleType, tmp_path: Path) -> None:
    transformers: Any = library("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=40
    )
    model = transformers.BertModel(config)
    torch.save(model.state_dict(), tmp_path / "base.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules=["word_embeddings"]))
        for parameter in made.parameters():
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * SCALE_OF_VALUES
        made.save_pretrained(tmp_path / "lora", save_embedding_layers=True)
        expected = made.merge_and_unload().get_submodule("embeddings.word_embeddings").weight
    net = transformers.BertModel(config)
    report = loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora")}})
    found = net.get_submodule("embeddings.word_embeddings").weight
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert [len(one["sources"]) for one in report.keys.derived] == [4]


def test_a_base_in_bfloat16_is_rounded_once(peft: ModuleType, tmp_path: Path) -> None:
    exact = adapted(peft, Net().bfloat16().float(), tmp_path, r=2, target_modules=["q", "words"]).state_dict()
    net = Net().bfloat16()
    loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(tmp_path / "lora")}})
    for key, value in net.state_dict().items():
        assert (value.float() - exact[key]).abs().max() <= 2**-8 * exact[key].abs().max(), key
