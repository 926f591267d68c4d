"""Moved tensors are those that torch and transformers make; the ready-made rules load what those libraries run."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import loader
from loader.errors import FitError
from tests.keys.rules.moving import counted, moved
from tests.libraries import library

ROPE = {"rearrange": "w", "pattern": "(h d r) i -> (h r d) i"}
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 11}
LLAMA = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32}


@pytest.fixture(scope="module")
def transformers() -> ModuleType:
    return library("transformers")


class Attention(nn.Module):
    """Three projections and what torch does with them."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))
        self.out_proj = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = (proj(x).unflatten(-1, (2, 4)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj))
        made = nn.functional.scaled_dot_product_attention(*heads)
        return self.out_proj(made.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def test_in_proj_is_taken_apart_as_torch_does() -> None:
    torch.manual_seed(0)
    fused, separate = nn.MultiheadAttention(8, 2, batch_first=True), Attention()
    nn.init.normal_(fused.in_proj_bias)

    report = loader.load_into(separate, fused.state_dict(), rules=["mha_in_proj"])

    assert report.parts[""].rules == [{"name": "in_proj", "hits": 2}]
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(separate(x), fused(x, x, x)[0])
    back = moved(
        separate.state_dict(), {"merge": [rf"^{name}_proj\.(weight|bias)" for name in "qkv"], "to": r"in_proj_\1"}
    )
    assert torch.equal(back["in_proj_weight"], fused.in_proj_weight)
    assert torch.equal(back["in_proj_bias"], fused.in_proj_bias)


@pytest.mark.slow
def test_rotary_order_is_that_of_transformers(transformers: ModuleType) -> None:
    from transformers.core_model_loading import PermuteForRope

    turn: Any = PermuteForRope().convert
    queries, keys = counted(16, 16), counted(8, 16)
    config = transformers.LlamaConfig(**LLAMA)
    expected = turn({"a": [queries]}, ["a"], ["a"], config)["a"]
    turned = moved({"w": queries}, {**ROPE, "axes": {"d": 2, "r": 2}})["w"]

    assert torch.equal(turned, expected)
    config.num_attention_heads = 2  # of the keys
    expected = turn({"a": [keys]}, ["a"], ["a"], config)["a"]
    assert torch.equal(moved({"w": keys}, {**ROPE, "axes": {"d": 2, "r": 2}})["w"], expected)


def meta_llama(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state of transformers' Llama as Meta lays it out."""
    names = {
        "model.embed_tokens": "tok_embeddings",
        "model.norm": "norm",
        "lm_head": "output",
        "self_attn.q_proj": "attention.wq",
        "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    found = {}
    for key, value in state.items():
        meta = key
        for ours, theirs in names.items():
            meta = meta.replace(ours, theirs)
        rotary = key.endswith(("q_proj.weight", "k_proj.weight"))
        found[meta.removeprefix("model.")] = (
            value.view(-1, 2, 2, value.shape[1]).transpose(1, 2).reshape(value.shape) if rotary else value
        )
    return {**found, "rope.freqs": torch.ones(2)}


@pytest.mark.slow
def test_llama_in_metas_layout_computes_what_it_computed(transformers: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = (transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)).eval() for _ in range(2))
    torch.save(meta_llama(model.state_dict()), tmp_path / "consolidated.00.pth")
    rules: Any = ["llama_meta"]
    with pytest.raises(loader.LoaderError, match=r"'rules\.rope\.axes\.d' is required"):
        loader.load_into(other, tmp_path / "consolidated.00.pth", rules=rules)
    from loader.config.compose import compose

    rules = compose(["rules=[llama_meta]", "rules.rope.axes.d=2"])["rules"]
    loader.load_into(other, tmp_path / "consolidated.00.pth", rules=rules)

    ids = torch.tensor([[1, 5, 3, 9]])
    assert torch.equal(other(ids).logits, model(ids).logits)


@pytest.mark.slow
def test_gpt2s_conv1d_becomes_linear(transformers: ModuleType, tmp_path: Path) -> None:
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=11, n_positions=8)
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    linear = transformers.GPT2LMHeadModel(config).eval()
    for module in list(linear.modules()):
        for name, child in module.named_children():
            if isinstance(child, transformers.pytorch_utils.Conv1D):
                setattr(module, name, nn.Linear(child.nx, child.nf))
    state = {key: value for key, value in model.state_dict().items() if key != "lm_head.weight"}
    torch.save(state, tmp_path / "gpt2.pt")

    with pytest.raises(FitError, match=r"mismatched|would be loaded"):
        loader.load_into(linear, tmp_path / "gpt2.pt")
    report = loader.load_into(linear, tmp_path / "gpt2.pt", rules=["conv1d_gpt2"])

    ids = torch.tensor([[1, 5, 3, 9]])
    torch.testing.assert_close(linear(ids).logits, model(ids).logits)
    assert {rule["hits"] for rule in report.parts[""].rules} == {2}


@pytest.mark.slow
def test_experts_are_stacked_as_transformers_does(transformers: ModuleType, tmp_path: Path) -> None:

    config = transformers.MixtralConfig(**{**LLAMA, "num_hidden_layers": 1}, num_local_experts=12)
    torch.manual_seed(0)
    model, other = (transformers.MixtralForCausalLM(config).eval() for _ in range(2))
    model.save_pretrained(tmp_path)  # with the published names: one tensor per expert
    rules = {
        "name": {"rename": "block_sparse_moe.", "to": "mlp.", "anywhere": True},
        "gate": {"merge": r"\.experts\.(\d+)\.w1\.weight$", "to": ".experts.gate"},
        "up": {"merge": r"\.experts\.(\d+)\.w3\.weight$", "to": ".experts.up"},
        "both": {"merge": [r"\.experts\.gate$", r"\.experts\.up$"], "to": ".experts.gate_up_proj", "dim": 1},
        "down": {"merge": r"\.experts\.(\d+)\.w2\.weight$", "to": ".experts.down_proj"},
    }

    loader.load_into(other, tmp_path / "model.safetensors", rules=rules)

    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
