"""The tiny architectures are those of the libraries whose files they load."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import nn

from loader.examples import TinyBert, TinyGPT2, TinyLlama, TinyViT
from loader.examples.models.tiny import rotated
from loader.examples.tensor_files import contents
from tests.libraries import library

TOKENS = torch.arange(14).mul(5).remainder(16).view(2, 7)


def filled(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    return model.double().eval()


def same(ours: nn.Module, theirs: Any, inputs: torch.Tensor, output: str) -> None:
    """Both have the same names and shapes, and with the same weights the same outputs."""
    state = {key: value for key, value in theirs.state_dict().items() if not key.endswith("position_ids")}
    assert {key: value.shape for key, value in filled(ours).state_dict().items()} == {
        key: value.shape for key, value in state.items()
    }
    theirs.double().eval().load_state_dict(ours.state_dict())
    with torch.no_grad():
        found = theirs(inputs)
        expected = getattr(found, output) if output else found
        assert torch.allclose(ours(inputs), expected, atol=1e-4, rtol=1e-4)  # Llama's angles are float32 there


@pytest.mark.slow
def test_bert_and_llama_are_those_of_transformers() -> None:
    transformers = library("transformers")
    sizes = {"vocab_size": 16, "num_hidden_layers": 2, "max_position_embeddings": 12}
    config = transformers.BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16, **sizes)
    same(TinyBert(), transformers.BertModel(config, add_pooling_layer=False), TOKENS, "last_hidden_state")
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    llama = transformers.LlamaConfig(hidden_size=16, intermediate_size=24, tie_word_embeddings=False, **heads, **sizes)
    same(TinyLlama(), transformers.LlamaForCausalLM(llama), TOKENS, "logits")


@pytest.mark.slow
def test_gpt2_is_that_of_transformers_with_its_weights_turned() -> None:
    transformers = library("transformers")
    config = transformers.GPT2Config(vocab_size=16, n_positions=12, n_embd=8, n_layer=2, n_head=2)
    theirs = transformers.GPT2Model(config).eval()
    file, record = (contents()[name] for name in ("tiny_gpt2.safetensors", "tiny_gpt2.safetensors.golden.safetensors"))
    theirs.load_state_dict(load(file))
    golden = load(record)
    with torch.no_grad():
        found = theirs(golden["input.0"]).last_hidden_state
    assert torch.allclose(found, golden["output.0"], atol=1e-5)
    assert {key for key in theirs.state_dict() if not key.endswith((".attn.bias", "masked_bias"))} == {
        *TinyGPT2().state_dict()
    }


@pytest.mark.slow
def test_vit_is_that_of_timm() -> None:
    library("timm")
    from timm.models.vision_transformer import VisionTransformer  # not installed everywhere

    theirs = VisionTransformer(img_size=16, patch_size=4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=2, num_classes=3)
    same(TinyViT(), theirs, torch.rand(2, 3, 16, 16, dtype=torch.float64), "")


def complex_rotation(x: torch.Tensor) -> torch.Tensor:
    """Meta's rotary embedding: neighboring elements of a head are one complex number."""
    rates = 1.0 / 10_000.0 ** (torch.arange(0, 4, 2).double() / 4)
    turns = torch.polar(torch.ones(7, 2).double(), torch.arange(7).double().outer(rates)).unsqueeze(1)
    pairs = torch.view_as_complex(x.reshape(2, 7, -1, 2, 2))
    return torch.view_as_real(pairs * turns).flatten(3)


def test_metas_file_gives_the_scores_of_metas_code() -> None:
    meta = torch.load(io.BytesIO(contents()["tiny_llama.pth"]), weights_only=True)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    query, key = (x @ meta[f"layers.0.attention.w{name}.weight"].double().T for name in "qk")
    theirs = torch.einsum("nqhd,nkgd->nhgqk", complex_rotation(query), complex_rotation(key))
    turned = [
        meta[f"layers.0.attention.w{name}.weight"].double().unflatten(0, (-1, 2, 2)).transpose(1, 2).flatten(0, 2)
        for name in "qk"
    ]
    ours = [rotated(x @ weight.T, 4).reshape(2, 7, -1, 4) for weight in turned]
    assert torch.allclose(torch.einsum("nqhd,nkgd->nhgqk", *ours), theirs)
