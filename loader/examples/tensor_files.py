"""Example files whose tensors, not only their names, differ from the model's.

Guarantees: each has a golden record of the weights that it stands for, computed by torch alone in float64, without the
rules, adapters and averages that load it. A given torch version writes the same bytes every time.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import nn
from torch.nn import functional

from .models import LinearModel, TinyBert, TinyGPT2, TinyLlama, TinyViT

GOLDEN = ".golden.safetensors"
_Model = TypeVar("_Model", bound=nn.Module)
State = dict[str, torch.Tensor]
Files = dict[str, bytes]
"""Content by the path in the folder of the examples."""

_TURNED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
_META = {
    "model.embed_tokens.": "tok_embeddings.",
    "model.norm.": "norm.",
    "lm_head.": "output.",
    "model.layers.": "layers.",
    ".self_attn.q_proj.": ".attention.wq.",
    ".self_attn.k_proj.": ".attention.wk.",
    ".self_attn.v_proj.": ".attention.wv.",
    ".self_attn.o_proj.": ".attention.wo.",
    ".mlp.gate_proj.": ".feed_forward.w1.",
    ".mlp.down_proj.": ".feed_forward.w2.",
    ".mlp.up_proj.": ".feed_forward.w3.",
    ".input_layernorm.": ".attention_norm.",
    ".post_attention_layernorm.": ".ffn_norm.",
}
"""transformers' names of Llama's parts → Meta's."""


def contents() -> Files:
    """Returns all files."""
    with _seeded(0):  # a model that is built draws values, which its own then replace
        return {name: data for make in _MAKERS for name, data in make().items()}


def _gpt2() -> Files:
    model = _filled(TinyGPT2(), seed=10)
    state = {key: value.T.contiguous() if key.endswith(_TURNED) else value for key, value in model.state_dict().items()}
    name = "tiny_gpt2.safetensors"
    return {name: save(state), name + GOLDEN: _record(model, _tokens(16))}


def _llama() -> Files:
    model = _filled(TinyLlama(), seed=11)
    state = {}
    for key, value in model.state_dict().items():
        name = key
        for theirs, meta in _META.items():
            name = name.replace(theirs, meta)
        turned = name.endswith(("wq.weight", "wk.weight"))
        # transformers keeps the two coordinates of a rotation in the halves of a head, Meta next to each other.
        state[name] = value.unflatten(0, (-1, 2, 2)).transpose(1, 2).flatten(0, 2) if turned else value
    state["rope.freqs"] = 10_000.0 ** (-torch.arange(0, 4, 2) / 4)
    name = "tiny_llama.pth"
    return {name: _saved(state), name + GOLDEN: _record(model, _tokens(16))}


def _bert() -> Files:
    model = _filled(TinyBert(), seed=12)
    state = model.state_dict()
    grown, words = TinyBert(vocabulary=19), state["embeddings.word_embeddings.weight"]
    new = words.mean(0, keepdim=True).expand(3, -1)
    grown.load_state_dict({**state, "embeddings.word_embeddings.weight": torch.cat([words, new])})
    files = {
        "tiny_bert.safetensors": save(state),
        f"tiny_bert_grown{GOLDEN}": _record(grown, torch.tensor([[1, 18, 3], [17, 5, 16]])),
    }
    return {**files, **_lora(model)}


def _lora(model: TinyBert) -> Files:
    rank, alpha = 2, 4
    changed = [f"encoder.layer.{layer}.attention.self.{name}" for layer in range(2) for name in ("query", "value")]
    state, adapter = dict(model.state_dict()), State()
    with _seeded(13):
        for module in changed:
            down, up = torch.randn(rank, 8), torch.randn(8, rank)
            adapter[f"base_model.model.{module}.lora_A.weight"] = down
            adapter[f"base_model.model.{module}.lora_B.weight"] = up
            state[f"{module}.weight"] = state[f"{module}.weight"] + alpha / rank * up @ down
    merged = TinyBert()
    merged.load_state_dict(state)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny_bert.safetensors",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": ["query", "value"],
        "bias": "none",
    }
    return {
        "tiny_bert_lora/adapter_config.json": f"{json.dumps(config, indent=2)}\n".encode(),
        "tiny_bert_lora/adapter_model.safetensors": save(adapter),
        f"tiny_bert_lora{GOLDEN}": _record(merged, _tokens(16)),
    }


def _fp8() -> Files:
    model = _filled(LinearModel(160, 130), seed=14)
    blocks = torch.tensor([[0.5, 0.125], [0.25, 1.0]])  # of 128 × 128, the last ones shorter
    scales = blocks.repeat_interleave(128, 0)[:130].repeat_interleave(128, 1)[:, :160]
    weight = (model.linear.weight / scales).detach().to(torch.float8_e4m3fn)
    state = {"linear.weight": weight, "linear.weight_scale_inv": blocks, "linear.bias": model.linear.bias.detach()}
    model.load_state_dict({"linear.weight": weight.float() * scales, "linear.bias": state["linear.bias"]})
    with _seeded(15):
        inputs = torch.randn(2, 160)
    name = "tiny_fp8.safetensors"
    return {name: save(state), name + GOLDEN: _record(model, inputs)}


def _epochs() -> Files:
    states = [_filled(LinearModel(), seed=20 + epoch).state_dict() for epoch in range(3)]
    files = {
        f"tiny_epoch_{epoch}.pt": _saved({"model": state, "epoch": epoch}) for epoch, state in enumerate(states, 1)
    }
    mean = LinearModel()
    mean.load_state_dict({key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]})
    with _seeded(23):
        inputs = torch.randn(2, 10)
    return {**files, f"tiny_epochs{GOLDEN}": _record(mean, inputs)}


def _vit() -> Files:
    small = _filled(TinyViT(image=16), seed=16)
    state = small.state_dict()
    first, grid = state["pos_embed"].split([1, 16], dim=1)
    square = grid.transpose(1, 2).unflatten(2, (4, 4))
    large = functional.interpolate(square, size=(6, 6), mode="bicubic", align_corners=False)
    model = TinyViT(image=24)
    model.load_state_dict({**state, "pos_embed": torch.cat([first, large.flatten(2).transpose(1, 2)], dim=1)})
    with _seeded(17):
        images = torch.rand(2, 3, 24, 24)
    name = "tiny_vit.safetensors"
    return {name: save(state), name + GOLDEN: _record(model, images)}


_MAKERS: tuple[Callable[[], Files], ...] = (_gpt2, _llama, _bert, _fp8, _epochs, _vit)


def _filled(model: _Model, *, seed: int) -> _Model:
    """Gives a model values of which none is zero, one or twice there."""
    with _seeded(seed), torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.4 + ("norm" in name.lower() and name.endswith("weight")))
    return model


def _tokens(vocabulary: int) -> torch.Tensor:
    return torch.arange(14).mul(5).remainder(vocabulary).view(2, 7)


def _record(model: nn.Module, inputs: torch.Tensor) -> bytes:
    """Returns a golden record; outputs are computed in float64, whose last bits, which differ by machine, go."""
    wide = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        outputs = wide(inputs.double() if inputs.is_floating_point() else inputs).float()
    return save({"input.0": inputs, "output.0": outputs}, metadata={"format": "hydra-loader-golden"})


def _saved(content: Mapping[str, object]) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
