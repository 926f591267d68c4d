from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from loader.formats.tree import Container, TensorEntry
from loader.suggest.nature import adapter_of, moments_alone
from tests.models import Pair
from tests.suggest.test_refusal import refusal

BASE = Pair().state_dict()


def factors(first: str, second: str, *, prefix: str = "") -> dict[str, torch.Tensor]:
    """A low-rank change of every weight of a `Pair`."""
    state: dict[str, torch.Tensor] = {}
    for name, value in BASE.items():
        if value.dim() == 2:
            module = prefix + name.removesuffix(".weight")
            state |= {
                f"{module}{first}": torch.ones(2, value.shape[1]),
                f"{module}{second}": torch.ones(value.shape[0], 2),
            }
    return state


ADAPTERS: dict[str, tuple[str, dict[str, torch.Tensor], str]] = {
    "peft": ("LoRA", factors(".lora_A.weight", ".lora_B.weight", prefix="base_model.model."), "base_model.model."),
    "peft, in memory": ("LoRA", factors(".lora_A.default.weight", ".lora_B.default.weight"), ""),
    "loralib": ("LoRA", factors(".lora_A", ".lora_B"), ""),
    "diffusers": ("LoRA", factors(".lora.down.weight", ".lora.up.weight"), ""),
    "kohya": ("LoRA", factors(".lora_down.weight", ".lora_up.weight", prefix="lora_unet_"), "lora_unet_"),
}
_FILE = (
    "checkpoint.path=BASE '+adapters={lora: {path: FILE}}'   # FILE is this one, BASE the checkpoint that it changes"
)
ADDED = {
    "peft": "checkpoint.path=BASE '+adapters={lora: {path: FOLDER}}'   # FOLDER is the folder with adapter_config.json "
    "and the weights, BASE the checkpoint that it changes",
    "diffusers": _FILE,
    "kohya": _FILE,
}
"""The lines for those that show their factor, or may have a config that does."""


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("settings", [{}, {"rules": "auto"}, {"checkpoint": {"key": "auto"}, "rules": "auto"}])
def test_an_adapter_alone_is_named(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    kind, state, prefix = ADAPTERS[name]

    error = refusal("Pair", state, tmp_path, **settings)

    modules = f"{prefix}backbone.first, {prefix}backbone.second, {prefix}head"
    assert error.message.splitlines()[-1] == (
        f"the file is a {kind} adapter for 3 modules ({modules}, rank 2), without the weights that it changes"
    )
    lines = error.hint.splitlines()
    assert lines[:-2] == ([ADDED[name]] if name in ADDED else [])
    assert lines[-2:] == [
        "checkpoint.path=…   # a file with merged weights",
        "model.merge_and_unload().save_pretrained('FOLDER')   # in peft, writes one",
    ]


def test_a_nested_adapter_is_named_with_its_place(tmp_path: Path) -> None:
    error = refusal("Pair", {"adapter": ADAPTERS["peft"][1], "step": 3}, tmp_path)

    assert "the file's 'adapter' is a LoRA adapter for 3 modules" in error.message


def test_weights_next_to_their_adapter_are_offered_without_it_and_said_to_be(tmp_path: Path) -> None:
    base = {f"{key.rpartition('.')[0]}.base_layer.{key.rpartition('.')[2]}": value for key, value in BASE.items()}

    for file in (base, BASE):
        error = refusal("Pair", file | ADAPTERS["peft, in memory"][1], tmp_path)

        assert "6 of 6 keys would be loaded this way: " in error.message
        assert "the LoRA adapter of the file is not applied" in error.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("unet.q.hada_w1_a", "LoHa"),
        ("unet.q.lokr_w1", "LoKr"),
        ("h.0.attn.ia3_l.default", "IA3"),
        ("h.0.attn.vera_lambda_b", "VeRA"),
        ("h.0.attn.oft_r", "OFT"),
        ("h.0.attn.lora_magnitude_vector", "DoRA"),
        ("prompt_embeddings", "prompt-tuning"),
        ("h.0.attn.lora_embedding_A.default", "LoRA"),
        ("unet.to_q_lora.down.weight", "LoRA"),
        ("explorer.alora_Ab", None),
        ("loft_r.weight", None),
        ("flora.weight", None),
        ("encoder.down.weight", None),
    ],
)
def test_adapters_are_recognised_by_names_that_only_they_have(name: str, kind: str | None) -> None:
    assert adapter_of([name]) == kind


def test_names_of_any_length_take_no_time() -> None:
    assert adapter_of(["lora_" * 1_000_000]) is None


def test_a_file_of_gradients_is_said_to_hold_no_weights() -> None:
    tensors = {"fc.weight": TensorEntry("float32", (2, 2)), "fc.bias": TensorEntry("float32", (2,))}
    found = moments_alone(Container("dict", "dict", {"grads": Container("dict", "dict", dict(tensors))}))

    assert found is not None
    assert found.remark == "the file holds the state of an optimizer, or gradients, and no weights"
