"""Factors in the header of a file, and quantized weights in an adapter."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import loader
from tests.command import REPOSITORY, run_loader
from tests.parts.adapters.made import Net, base, normal, pair, peft

DOWN, UP = normal(2, 3), normal(3, 2, seed=1)
PRODUCT = {"unet.block.to_q.lora_A.weight": DOWN, "unet.block.to_q.lora_B.weight": UP}
STRIP = {"net": {"strip": "unet."}}


def loaded(folder: Path, tensors: dict[str, torch.Tensor], **notes: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Loads an adapter with notes in its header; returns what it adds to `block.to_q`, and its report."""
    file, state = base(folder)
    texts = {name: note if isinstance(note, str) else json.dumps(note) for name, note in notes.items()}
    save_file(tensors, folder / "lora.safetensors", metadata=texts)
    net = Net()
    report = loader.load_into(net, file, adapters={"lora": {"path": str(folder / "lora.safetensors"), "rules": STRIP}})
    return net.state_dict()["block.to_q.weight"] - state["block.to_q.weight"], report.parts[""].adapters[0]


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"unet.r": 2, "unet.lora_alpha": 32}, 16),
        ({"r": 2, "lora_alpha": 32}, 16),
        ({"unet.r": 2, "unet.lora_alpha": 8, "unet.use_rslora": True}, 8 / 2**0.5),
        ({"unet.r": 1, "unet.lora_alpha": 8, "unet.rank_pattern": {"to_q": 2}}, 4),
        ({"unet.r": 2, "unet.lora_alpha": 8, "unet.alpha_pattern": {"block.to_q": 2}, "unet.bias": None}, 1),
    ],
)
def test_factors_of_the_header_are_taken(tmp_path: Path, settings: dict[str, Any], factor: float) -> None:
    added, _ = loaded(tmp_path, PRODUCT, lora_adapter_metadata=settings)
    torch.testing.assert_close(added, factor * (UP @ DOWN), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unet.r": 3, "unet.lora_alpha": 32}, "block.to_q has rank 2, the config says 3"),
        ({"unet.r": 0}, "r is 0, expected a whole number from 1"),
        ({"unet.r": 2, "unet.use_dora": True}, "it has no lora_magnitude_vector"),
        ({"unet.r": 2, "unet.use_qalora": True}, "sets use_qalora, which is unsupported"),
        ({"unet.r": 2, "unet.peft_type": "LOHA"}, "says peft_type=LOHA, which is unsupported"),
        ({"unet.r": 2, "text_encoder.r": 2}, "has settings for text_encoder, and the file has no products of it"),
        ("[1]", "is invalid: it is not a mapping"),
        ("{", "is invalid: it is not JSON"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: Any, said: str) -> None:
    with pytest.raises(loader.CheckpointError) as caught:
        loaded(tmp_path, PRODUCT, lora_adapter_metadata=settings)
    assert said in caught.value.message
    assert "lora.safetensors" in caught.value.message


def test_two_alphas_of_one_product_are_refused(tmp_path: Path) -> None:
    tensors = PRODUCT | {"unet.block.to_q.alpha": torch.tensor(1.0)}
    with pytest.raises(loader.CheckpointError) as caught:
        loaded(tmp_path, tensors, lora_adapter_metadata={"unet.r": 2, "unet.lora_alpha": 2})
    assert "it has an alpha, and the header of the file has another one (lora_adapter_metadata)" in caught.value.message


def test_an_alpha_of_kohyas_header_is_reported(tmp_path: Path) -> None:
    added, said = loaded(tmp_path, PRODUCT, ss_network_alpha="1", ss_network_dim="2")
    torch.testing.assert_close(added, UP @ DOWN)
    assert said["note"] == (
        "the header says ss_network_alpha=1 and ss_network_dim=2; without an alpha among the tensors the factor is 1, "
        "and scale may set another"
    )
    assert loaded(tmp_path, PRODUCT, ss_network_alpha="2", ss_network_dim="2")[1]["note"] == ""


@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("scheme", ["int8", "SCB", "fp8"])
def test_quantized_weights_of_an_adapter_are_refused(tmp_path: Path, scheme: str, *, dropped: bool) -> None:
    file, _ = base(tmp_path)
    name, end = "base_model.model.out", {"int8": "weight_scale", "SCB": "SCB", "fp8": "weight_scale"}[scheme]
    codes = torch.ones(2, 3).to(torch.float8_e4m3fn if scheme == "fp8" else torch.int8)
    tensors = pair("block.to_q") | {f"{name}.weight": codes, f"{name}.{end}": torch.rand(2)}
    lora = peft(tmp_path / "lora", tensors)
    rules: dict[str, Any] = {"rest": {"drop": f"out.{end}"}} if dropped else {}
    net = Net()
    with pytest.raises(loader.FitError) as caught:
        loader.load_into(
            net,
            file,
            allow={"missing": ["*"], "unexpected": ["*"]},
            adapters={"lora": {"path": str(lora), "rules": rules}},
        )
    assert f"the adapter 'lora' ({lora}/adapter_model.safetensors) is quantized: " in caught.value.message
    fix = caught.value.fixes[0].line
    assert fix.startswith(
        "adapters.lora.path=" if scheme == "int8" else f"'{'' if dropped else '+'}adapters.lora.rules={{"
    )
    if scheme == "int8":
        return
    words = ["+adapters={lora: {path: lora}}", *(["+adapters.lora.rules={rest: {drop: out." + end + "}}"] * dropped)]
    done = run_loader(
        "model._target_=tests.parts.adapters.made.Net",
        "verify.forward=false",
        f"checkpoint.path={file}",
        *words,
        *shlex.split(fix),
        cwd=tmp_path,
        PYTHONPATH=str(REPOSITORY),
    )
    assert done.code == 0, done.err


def test_an_adapter_of_which_rules_leave_nothing_is_refused(tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    lora = peft(tmp_path / "lora", pair("block.to_q"))
    with pytest.raises(loader.FitError) as caught:
        loader.load_into(Net(), file, adapters={"lora": {"path": str(lora), "rules": {"all": {"drop": "*"}}}})
    assert caught.value.message == (
        f"the adapter 'lora' ({lora}/adapter_model.safetensors) changes nothing: its rules leave none of its 1 change"
    )
