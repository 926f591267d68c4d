"""The line to type for classes of timm and transformers, where these are installed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import loader
from tests.jobs import save
from tests.libraries import library
from tests.suggest.corpus import State, filled

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32, "vocab_size": 40}


def bert(kind: str) -> torch.nn.Module:
    """A tiny BERT; configs name this function."""
    transformers = library("transformers")
    network: torch.nn.Module = getattr(transformers, kind)(transformers.BertConfig(**SMALL))
    return network


def solve(node: dict[str, Any], file: Any, path: Path) -> dict[str, torch.Tensor]:
    """What the model holds once the only line of the refusal was pasted."""
    save(file, path)
    settings = [f"checkpoint.path={path}", "device=cpu", "verify.forward=false"]
    typed = [f"model={{{', '.join(f'{key}: {value}' for key, value in node.items())}}}", *settings]
    with pytest.raises(loader.FitError) as refused:
        loader.load(typed)
    (line,) = refused.value.hint.splitlines()
    return loader.load([*typed, *shlex.split(line)]).model.state_dict()


def assert_holds(state: dict[str, torch.Tensor], expected: State) -> None:
    assert [key for key, value in expected.items() if not torch.equal(state[key], value)] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
def test_networks_of_timm_in_training_checkpoints(name: str, tmp_path: Path) -> None:
    timm = library("timm")
    state = filled(timm.create_model(name, num_classes=7))
    file = {"epoch": 3, "arch": name, "state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}}
    node = {"_target_": "timm.create_model", "model_name": name, "num_classes": 7}

    assert_holds(solve(node, file, tmp_path / "last.pth.tar"), state)


def test_a_classifier_takes_the_encoder_of_a_plain_bert(tmp_path: Path) -> None:
    state = filled(bert("BertModel"))
    node = {"_target_": "tests.suggest.test_published_classes.bert", "kind": "BertForSequenceClassification"}

    held = solve(node, state, tmp_path / "bert.pt")

    assert_holds(held, {f"bert.{key}": value for key, value in state.items()})


def test_a_plain_bert_takes_the_encoder_of_a_language_model(tmp_path: Path) -> None:
    state = filled(bert("BertForPreTraining"))
    node = {"_target_": "tests.suggest.test_published_classes.bert", "kind": "BertModel"}

    held = solve(node, {"model": state}, tmp_path / "bert.pt")

    assert_holds(held, {key.removeprefix("bert."): value for key, value in state.items() if key.startswith("bert.")})


def test_networks_of_different_depth_do_not_belong_together(tmp_path: Path) -> None:
    timm = library("timm")
    path = save(filled(timm.create_model("resnet34", num_classes=7)), tmp_path / "resnet34.pth")
    node = "model={_target_: timm.create_model, model_name: resnet18, num_classes: 7}"

    with pytest.raises(loader.FitError, match="different depth: layer1") as refused:
        loader.load([node, f"checkpoint.path={path}", "device=cpu", "verify.forward=false"])

    assert refused.value.hint.startswith("checkpoint.path=…   # another file: no nested key or rule")
