"""Small networks of many kinds; configs build them by name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import cast

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

HIDDEN = 16


def build(name: str, classes: int = 10) -> nn.Module:
    """The network of that name; what configs call."""
    return ARCHITECTURES[name](classes)


def build_deep(name: str, depth: int = 2, classes: int = 10) -> nn.Module:
    """A network whose depth is an argument."""
    makers = {"res_net": res_net, "transformer": transformer, "gpt": gpt, "bert": bert}
    return makers[name](classes, depth)


class Sized(nn.Module):
    """Its widths and its depth are arguments, all with defaults."""

    def __init__(self, inputs: int = 6, width: int = 8, depth: int = 2, classes: int = 10, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width, bias=bias)
        self.blocks = nn.ModuleList(
            Sub(up=nn.Linear(width, 2 * width), down=nn.Linear(2 * width, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, classes)


class Sub(nn.Module):
    """Submodules by name."""

    def __init__(self, /, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)


def named_mlp(classes: int) -> nn.Module:
    return Sub(fc1=nn.Linear(20, 32), fc2=nn.Linear(32, 24), out=nn.Linear(24, classes))


def plain_mlp(classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, classes))


def conv_net(classes: int) -> nn.Module:
    features = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU()
    )
    return Sub(features=features, classifier=nn.Linear(12, classes))


def vgg(classes: int, *, norm: bool = False) -> nn.Module:
    layers: list[nn.Module] = []
    widths = [3, 8, 8, 12, 12]
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3), *([nn.Identity()] if norm else []), nn.ReLU()]
    return Sub(
        features=nn.Sequential(*layers), classifier=nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, classes))
    )


def basic_block(before: int, after: int) -> nn.Module:
    block = Sub(
        conv1=nn.Conv2d(before, after, 3, bias=False), bn1=nn.BatchNorm2d(after),
        conv2=nn.Conv2d(after, after, 3, bias=False), bn2=nn.BatchNorm2d(after),
    )  # fmt: skip
    if before != after:
        block.add_module("downsample", nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after)))
    return block


def res_net(classes: int, depth: int = 2) -> nn.Module:
    stages = {
        f"layer{n + 1}": nn.Sequential(*(basic_block(w if i else v, w) for i in range(depth)))
        for n, (v, w) in enumerate([(8, 8), (8, 12), (12, 16)])
    }
    return Sub(conv1=nn.Conv2d(3, 8, 3, bias=False), bn1=nn.BatchNorm2d(8), **stages, fc=nn.Linear(16, classes))


def transformer(classes: int, depth: int = 3) -> nn.Module:
    layer = nn.TransformerEncoderLayer(HIDDEN, 2, 32, batch_first=True)
    encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
    return Sub(
        embed=nn.Embedding(50, HIDDEN), encoder=encoder, norm=nn.LayerNorm(HIDDEN), head=nn.Linear(HIDDEN, classes)
    )


def gpt(classes: int, depth: int = 3) -> nn.Module:
    def block() -> nn.Module:
        attn = Sub(c_attn=nn.Linear(HIDDEN, 3 * HIDDEN), c_proj=nn.Linear(HIDDEN, HIDDEN))
        mlp = Sub(c_fc=nn.Linear(HIDDEN, 4 * HIDDEN), c_proj=nn.Linear(4 * HIDDEN, HIDDEN))
        return Sub(ln_1=nn.LayerNorm(HIDDEN), attn=attn, ln_2=nn.LayerNorm(HIDDEN), mlp=mlp)

    body = Sub(
        wte=nn.Embedding(60, HIDDEN), wpe=nn.Embedding(30, HIDDEN),
        h=nn.ModuleList(block() for _ in range(depth)), ln_f=nn.LayerNorm(HIDDEN),
    )  # fmt: skip
    head = nn.Linear(HIDDEN, 60, bias=False)
    head.weight = body.get_submodule("wte").weight  # type: ignore[assignment]
    return Sub(transformer=body, lm_head=head)


def bert(classes: int, depth: int = 3) -> nn.Module:
    def layer() -> nn.Module:
        own = Sub(**{name: nn.Linear(HIDDEN, HIDDEN) for name in ("query", "key", "value")})
        output = Sub(dense=nn.Linear(HIDDEN, HIDDEN), LayerNorm=nn.LayerNorm(HIDDEN))
        return Sub(
            attention=Sub(self=own, output=output),
            intermediate=Sub(dense=nn.Linear(HIDDEN, 3 * HIDDEN)),
            output=Sub(dense=nn.Linear(3 * HIDDEN, HIDDEN), LayerNorm=nn.LayerNorm(HIDDEN)),
        )

    embeddings = Sub(
        word_embeddings=nn.Embedding(70, HIDDEN), position_embeddings=nn.Embedding(40, HIDDEN),
        LayerNorm=nn.LayerNorm(HIDDEN),
    )  # fmt: skip
    return Sub(
        embeddings=embeddings, encoder=Sub(layer=nn.ModuleList(layer() for _ in range(depth))),
        classifier=nn.Linear(HIDDEN, classes),
    )  # fmt: skip


class ViT(Sub):
    """Patches, a class token and a position embedding that are parameters of the root."""

    def __init__(self, classes: int) -> None:
        def block() -> nn.Module:
            attn = Sub(qkv=nn.Linear(HIDDEN, 3 * HIDDEN), proj=nn.Linear(HIDDEN, HIDDEN))
            mlp = Sub(fc1=nn.Linear(HIDDEN, 2 * HIDDEN), fc2=nn.Linear(2 * HIDDEN, HIDDEN))
            return Sub(norm1=nn.LayerNorm(HIDDEN), attn=attn, norm2=nn.LayerNorm(HIDDEN), mlp=mlp)

        super().__init__(
            patch_embed=Sub(proj=nn.Conv2d(3, HIDDEN, 4)), blocks=nn.ModuleList(block() for _ in range(3)),
            norm=nn.LayerNorm(HIDDEN), head=nn.Linear(HIDDEN, classes),
        )  # fmt: skip
        self.cls_token = nn.Parameter(torch.zeros(1, 1, HIDDEN))
        self.pos_embed = nn.Parameter(torch.zeros(1, 26, HIDDEN))


def lstm(classes: int) -> nn.Module:
    return Sub(
        embedding=nn.Embedding(80, 12), lstm=nn.LSTM(12, 14, num_layers=2, bidirectional=True),
        tagger=nn.Linear(28, classes),
    )  # fmt: skip


def gru(classes: int) -> nn.Module:
    return Sub(
        frontend=nn.Conv1d(4, 6, 5), rnn=nn.GRU(6, 9), attention=nn.MultiheadAttention(9, 3), fc=nn.Linear(9, classes)
    )


def unet(classes: int) -> nn.Module:
    widths = [3, 6, 8, 10]
    down = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3), nn.BatchNorm2d(b)) for a, b in pairwise(widths))
    up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2) for a, b in reversed(list(pairwise(widths[1:]))))
    return Sub(down=down, up=up, final=nn.Conv2d(6, classes, 1))


def auto_encoder(classes: int) -> nn.Module:
    def half(*sizes: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))

    return Sub(encoder=half(30, 22, 14, classes), decoder=half(classes, 14, 22, 30))


def normed(classes: int) -> nn.Module:
    layers = [weight_norm(nn.Conv1d(a, b, 3)) for a, b in ((2, 6), (6, 7))]
    return Sub(convs=nn.ModuleList(layers), out=weight_norm(nn.Linear(7, classes)))


def encoder_of_auto_encoder(classes: int) -> nn.Module:
    return auto_encoder(classes).get_submodule("encoder")


def body_of_res_net(classes: int) -> nn.Module:
    whole = res_net(classes)
    del whole.fc
    return whole


def compiled(network: nn.Module) -> nn.Module:
    """The network as `torch.compile` wraps it; nothing is compiled before it is called."""
    return cast("nn.Module", torch.compile(network, backend="eager"))


ARCHITECTURES: dict[str, Callable[[int], nn.Module]] = {
    "named_mlp": named_mlp, "plain_mlp": plain_mlp, "conv_net": conv_net, "vgg": vgg, "res_net": res_net,
    "transformer": transformer, "gpt": gpt, "bert": bert, "vit": ViT, "lstm": lstm, "gru": gru, "unet": unet,
    "auto_encoder": auto_encoder, "normed": normed,
    "vgg_spread": lambda classes: vgg(classes, norm=True),
    "res_net_deep": lambda classes: res_net(classes, 3),
    "transformer_deep": lambda classes: transformer(classes, 5),
    "gpt_deep": lambda classes: gpt(classes, 4),
    "encoder_of_auto_encoder": encoder_of_auto_encoder,
    "body_of_res_net": body_of_res_net,
    "compiled_mlp": lambda classes: compiled(named_mlp(classes)),
    "one_linear": lambda classes: nn.Linear(16, 16),
    "same_layers": lambda classes: Sub(first=nn.Linear(8, 8), second=nn.Linear(8, 8), third=nn.Linear(8, 8)),
}  # fmt: skip
