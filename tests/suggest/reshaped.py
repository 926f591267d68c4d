"""Pairs of a model and a file whose tensors, not only names, differ, with the weights that are right.

Every tensor has values of its own, so that a wrong order, a missing transposition or a wrong row is found out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.suggest.architectures import Sub
from tests.suggest.corpus import filled, prefixed, renamed, without

State = dict[str, Tensor]
H = 8


@dataclass(frozen=True)
class Pair:
    """A model, a file, and the right weights."""

    name: str
    cause: str
    model: Callable[[], nn.Module]
    file: Mapping[str, Any]
    right: State | None
    """What the model must hold, of some tensors the first rows; None where they do not belong together."""
    auto: bool = False
    """Whether names and shapes leave one reading, so that `auto` loads it."""
    others: tuple[State, ...] = ()
    """What lines for another purpose may load: an allowance, another size of the model."""
    tolerance: float = 0.0
    defined: bool = False
    """Whether a scheme defines the values, so that the line is right without a golden record."""


MODELS: dict[str, Callable[[], nn.Module]] = {}
"""By the name of the pair."""


def made(name: str) -> nn.Module:
    """The model of a pair; what configs call."""
    if not MODELS:
        pairs()
    return MODELS[name]()


def pairs() -> list[Pair]:
    """All pairs."""
    makers = (fused, fused_in_modules, stacked, transposed, crosswise, sized, normed, quantized, strangers)
    found = [pair for maker in makers for pair in maker()]
    MODELS.update({pair.name: pair.model for pair in found})
    return found


class Holder(nn.Module):
    """Parameters and modules under dotted names."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            *path, last = name.split(".")
            place: nn.Module = self
            for segment in path:
                if segment not in dict(place.named_children()):
                    place.add_module(segment, nn.Module())
                place = place.get_submodule(segment)
            place.register_parameter(last, nn.Parameter(torch.zeros(shape)))


Shapes = dict[str, tuple[int, ...]]


def holding(shapes: Shapes) -> Callable[[], nn.Module]:
    return lambda: Holder(shapes)


def values(shapes: Shapes, seed: int = 0) -> State:
    return filled(Holder(shapes), seed)


def shapes_of(state: Mapping[str, Tensor]) -> Shapes:
    return {key: tuple(value.shape) for key, value in state.items()}


def layers(one: Shapes, count: int = 3, place: str = "blocks") -> Shapes:
    """The same module several times, between an embedding and a head."""
    inside = {f"{place}.{n}.{key}": shape for n in range(count) for key, shape in one.items()}
    return {"embed.weight": (30, H)} | inside | {"norm.weight": (H,), "head.weight": (5, H), "head.bias": (5,)}


def linear(name: str, out: int, into: int = H) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def joined(state: State, pieces: list[str], whole: str, dim: int = 0) -> State:
    """The state with some tensors joined; `pieces` and `whole` are ends of names."""
    result: State = {}
    for key, value in state.items():
        end = next((piece for piece in pieces if f".{key}".endswith(f".{piece}")), None)
        if end is None:
            result[key] = value
        elif end == pieces[0]:
            start = key.removesuffix(end)
            result[start + whole] = torch.cat([state[start + piece] for piece in pieces], dim)
    return result


def fused_in(state: State, pieces: str, whole: str, leaves: tuple[str, ...] = ("weight", "bias")) -> State:
    for leaf in leaves:
        state = joined(state, [f"{piece}.{leaf}" for piece in pieces.split()], f"{whole}.{leaf}")
    return state


def both_ways(name: str, cause: str, apart: State, whole: State, *, auto: bool = False, **more: Any) -> Iterator[Pair]:
    yield Pair(f"{name}, fused in the file", cause, holding(shapes_of(apart)), whole, apart, auto, **more)
    yield Pair(f"{name}, fused in the model", cause, holding(shapes_of(whole)), apart, whole, auto, **more)


def fused() -> Iterator[Pair]:
    own = linear("attn.q", H) | linear("attn.k", H) | linear("attn.v", H) | linear("attn.proj", H)
    state = values(layers(own))
    thirds = fused_in(state, "attn.q attn.k attn.v", "attn.qkv")
    yield from both_ways("equal thirds", "qkv", state, thirds)
    wrapped = {"epoch": 3, "state_dict": prefixed(thirds, "module.")}
    yield Pair("equal thirds, nested and wrapped", "qkv", holding(shapes_of(state)), wrapped, state)
    own = linear("self_attn.q_proj", H) | linear("self_attn.k_proj", 2) | linear("self_attn.v_proj", 2)
    state = values(layers(own | linear("self_attn.o_proj", H), place="model.layers"))
    names = "self_attn.q_proj self_attn.k_proj self_attn.v_proj"
    yield from both_ways("grouped queries", "qkv", state, fused_in(state, names, "self_attn.qkv_proj"))
    own = linear("attention.self.query", H) | linear("attention.self.key", H) | linear("attention.self.value", H)
    state = values(layers(own | linear("attention.output.dense", H), place="encoder.layer"))
    names = "attention.self.query attention.self.key attention.self.value"
    whole = fused_in(state, names, "attention.query_key_value")
    yield from both_ways("spelled in full, another module", "qkv", state, whole)
    own = linear("q", H) | linear("k", 4) | linear("v", 6) | linear("o", H, 6)
    state = values(layers(own))
    yield from both_ways("three sizes", "unequal pieces", state, fused_in(state, "q k v", "qkv"), auto=True)
    own = linear("x.big", 6) | linear("x.small", 2) | linear("x.out", H)
    state = values(layers(own))
    whole = fused_in(state, "x.big x.small", "x.big_small")
    yield from both_ways("two sizes with telling names", "unequal pieces", state, whole, auto=True)
    whole = fused_in(state, "x.big x.small", "x.fused")
    yield Pair("two sizes of any names", "unequal pieces", holding(shapes_of(state)), whole, state, auto=True)
    state = values(layers(linear("mlp.gate_proj", 6) | linear("mlp.up_proj", 6) | linear("mlp.down_proj", H, 6)))
    yield from both_ways(
        "a gated mlp", "gate and up", state, fused_in(state, "mlp.gate_proj mlp.up_proj", "mlp.gate_up_proj")
    )
    state = values(layers(linear("w1", 6) | linear("w3", 6) | linear("w2", H, 6)))
    yield from both_ways("a gated mlp of numbers", "gate and up", state, fused_in(state, "w1 w3", "w13"))
    state = values(layers(linear("attn.to_q", H) | linear("attn.to_k", 4) | linear("attn.to_v", 4)))
    yield from both_ways("keys and values", "kv", state, fused_in(state, "attn.to_k attn.to_v", "attn.to_kv"))
    attention = [filled(nn.MultiheadAttention(H, 2), n) for n in range(2)]
    whole = {f"layers.{n}.self_attn.{key}": value for n, one in enumerate(attention) for key, value in one.items()}
    whole |= values({"head.weight": (5, H)}, 9)
    apart: State = {}
    for key, value in whole.items():
        start, _, leaf = key.rpartition("in_proj_")
        thirds_of = zip("qkv", value.chunk(3), strict=False)
        apart |= {f"{start}{role}_proj.{leaf}": part for role, part in thirds_of} if start else {key: value}
    yield from both_ways("torch's attention", "in_proj", apart, whole, auto=True)
    state = values(layers({"attn.q.weight": (10, H), "attn.k.weight": (10, H), "attn.v.weight": (10, H)}))
    turned = joined(state, ["attn.q.weight", "attn.k.weight", "attn.v.weight"], "attn.qkv.weight", 1)
    yield from both_ways("along the other dim", "qkv", state, turned)
    state = values(linear("q", H) | linear("k", H) | linear("v", H))
    yield from both_ways("nothing else in it", "qkv", state, fused_in(state, "q k v", "qkv"))


def fused_in_modules() -> Iterator[Pair]:
    own = linear("q", H) | linear("k", H) | linear("v", H)
    state = values({f"{around}{key}": shape for around in ("", "a.", "a.b.") for key, shape in own.items()})
    yield from both_ways("a module in a module", "qkv", state, fused_in(state, "q k v", "qkv"))
    own = linear("x", 7) | linear("y", 4) | linear("z", 2)
    state = values({f"{around}{key}": shape for around in ("", "a.") for key, shape in own.items()})
    whole = fused_in(state, "x y z", "all")
    yield Pair(
        "three sizes in a module in a module", "unequal pieces", holding(shapes_of(state)), whole, state, auto=True
    )


def experts(count: int, names: str, shapes: tuple[tuple[int, ...], ...], layer: str) -> Shapes:
    named = list(zip(names.split(), shapes, strict=True))
    return {f"{layer}.experts.{n}.{name}.weight": shape for n in range(count) for name, shape in named}


def stacks(state: State, place: str, count: int, *, leaf: bool) -> State:
    """The state with the numbers behind a segment stacked; without ``weight`` where `leaf` is false."""
    result: State = {}
    for key, value in state.items():
        if f"{place}.0." in key:
            start, rest = key.split(f"{place}.0.", 1)
            name = f"{start}{place}.{rest if leaf else rest.removesuffix('.weight')}"
            result[name] = torch.stack([state[f"{start}{place}.{n}.{rest}"] for n in range(count)])
        elif f"{place}." not in key:
            result[key] = value
    return result


def stacked() -> Iterator[Pair]:
    gated = ((6, H), (H, 6), (6, H))
    router = {f"layers.{n}.moe.router.weight": (4, H) for n in range(2)} | {"head.weight": (5, H)}
    one_by_one = {
        key: shape for n in range(2) for key, shape in experts(4, "w1 w2 w3", gated, f"layers.{n}.moe").items()
    }
    apart = values(router | one_by_one)
    for leaf in (True, False):
        whole = stacks(apart, "experts", 4, leaf=leaf)
        title = f"experts, {'with' if leaf else 'without'} weight in the stack's name"
        yield Pair(f"{title}, one by one in the file", "experts", holding(shapes_of(whole)), apart, whole, auto=True)
        yield Pair(f"{title}, stacked in the file", "experts", holding(shapes_of(apart)), whole, apart, auto=True)
    many = values({"head.weight": (5, H)} | experts(12, "up down", ((6, H), (H, 6)), "mlp"))
    whole = stacks(many, "experts", 12, leaf=False)
    shuffled = dict(sorted(many.items()))  # 10 and 11 come before 2
    yield Pair("twelve experts sorted as text", "experts", holding(shapes_of(whole)), shuffled, whole, auto=True)
    backwards = dict(reversed(many.items()))
    yield Pair("twelve experts backwards", "experts", holding(shapes_of(whole)), backwards, whole, auto=True)
    lacking = {key: value for key, value in many.items() if ".experts.7." not in key}
    yield Pair("one expert is missing", "experts", holding(shapes_of(whole)), lacking, None)
    last = {key: value for key, value in many.items() if ".experts.11." not in key}
    yield Pair("the last expert is missing", "experts", holding(shapes_of(whole)), last, None)
    yield Pair("one expert is missing from a model's", "experts", holding(shapes_of(last)), whole, None)
    mixtral = stacks(apart, "experts", 4, leaf=False)
    fused_whole = joined(mixtral, ["experts.w1", "experts.w3"], "experts.gate_up_proj", 1)
    fused_whole = renamed(fused_whole, (r"experts\.w2$", "experts.down_proj"))
    title = "experts stacked and fused"
    yield Pair(f"{title} in the model", "experts", holding(shapes_of(fused_whole)), apart, fused_whole)
    yield Pair(f"{title} in the file", "experts", holding(shapes_of(apart)), fused_whole, apart)
    named = renamed(mixtral, (r"\.w1$", ".gate_proj"), (r"\.w3$", ".up_proj"), (r"\.w2$", ".down_proj"))
    yield Pair("experts of other names", "experts", holding(shapes_of(named)), apart, named)
    scanned = values(layers(linear("attn", H) | linear("mlp.up", 6) | linear("mlp.down", H, 6)))
    whole = stacks(scanned, "blocks", 3, leaf=True)
    yield Pair("a scanned network's file", "layers", holding(shapes_of(scanned)), whole, scanned, auto=True)
    yield Pair("a scanned network", "layers", holding(shapes_of(whole)), scanned, whole, auto=True)
    apart = values({"experts.0.w": (2, 3), "experts.1.w": (2, 3)})
    whole = stacks(apart, "experts", 2, leaf=True)
    yield Pair("two experts and nothing else", "experts", holding(shapes_of(whole)), apart, whole, auto=True)
    down: Shapes = {f"layers.{n}.experts.{e}.down_proj.weight": (6, H) for n in range(2) for e in range(4)}
    apart = values(down)
    whole = stacks(apart, "experts", 4, leaf=False)
    yield Pair("stacks and nothing else", "experts", holding(down), whole, apart, auto=True)


def transposed() -> Iterator[Pair]:
    own = linear("attn.c_attn", 3 * H) | linear("attn.c_proj", H) | linear("mlp.c_fc", 4 * H)
    state = values(layers(own | linear("mlp.c_proj", H, 4 * H) | {"ln_1.weight": (H,)}, place="transformer.h"))
    turned = {key: v.t().contiguous() if ".c_" in key and v.dim() == 2 else v for key, v in state.items()}
    yield Pair("Conv1D with a square one", "transposed", holding(shapes_of(state)), turned, state)
    but_squares = {key: state[key] if ".attn.c_proj." in key else value for key, value in turned.items()}
    yield Pair("Conv1D but for the square one", "transposed", holding(shapes_of(state)), but_squares, state)
    straight = values(layers(linear("up", 4 * H) | linear("down", H, 4 * H)))
    turned = {key: v.t().contiguous() if "blocks." in key and v.dim() == 2 else v for key, v in straight.items()}
    yield Pair("no square one", "transposed", holding(shapes_of(straight)), turned, straight, auto=True)
    everything = {key: v.t().contiguous() if v.dim() == 2 else v for key, v in straight.items()}
    yield Pair("every matrix", "transposed", holding(shapes_of(straight)), everything, straight, auto=True)
    kernels = values({"conv1.weight": (6, 3, 5, 5), "conv2.weight": (7, 6, 3, 3), "fc.weight": (5, 7), "fc.bias": (5,)})
    turned = {key: v.permute(2, 3, 1, 0).contiguous() if v.dim() == 4 else v for key, v in kernels.items()}
    yield Pair("kernels with their channels last", "transposed", holding(shapes_of(kernels)), turned, kernels)
    alone = values({"weight": (3, 5)})
    yield Pair(
        "one matrix alone", "transposed", holding(shapes_of(alone)), {"weight": alone["weight"].t()}, alone, auto=True
    )


def crosswise() -> Iterator[Pair]:
    """Square weights that are fused or stacked, next to transposed ones."""
    own = linear("attn.q", H) | linear("attn.k", H) | linear("attn.v", H) | linear("mlp.c_fc", 4 * H)
    state = values(layers(own, place="h"))
    turned = {k: v.t().contiguous() if k.startswith("h.") and v.dim() == 2 else v for k, v in state.items()}
    pieces = [f"attn.{role}.weight" for role in "qkv"]
    biases = [f"attn.{role}.bias" for role in "qkv"]
    whole = joined(joined(turned, pieces, "attn.c_attn.weight", 1), biases, "attn.c_attn.bias")
    straight = fused_in(state, "attn.q attn.k attn.v", "attn.c_attn")
    name = "fused, square and transposed"
    yield Pair(f"{name} in the file", "crosswise", holding(shapes_of(state)), whole, state)
    yield Pair(f"{name} in the model", "crosswise", holding(shapes_of(whole)), state, whole)
    yield Pair(f"{name}, apart in the file", "crosswise", holding(shapes_of(straight)), turned, straight)
    yield Pair(f"{name}, apart in the model", "crosswise", holding(shapes_of(turned)), straight, turned)
    state = values({f"a.{role}.weight": (H, H) for role in "qkv"})
    alone = {"a.c_attn.weight": torch.cat([value.t() for value in state.values()], 1)}
    yield Pair(f"{name}, and nothing else", "crosswise", holding(shapes_of(state)), alone, state)
    state = values({f"a.{role}_proj_weight": (H, H) for role in "qkv"})
    alone = {"a.in_proj_weight": torch.cat([value.t() for value in state.values()], 1)}
    yield Pair("torch's attention transposed", "crosswise", holding(shapes_of(state)), alone, state)
    for way in ("as in the file", "as well"):
        turn = [key for key in ("e.w1", "e.w2") if key == "e.w1" or way == "as well"]
        state = values({"e.w1": (2, H, 4), "e.w2": (2, H, H)})
        file = {key: value.transpose(1, 2) if key in turn else value for key, value in state.items()}
        yield Pair(f"stacks, the square one {way}", "crosswise", holding(shapes_of(state)), file, state)
        apart = {f"{key[0]}.{n}.{key[2:]}.weight": value[n] for key, value in file.items() for n in range(2)}
        yield Pair(f"experts, the square one {way}", "crosswise", holding(shapes_of(state)), apart, state)
    state = values({"conv.weight": (8, 4, 3), "fc.weight": (H, H)})
    flax = {"conv.weight": state["conv.weight"].permute(2, 1, 0), "fc.weight": state["fc.weight"].t()}
    yield Pair("a square one next to a kernel", "crosswise", holding(shapes_of(state)), flax, state)
    state = values({f"a.{own}": (H, H) for own in ("kk", "qq", "vv")})
    thirds = {"a.in_proj_weight": torch.cat(list(state.values()))}
    yield Pair("torch's attention by names without a role", "crosswise", holding(shapes_of(state)), thirds, state)
    roles: Shapes = {"a.value_": (H, H), "a.query_": (H, H), "a.rel": (H, H)}
    yield Pair("torch's attention by roles that contradict it", "crosswise", holding(roles), thirds, None)


def sized() -> Iterator[Pair]:
    yield from vocabularies()
    yield from channels()
    yield from grids()
    yield from lines()


BODY = layers(linear("up", 4 * H) | linear("down", H, 4 * H))


def vocabularies() -> Iterator[Pair]:
    state = values(BODY)
    rest = (without(state, "embed."),)
    for title, rows in (("shrunk", 24), ("grown", 33)):
        right = {key: value[:rows] if key == "embed.weight" else value for key, value in state.items()}
        yield Pair(
            f"a vocabulary {title}",
            "vocabulary",
            holding(BODY | {"embed.weight": (rows, H)}),
            state,
            right,
            others=rest,
        )
    right = {key: value[:4] if key.startswith("head.") else value for key, value in state.items()}
    rest = (without(state, "head."),)
    yield Pair("a head of fewer classes", "head", holding(shapes_of(right)), state, right, others=rest)
    tied = values({"wte.weight": (30, H), "mid.weight": (H, 2 * H), "lm_head.weight": (30, H), "lm_head.bias": (30,)})
    right = {key: value if key == "mid.weight" else value[:26] for key, value in tied.items()}
    yield Pair("a vocabulary shrunk on both ends", "vocabulary", holding(shapes_of(right)), tied, right)


def channels() -> Iterator[Pair]:
    rest: Shapes = {"conv2.weight": (7, 6, 3, 3), "bn.weight": (7,), "bn.bias": (7,), **linear("fc", 5, 7)}
    for file, model in ((3, 1), (1, 3), (3, 4)):
        state = values({"conv1.weight": (6, file, 5, 5), **rest})
        first = state["conv1.weight"]
        repeated = first.repeat(1, -(-model // file), 1, 1)[:, :model] * (file / model)
        right = state | {"conv1.weight": first.sum(1, keepdim=True) if model == 1 else repeated}
        others = (without(state, "conv1."),)
        name = f"{file} channels for {model}"
        yield Pair(name, "channels", holding(shapes_of(right)), state, right, others=others, tolerance=1e-6)


def larger(picture: Tensor, side: int) -> Tensor:
    """A square grid [1, channels, old, old] as bicubic interpolation enlarges it."""
    return functional.interpolate(picture, size=(side, side), mode="bicubic", align_corners=False)


def grids() -> Iterator[Pair]:
    state = values({"pos_embed": (1, 17, 4)})
    picture = larger(state["pos_embed"][:, 1:].reshape(1, 4, 4, 4).permute(0, 3, 1, 2), 5)
    grid = picture.permute(0, 2, 3, 1).reshape(1, 25, 4)
    right = {"pos_embed": torch.cat([state["pos_embed"][:, :1], grid], 1)}
    yield Pair("a grid and nothing else", "positions", holding(shapes_of(right)), state, right, tolerance=1e-5)
    for prefix in (0, 1, 2):
        state = values(BODY | {"pos_embed": (1, prefix + 49, H)})
        own, grid = state["pos_embed"][:, :prefix], state["pos_embed"][:, prefix:]
        picture = larger(grid.reshape(1, 7, 7, H).permute(0, 3, 1, 2), 9)
        right = state | {"pos_embed": torch.cat([own, picture.permute(0, 2, 3, 1).reshape(1, 81, H)], 1)}
        others = (without(state, "pos_embed"),)
        name = f"a grid of positions after {prefix}"
        yield Pair(name, "positions", holding(shapes_of(right)), state, right, others=others, tolerance=1e-5)
    table = "blocks.{}.attn.relative_position_bias_table"
    state = values(BODY | {table.format(n): (49, 2) for n in range(3)})
    tables = {table.format(n): state[table.format(n)] for n in range(3)}
    right = state | {
        key: larger(value.t().reshape(1, 2, 7, 7), 11).reshape(2, 121).t() for key, value in tables.items()
    }
    name = "tables of relative positions"
    yield Pair(name, "positions", holding(shapes_of(right)), state, right, tolerance=1e-5)


def lines() -> Iterator[Pair]:
    state = values(BODY | {"wpe.weight": (20, H)})
    along = state["wpe.weight"].t()[None]
    line = functional.interpolate(along, size=28, mode="linear", align_corners=False)[0].t()
    right = state | {"wpe.weight": line}
    others = (without(state, "wpe."),)
    name = "a line of positions"
    yield Pair(name, "positions", holding(shapes_of(right)), state, right, others=others, tolerance=1e-5)


def normed() -> Iterator[Pair]:
    norm = nn.utils.parametrizations.weight_norm
    network = Sub(first=norm(nn.Conv1d(2, 6, 3)), second=norm(nn.Linear(6, 4)), out=nn.Linear(4, 2))
    state = filled(network)
    right = dict(state)
    for name in ("first", "second"):
        length, direction = (right.pop(f"{name}.parametrizations.weight.original{n}") for n in (0, 1))
        right[f"{name}.weight"] = torch._weight_norm(direction, length, 0)
    style = r"parametrizations\.weight\.original"
    old = renamed(state, (f"{style}0", "weight_g"), (f"{style}1", "weight_v"))
    model = holding(shapes_of(right))
    for title, file in (("old", old), ("new", state)):
        yield Pair(f"weight norm of the {title} kind", "weight norm", model, file, right, auto=True, tolerance=1e-6)
    yield Pair("weight norm in the model alone", "weight norm", holding(shapes_of(state)), right, None)


def quantized() -> Iterator[Pair]:
    right = values(linear("fc1", 8, 16) | linear("fc2", 8))
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (16, 8), generator=generator)
    scales = torch.rand(1, 8, generator=generator).half()
    packed = torch.stack([codes[at::8].long() << 4 * at for at in range(8)]).sum(0)
    zeros = torch.full((1, 1), sum(7 << 4 * at for at in range(8)))
    gptq = {"qweight": packed.int(), "qzeros": zeros.int(), "scales": scales, "g_idx": torch.zeros(16).int()}
    narrow = right["fc1.weight"].to(torch.float8_e4m3fn)
    whole = torch.randint(-127, 128, (8, 16), generator=generator).to(torch.int8)
    absmax = torch.rand(8, generator=generator)
    for scheme, parts, weight in (
        ("fp8", {"weight": narrow, "weight_scale": torch.tensor(0.5)}, narrow.float() * 0.5),
        ("int8 of bitsandbytes", {"weight": whole, "SCB": absmax}, whole * absmax[:, None] / 127),
        ("gptq", gptq, (codes - 8).float().mul(scales.float()).t()),
    ):
        file = without(right, "fc1.weight") | prefixed(parts, "fc1.")
        answer = right | {"fc1.weight": weight}
        yield Pair(
            f"a file of {scheme}", "quantized", holding(shapes_of(right)), file, answer, defined=True, tolerance=1e-6
        )


def strangers() -> Iterator[Pair]:
    body = layers(linear("attn.proj", H))
    apart = linear("attn.q", H) | linear("attn.k", H) | linear("attn.v", H)

    def inside(own: Shapes) -> Shapes:
        return body | {f"blocks.{n}.{key}": shape for n in range(3) for key, shape in own.items()}

    elsewhere = values(body | linear("decoder.attn.qkv", 3 * H))
    yield Pair("a qkv of another module", "stranger", holding(inside(apart)), elsewhere, None)
    wrong = linear("attn.q", H) | linear("attn.k", H) | linear("attn.v", H + 1)
    fused_file = values(inside(linear("attn.qkv", 3 * H)))
    yield Pair("a qkv of another sum", "stranger", holding(inside(wrong)), fused_file, None)
    more = apart | linear("attn.gate", H)
    yield Pair("a qkv and a gate that the file lacks", "stranger", holding(inside(more)), fused_file, None)
    unrelated = values(body | {"alpha.weight": (H, H), "beta.weight": (H, H)})
    yield Pair(
        "two tensors of other names",
        "stranger",
        holding(body | {"x.weight": (H, H), "y.weight": (H, H)}),
        unrelated,
        None,
    )
    sums = values({"conv.weight": (12, 3), "norm.weight": (12,), "head.weight": (4, 12)})
    other: Shapes = {
        "first.weight": (8, 3),
        "second.weight": (4, 3),
        "norm.weight": (12,),
        "classifier.weight": (5, 12),
    }
    yield Pair("another network whose sums fit", "stranger", holding(other), sums, None)
    counted = values(body | {f"layers.{n}.w": (H, H) for n in range(3)})
    yield Pair("a stack of another name and place", "stranger", holding(body | {"table.all": (3, H, H)}), counted, None)
    crossed = values(body | {"alpha.weight": (3, H)})
    yield Pair("a transposed shape of another name", "stranger", holding(body | {"beta.weight": (H, 3)}), crossed, None)
    wider = {key: tuple(2 * size if size == H else size for size in shape) for key, shape in body.items()}
    yield Pair("a wider network", "stranger", holding(body), values(wider), None)
    two = {"embed.weight": (31, H), "head.weight": (6, H), "head.bias": (6,)}
    yield Pair("two modules of other sizes", "stranger", holding(body | two), values(body), None)
    deep: Shapes = {"conv1.weight": (6, 3, 3, 3), "conv2.weight": (6, 6, 3, 3), "fc.weight": (5, 6)}
    channels = deep | {"conv1.weight": (6, 4, 3, 3), "conv2.weight": (6, 4, 3, 3)}
    yield Pair("two convolutions of other channels", "stranger", holding(deep), values(channels), None)
    gated = values(layers({"a.weight_g": (H, 1), "a.weight_v": (H, H), "b.weight": (4, H)}))
    plain = layers({"c.weight": (H, H), "b.weight": (4, H)})
    yield Pair("weight norm of another name", "stranger", holding(plain), gated, None)
    halves = values(layers({"mlp.left.weight": (4, H), "mlp.right.weight": (4, H)}))
    whole = layers({"attn.both.weight": (H, H)})
    yield Pair("halves of another module", "stranger", holding(whole), halves, None)
