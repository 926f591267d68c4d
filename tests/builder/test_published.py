"""Hugging Face folders: the architecture that their config names, and what it may not name."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import loader
from loader.builder.published import left_out, published
from loader.modes import lines
from loader.report.terminal import print_report
from tests.libraries import library

STUB = """
import torch
from torch import nn


class Config:
    def __init__(self, **values):
        self.__dict__.update(values)


class AutoConfig:
    @classmethod
    def for_model(cls, model_type, **values):
        return Config(model_type=model_type, **values)


class TinyModel(nn.Module):
    def __init__(self, config, pooler: bool = True):
        super().__init__()
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_layers))
        if pooler:
            self.pooler = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens):
        return self.embed(tokens)


class Trainer:
    pass
"""
SETTINGS = {"architectures": ["TinyModel"], "model_type": "tiny", "vocab_size": 9, "hidden_size": 4, "num_layers": 2}


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package in the place of the library."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/transformers.py").write_text(STUB)
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield
    sys.modules.pop("transformers", None)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def folder(tmp_path: Path, *, pooler: bool = False, **settings: Any) -> Path:
    place = tmp_path / "tiny"
    place.mkdir()
    (place / "config.json").write_text(json.dumps(SETTINGS | settings))
    state = {"embed.weight": torch.rand(9, 4)}
    for name in ("layers.0", "layers.1", *(["pooler"] if pooler else [])):
        state |= {f"{name}.weight": torch.rand(4, 4), f"{name}.bias": torch.rand(4)}
    save_file(state, place / "model.safetensors")
    return place


@pytest.mark.usefixtures("stub")
def test_the_config_of_a_folder_becomes_one_that_loads_it(tmp_path: Path) -> None:
    folder(tmp_path, id2label={"0": "a", "1": "b", "2": "c", "3": "d", "4": "e"})
    report = loader.load(["mode=scaffold", "checkpoint.path=tiny"]).report
    text = Path("conf/experiment/tiny.yaml").read_text()

    assert report.written is not None
    assert report.written["open"] == []
    assert text.partition("model:\n")[2] == (
        "  _target_: transformers.TinyModel\n"
        "  config:        # from config.json\n"
        "    _target_: transformers.AutoConfig.for_model\n"
        "    model_type: tiny\n"
        "    vocab_size: 9\n"
        "    hidden_size: 4\n"
        "    num_layers: 2\n"
        "    id2label:\n"
        '      "0": a\n      "1": b\n      "2": c\n      "3": d\n      "4": e\n'
        "  pooler: false  # from the shapes\n"
        "checkpoint:\n"
        "  path: tiny\n"
    )
    written = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(written, dict)
    loaded = loader.load({"model": written["model"], "checkpoint": written["checkpoint"], "device": "cpu"})
    assert loaded.report.keys.loaded == 5


def test_without_the_library_it_is_written_and_said_to_be_untried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loader.modes.scaffold.installed", lambda: False)
    folder(tmp_path)
    report = loader.load(["mode=scaffold", "model=null", "checkpoint.path=tiny"]).report

    assert report.written is not None
    assert report.written["open"] == ["pip install transformers"]
    assert "# Not tried: the model cannot be built" in Path("conf/experiment/tiny.yaml").read_text()


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("name", ["Trainer", "AutoConfig", "NoSuchModel"])
def test_only_a_model_class_of_the_library_is_called(tmp_path: Path, name: str) -> None:
    folder(tmp_path, architectures=[name])
    with pytest.raises(loader.ConfigError):
        loader.load(["mode=scaffold", "checkpoint.path=tiny"])


@pytest.mark.parametrize("name", ["os.system", "pipeline", "a b", "", 3, "Évil"])
def test_a_name_that_no_model_has_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(loader.CheckpointError, match="which cannot be a model of transformers"):
        published(folder(tmp_path, architectures=[name]), 5)


def test_more_layers_than_tensors_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(loader.CheckpointError, match=r"num_layers=1000000, more than the checkpoint has tensors \(5\)"):
        published(folder(tmp_path, num_layers=1_000_000), 5)


def test_what_a_config_would_take_for_more_than_data_is_left_out(tmp_path: Path) -> None:
    hostile: dict[str, Any] = {
        "_target_": "os.system", "auto_map": {"AutoModel": "evil.Net"}, "nested": {"_target_": "os.system", "kept": 1},
        "listed": [{"_args_": [1]}], "unset": "???", "escape": "\x1b[2J", "text": "${oc.env:HOME}", "a.b": 1,
    }  # fmt: skip
    node = published(folder(tmp_path, **hostile), 5)

    assert node is not None
    assert node["config"] == {
        "_target_": "transformers.AutoConfig.for_model", "model_type": "tiny", "vocab_size": 9, "hidden_size": 4,
        "num_layers": 2, "nested": {"kept": 1}, "listed": [{}], "text": "${oc.env:HOME}",
    }  # fmt: skip


CHOICES: dict[str, Any] = {
    "attn_implementation": "org/kernel",
    "_attn_implementation": "org/kernel",
    "experts_implementation": {"": "org/kernel"},
    "use_kernels": True,
    "kernel_config": {"KERNELS": {"RMSNorm": "org/kernel:RMSNorm"}},
    "auto_map": {"AutoModel": "evil.Net"},
    "custom_generate": "org/evil",
    "trust_remote_code": True,
    "quantization_config": {"quant_method": "evil"},
    "backbone": "org/evil",
    "backbone_kwargs": {"checkpoint_path": "evil.bin"},
    "use_timm_backbone": True,
    "pretrained_cfg": {"hf_hub_id": "org/evil"},
    "pretrained_model_name_or_path": "org/evil",
    "text_encoder_name_or_path": "org/evil",
    "checkpoint_path": "evil.bin",
    "weights_url": "https://evil.example",
    "revision": "evil",
    "token": "secret",
    "architecture": "hf-hub:org/evil",
    "arch_with_a_blank": " hf-hub:org/evil",
    "arch_by_another_name": "\u3000hf_hub:org/evil",
    "archs": ["resnet18", "hf-hub:org/evil"],
    "archs_deep": [["resnet18"], [" local-dir:/evil"]],
}
HARMLESS: dict[str, Any] = {
    "conv_kernel": [10, 3],
    "kernel_size": 3,
    "drop_path": 0.1,
    "use_pretrained_backbone": False,
    "backbone": None,
    "use_mamba_kernels": False,
    "image_token": "<image>",
    "hidden_act": "gelu",
    "architecture": "resnet18",
    "archs": ["resnet18", " resnet50"],
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_chooses_code_or_weights_is_left_out_at_every_depth_and_named(tmp_path: Path, name: str) -> None:
    choice = {name: CHOICES[name]}
    place = folder(tmp_path, **choice, text_config={"a": [{**choice, "kept": 1}]})
    node = published(place, 5)

    assert node is not None
    assert node["config"]["text_config"] == {"a": [{"kept": 1}]}
    assert name not in node["config"]
    assert left_out(place) == [name, f"text_config.a.0.{name}"]


def test_what_only_looks_like_it_stays(tmp_path: Path) -> None:
    nested: dict[str, Any] = {"backbone_config": {"model_type": "resnet", "depths": [1, 2]}}
    place = folder(tmp_path, **HARMLESS, **nested)
    node = published(place, 5)

    assert node is not None
    assert {name: node["config"][name] for name in (*HARMLESS, *nested)} == HARMLESS | nested
    assert left_out(place) == []


def test_a_backbone_that_would_be_fetched_is_turned_off(tmp_path: Path) -> None:
    place = folder(tmp_path, use_pretrained_backbone=True)
    node = published(place, 5)

    assert node is not None
    assert node["config"]["use_pretrained_backbone"] is False
    assert left_out(place) == ["use_pretrained_backbone"]


@pytest.mark.usefixtures("stub")
def test_what_is_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder(tmp_path, attn_implementation="org/kernel", text_config={"backbone": "org/evil"})
    report = loader.load(["mode=scaffold", "checkpoint.path=tiny"]).report

    assert report.written is not None
    assert report.written["left_out"] == ["attn_implementation", "text_config.backbone"]
    assert (
        "from config.json without attn_implementation, text_config.backbone, which would choose code or weights"
        in Path("conf/experiment/tiny.yaml").read_text()
    )
    print_report(lines(report))
    told = "left out of config.json, as it would choose code or weights: attn_implementation, text_config.backbone"
    assert told in capsys.readouterr().out


@pytest.mark.usefixtures("stub")
def test_a_text_that_looks_like_an_interpolation_stays_text(tmp_path: Path) -> None:
    folder(tmp_path, text="${oc.env:HOME}", other="\\${x}")
    loader.load(["mode=scaffold", "checkpoint.path=tiny"])
    written = OmegaConf.to_container(OmegaConf.load("conf/experiment/tiny.yaml"), resolve=True)

    assert isinstance(written, dict)
    assert written["model"]["config"]["text"] == "${oc.env:HOME}"


def test_a_config_that_leads_out_of_its_folder_is_not_read(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "config.json").rename(tmp_path / "elsewhere.json")
    (place / "config.json").symlink_to(tmp_path / "elsewhere.json")

    assert published(place, 5) is None


def test_a_damaged_config_is_refused(tmp_path: Path) -> None:
    place = folder(tmp_path)
    (place / "config.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(loader.CheckpointError, match="names 'a' twice"):
        published(place, 5)


def test_a_published_model_class_is_recovered(tmp_path: Path) -> None:
    transformers = library("transformers")
    config = transformers.AutoConfig.for_model(
        "bert", hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=30,
        max_position_embeddings=12,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "bert")
    loader.load(["mode=scaffold", "checkpoint.path=bert"])
    written = OmegaConf.to_container(OmegaConf.load("conf/experiment/bert.yaml"))

    assert isinstance(written, dict)
    assert written["model"]["add_pooling_layer"] is False
    loaded = loader.load({"model": written["model"], "checkpoint": written["checkpoint"], "device": "cpu"})
    assert loaded.report.exit_code == 0
