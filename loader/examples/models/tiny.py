"""Well-known architectures in a size to read: GPT-2, Llama, BERT and a vision transformer.

Guarantees: names, shapes and outputs are those of transformers' `GPT2Model`, `LlamaForCausalLM` and `BertModel`
(without its pooler) and of timm's `VisionTransformer`; the tests compare them.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, *, causal: bool = False
) -> torch.Tensor:
    """Attends with several heads; keys and values may have fewer, each of which serves a run of queries.

    Args:
        query: ``[n, tokens, width]``.
        key: ``[n, tokens, width]``, or less wide.
        value: As `key`.
        heads: Number of heads of `query`.
        causal: Whether a token sees only those before it.

    Returns:
        ``[n, tokens, width]``.
    """
    size = query.shape[-1] // heads
    queries, keys, values = (x.reshape(*x.shape[:2], -1, size).transpose(1, 2) for x in (query, key, value))
    keys, values = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (keys, values))
    mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    return mixed.transpose(1, 2).flatten(-2)


class _GPT2Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.c_attn(x).chunk(3, dim=-1)
        mixed: torch.Tensor = self.c_proj(attention(query, key, value, self.heads, causal=True))
        return mixed


class _GPT2MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh"))
        return mixed


class _GPT2Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), _GPT2Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), _GPT2MLP(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        mixed: torch.Tensor = x + self.mlp(self.ln_2(x))
        return mixed


class TinyGPT2(nn.Module):
    """GPT-2 with linear layers, whose weights transformers' files keep transposed (Conv1D).

    Args:
        vocabulary: Number of tokens.
        positions: The longest text.
        width: Size of a token's vector.
        layers: Number of blocks.
        heads: Number of heads of each.
    """

    def __init__(
        self, vocabulary: int = 16, positions: int = 12, width: int = 8, layers: int = 2, heads: int = 2
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.h = nn.ModuleList(_GPT2Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[n, length]``, integers, to vectors ``[n, length, width]``."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        vectors: torch.Tensor = self.ln_f(x)
        return vectors


class _RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * functional.rms_norm(x, (x.shape[-1],), eps=1e-6)


def rotated(x: torch.Tensor, size: int) -> torch.Tensor:
    """Turns vectors by their position, as transformers does: the two halves of a head are the two coordinates.

    Args:
        x: ``[n, tokens, width]``.
        size: Width of a head.
    """
    rates = 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64, device=x.device) / size)
    angles = torch.arange(x.shape[1], dtype=torch.float64, device=x.device).outer(rates).unsqueeze(1)
    cosine, sine = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.reshape(*x.shape[:-1], -1, size).chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1).flatten(-2)


class _LlamaAttention(nn.Module):
    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.q_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k_proj, self.v_proj = (nn.Linear(width, groups * self.size, bias=False) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key = (rotated(projection(x), self.size) for projection in (self.q_proj, self.k_proj))
        mixed: torch.Tensor = self.o_proj(attention(query, key, self.v_proj(x), self.heads, causal=True))
        return mixed


class _LlamaMLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed: torch.Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return mixed


class _LlamaLayer(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int, groups: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = _LlamaAttention(width, heads, groups), _LlamaMLP(width, hidden)
        self.input_layernorm, self.post_attention_layernorm = _RMSNorm(width), _RMSNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        mixed: torch.Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return mixed


class TinyLlama(nn.Module):
    """Llama under transformers' names, with grouped queries.

    Args:
        vocabulary: Number of tokens.
        width: Size of a token's vector.
        hidden: Width of the layer in between.
        layers: Number of layers.
        heads: Number of heads for queries.
        groups: Number of heads for keys and values.
    """

    def __init__(
        self, vocabulary: int = 16, width: int = 16, hidden: int = 24, layers: int = 2, heads: int = 4, groups: int = 2
    ) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(vocabulary, width)
        self.model.layers = nn.ModuleList(_LlamaLayer(width, hidden, heads, groups) for _ in range(layers))
        self.model.norm = _RMSNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[n, length]``, integers, to logits ``[n, length, vocabulary]``."""
        x = self.model.get_submodule("embed_tokens")(tokens)
        for layer in self.model.get_submodule("layers").children():
            x = layer(x)
        logits: torch.Tensor = self.lm_head(self.model.get_submodule("norm")(x))
        return logits


class _BertLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        projections = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")})
        self.attention = nn.ModuleDict({"self": projections, "output": _sublayer(width, width)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, 2 * width)})
        self.output = _sublayer(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projections, output = (self.attention.get_submodule(name) for name in ("self", "output"))
        query, key, value = (projection(x) for projection in projections.children())
        mixed = attention(query, key, value, self.heads)
        x = output.get_submodule("LayerNorm")(x + output.get_submodule("dense")(mixed))
        hidden = functional.gelu(self.intermediate["dense"](x))
        out: torch.Tensor = self.output["LayerNorm"](x + self.output["dense"](hidden))
        return out


def _sublayer(inside: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"dense": nn.Linear(inside, width), "LayerNorm": nn.LayerNorm(width, eps=1e-12)})


class TinyBert(nn.Module):
    """BERT without its pooler.

    Args:
        vocabulary: Number of tokens.
        positions: The longest text.
        width: Size of a token's vector.
        layers: Number of layers.
        heads: Number of heads of each.
    """

    def __init__(
        self, vocabulary: int = 16, positions: int = 12, width: int = 8, layers: int = 2, heads: int = 2
    ) -> None:
        super().__init__()
        sizes = {"word_embeddings": vocabulary, "position_embeddings": positions, "token_type_embeddings": 2}
        self.embeddings = nn.ModuleDict({name: nn.Embedding(size, width) for name, size in sizes.items()})
        self.embeddings["LayerNorm"] = nn.LayerNorm(width, eps=1e-12)
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_BertLayer(width, heads) for _ in range(layers))})

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Maps tokens ``[n, length]``, integers, to vectors ``[n, length, width]``."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        words, places, kinds, norm = self.embeddings.values()
        x = norm(words(tokens) + places(positions) + kinds(torch.zeros_like(positions)))
        for layer in self.encoder["layer"].children():
            x = layer(x)
        vectors: torch.Tensor = x
        return vectors


class _ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 2 * width), "fc2": nn.Linear(2 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.attn["qkv"](self.norm1(x)).chunk(3, dim=-1)
        x = x + self.attn["proj"](attention(query, key, value, self.heads))
        mixed: torch.Tensor = x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))
        return mixed


class TinyViT(nn.Module):
    """A vision transformer under timm's names.

    Args:
        image: Pixels of a side.
        patch: Pixels of a patch's side.
        width: Size of a patch's vector.
        layers: Number of blocks.
        heads: Number of heads of each.
        classes: Number of classes.
    """

    def __init__(
        self, image: int = 16, patch: int = 4, width: int = 8, layers: int = 2, heads: int = 2, classes: int = 3
    ) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 1 + (image // patch) ** 2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, stride=patch)})
        self.blocks = nn.Sequential(*(_ViTBlock(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps images ``[n, 3, image, image]`` to logits ``[n, classes]``."""
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        logits: torch.Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits
