"""Pairs of an architecture and a checkpoint with a known right answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tests.suggest.architectures import Sized, Sub, build, build_deep, compiled

State = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A file and a model; every tensor of a file has values of its own, so that a wrong one is found out."""

    name: str
    cause: str
    model: str
    file: Any
    answers: tuple[State, ...]
    """What the model must hold; several where the right answer is to show all and take none; none where they do not
    belong together."""
    auto: bool = True
    """Whether `auto` may load it."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the user already has."""
    target: str = "build"
    """What makes the model; all but `build` take no name where there is none."""

    @property
    def node(self) -> dict[str, Any]:
        """The model's config."""
        target = {"_target_": f"tests.suggest.architectures.{self.target}"}
        return target | ({"name": self.model} if self.model else {})


def weights(name: str, seed: int = 0, **arguments: Any) -> State:
    """A state dict of which no two tensors are equal."""
    return filled(build(name, **arguments), seed)


def filled(module: nn.Module, seed: int = 0) -> State:
    torch.manual_seed(seed)
    state = {}
    for key, value in module.state_dict(keep_vars=True).items():
        with torch.no_grad():
            value.copy_(torch.randn(value.shape) if value.is_floating_point() else torch.randint(1, 10**6, value.shape))
        state[key] = value.detach()
    return state


def renamed(state: Mapping[str, Tensor], *changes: tuple[str, str]) -> State:
    """The state with its keys rewritten by regular expressions."""
    result = {}
    for key, value in state.items():
        for old, new in changes:
            key = re.sub(old, new, key)  # noqa: PLW2901
        result[key] = value
    return result


def shifted(state: Mapping[str, Tensor], stem: str, offset: int) -> State:
    """The state with the numbers behind a segment moved."""
    return {re.sub(rf"\b{stem}\.(\d+)", lambda m: f"{stem}.{int(m[1]) + offset}", key): v for key, v in state.items()}


def prefixed(state: Mapping[str, Tensor], prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def below(state: Mapping[str, Tensor], prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def without(state: Mapping[str, Tensor], *prefixes: str) -> State:
    return {key: value for key, value in state.items() if not key.startswith(prefixes)}


def rows_of(state: Mapping[str, Tensor], prefix: str, rows: int) -> State:
    return {key: value[:rows] if key.startswith(prefix) else value for key, value in state.items()}


def cases() -> Iterator[Case]:
    """All pairs."""
    for maker in (
        wrapped,
        nested,
        namings,
        counted,
        sized,
        partial,
        averages,
        combined,
        given,
        deep,
        spread,
        strangers,
    ):
        yield from maker()


EVERY = (
    "named_mlp", "plain_mlp", "conv_net", "vgg", "res_net", "transformer", "gpt", "bert", "vit", "lstm", "gru", "unet",
    "auto_encoder", "normed",
)  # fmt: skip


class Lightning(nn.Module):
    """Laid out as a LightningModule: the network next to a loss that has a weight of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network
        self.criterion = nn.CrossEntropyLoss(weight=torch.ones(10))


def _lightning(network: nn.Module) -> dict[str, Any]:
    state = filled(Lightning(network))
    return {"epoch": 3, "global_step": 10, "pytorch-lightning_version": "2.4.0", "state_dict": state}


WRAPPINGS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "torch.compile": compiled,
    "compiled DataParallel": lambda network: compiled(nn.DataParallel(network)),
    "DataParallel of compiled": lambda network: nn.DataParallel(compiled(network)),
    "a module with a net": lambda network: Sub(net=network),
    "AveragedModel": AveragedModel,
}


def wrapped() -> Iterator[Case]:
    for number, name in enumerate(EVERY):
        for offset in (0, 1, 3):
            cause = list(WRAPPINGS)[(number + offset) % len(WRAPPINGS)]
            network = build(name)
            whole = WRAPPINGS[cause](network)
            file = filled(whole)
            inside = whole.module if isinstance(whole, AveragedModel) else network  # it averages a copy
            yield Case(f"{name} in {cause}", "wrapper", name, file, (dict(inside.state_dict()),))
    for name in ("conv_net", "transformer", "lstm"):
        network = build(name)
        file = _lightning(network)
        yield Case(f"{name} in a LightningModule", "wrapper", name, file, (dict(network.state_dict()),))
    inner = {
        "res_net": (r"^(layer\d\.\d+)\.", "fsdp"),
        "gpt": (r"(h\.\d+)\.", "checkpoint"),
        "vit": (r"(blocks\.\d+)\.", "fsdp"),
        "transformer": (r"(layers\.\d+)\.", "compile"),
        "conv_net": (r"^(features)\.", "parallel"),
    }
    segments = {
        "fsdp": "_fsdp_wrapped_module.",
        "checkpoint": "_checkpoint_wrapped_module.",
        "compile": "_orig_mod.",
        "parallel": "module.",
    }
    for name, (place, kind) in inner.items():
        state = weights(name)
        file = renamed(state, (place, rf"\1.{segments[kind]}"))
        yield Case(f"{name} wrapped inside ({kind})", "wrapper inside", name, file, (state,))
        if kind == "fsdp":
            deeper = renamed(file, (r"(attn|conv1)\.", r"\1._checkpoint_wrapped_module."))
            both = prefixed(deeper, "_fsdp_wrapped_module.")
            yield Case(f"{name} wrapped twice", "wrapper inside", name, both, (state,))
    plain = weights("named_mlp")
    yield Case(
        "a compiled model, a plain file", "prefix to add", "compiled_mlp", plain, (prefixed(plain, "_orig_mod."),)
    )


KEYS = ("state_dict", "model", "net", "model_state_dict", "state", "params", "weights")


def nested() -> Iterator[Case]:
    optimizer = {"state": {n: {"exp_avg": torch.randn(32, 20)} for n in range(4)}, "param_groups": [{"lr": 0.1}]}
    for name, key in zip(EVERY, KEYS * 2, strict=True):
        state = weights(name)
        file = {"epoch": 4, key: state, "optimizer": optimizer}
        yield Case(f"{name} under {key}", "nested key", name, file, (state,))
    state = weights("gru")
    yield Case("gru two levels down", "nested key", "gru", {"trainer": {"nets": {"main": state}}, "step": 1}, (state,))
    two = {"generator": weights("unet"), "discriminator": weights("conv_net", 1)}
    yield Case("unet next to a discriminator", "nested key", "unet", two, (two["generator"],))
    yield Case("conv_net next to a generator", "nested key", "conv_net", two, (two["discriminator"],))


RENAMINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "transformer": ((r"^encoder\.", "backbone."),),
    "bert": ((r"^encoder\.", "trunk."), (r"^embeddings\.", "emb.")),
    "vit": ((r"^blocks\.", "layers."), (r"\.attn\.", ".attention.")),
    "gpt": ((r"^transformer\.h\.", "transformer.blocks."),),
    "res_net": ((r"^layer(\d)\.", r"stage\1."), (r"^fc\.", "classifier.")),
    "conv_net": ((r"^features\.", "body."),),
    "unet": ((r"^down\.", "encoder."), (r"^up\.", "decoder."), (r"^final\.", "head.")),
    "lstm": ((r"^tagger\.", "classifier."), (r"^lstm\.", "rnn.")),
    "named_mlp": ((r"^fc1\.", "linear1."), (r"^fc2\.", "linear2.")),
    "plain_mlp": ((r"^0\.", "fc1."), (r"^2\.", "fc2."), (r"^4\.", "fc3.")),
    "auto_encoder": ((r"^encoder\.", "enc."), (r"^decoder\.", "dec.")),
}
FAMILIES: dict[str, tuple[tuple[str, str], ...]] = {
    "bert": (
        (r"encoder\.layer\.(\d+)\.attention\.self\.", r"layers.\1.attn."), (r"attn\.query", "attn.q"),
        (r"attn\.key", "attn.k"), (r"attn\.value", "attn.v"),
        (r"encoder\.layer\.(\d+)\.attention\.output\.dense", r"layers.\1.attn.out"),
        (r"encoder\.layer\.(\d+)\.intermediate\.dense", r"layers.\1.mlp.up"),
        (r"encoder\.layer\.(\d+)\.output\.dense", r"layers.\1.mlp.down"),
        (r"encoder\.layer\.(\d+)\.attention\.output\.LayerNorm", r"layers.\1.attn.norm"),
        (r"encoder\.layer\.(\d+)\.output\.LayerNorm", r"layers.\1.norm"),
    ),
    "transformer": (
        (r"self_attn", "attention"), (r"linear1", "fc_in"), (r"linear2", "fc_out"),
        (r"norm1", "ln_1"), (r"norm2", "ln_2"), (r"^encoder\.layers", "blocks"),
    ),
    "vit": ((r"norm1", "ln1"), (r"norm2", "ln2"), (r"attn", "self_attention"), (r"mlp\.fc", "feed_forward.linear")),
    "conv_net": ((r"^features\.(1|4)\.weight", r"features.\1.gamma"), (r"^features\.(1|4)\.bias", r"features.\1.beta")),
}  # fmt: skip
TYPOS = {
    "named_mlp": ("fc2", "fc_2"),
    "bert": ("classifier", "classifer"),
    "vit": ("patch_embed", "patch_embd"),
    "lstm": ("embedding", "embeding"),
    "gru": ("attention", "atention"),
    "res_net": ("downsample", "downsampel"),
}


def namings() -> Iterator[Case]:
    for name, changes in RENAMINGS.items():
        state = weights(name)
        yield Case(f"{name}, modules renamed", "renamed", name, renamed(state, *changes), (state,))
    for name, changes in FAMILIES.items():
        state = weights(name)
        yield Case(f"{name} of another family", "family", name, renamed(state, *changes), (state,))
    for name, (right, wrong) in TYPOS.items():
        state = weights(name)
        yield Case(f"{name} with a typo", "typo", name, renamed(state, (right, wrong)), (state,))
    state = weights("normed")
    old_names = [(rf"parametrizations\.weight\.original{n}", f"weight_{letter}") for n, letter in enumerate("gv")]
    old = prefixed(renamed(state, *old_names), "net.")
    yield Case("normed, old names of weight norm in net.", "weight norm", "normed", old, (state,))


def counted() -> Iterator[Case]:
    for name, stem in (("transformer", "layers"), ("gpt", "h"), ("vit", "blocks"), ("unet", "down")):
        state = weights(name)
        for offset in (1, 2):
            file = shifted(state, stem, offset)
            yield Case(f"{name}, counted from {offset}", "numbering", name, file, (state,))
    spread, tight = weights("vgg_spread"), weights("vgg")
    expected = dict(zip(tight, spread.values(), strict=True))
    yield Case("vgg from a file with layers in between", "numbering", "vgg", spread, (expected,))
    expected = dict(zip(spread, tight.values(), strict=True))
    yield Case("vgg with layers in between", "numbering", "vgg_spread", tight, (expected,))


HEADS = {
    "conv_net": "classifier.",
    "res_net": "fc.",
    "transformer": "head.",
    "bert": "classifier.",
    "vit": "head.",
    "lstm": "tagger.",
    "gru": "fc.",
    "named_mlp": "out.",
    "unet": "final.",
}


def sized() -> Iterator[Case]:
    for number, (name, head) in enumerate(HEADS.items()):
        state = weights(name, classes=37)
        file: Any = state if number % 2 else {"state_dict": prefixed(state, "module.")}
        # With its own head, which the constructor's default decides, with the file's, or with the first rows of it.
        answers = (state, without(state, head), rows_of(state, head, 10))
        yield Case(f"{name} with another head", "head size", name, file, answers, auto=False)


def partial() -> Iterator[Case]:
    whole = weights("auto_encoder")
    encoder = below(whole, "encoder.")
    yield Case("the encoder out of an auto encoder", "part", "encoder_of_auto_encoder", whole, (encoder,))
    yield Case(
        "an auto encoder from its encoder",
        "part",
        "auto_encoder",
        prefixed(encoder, "encoder."),
        (prefixed(encoder, "encoder."),),
        auto=False,
    )
    for name, head in (("res_net", "fc."), ("vit", "head."), ("bert", "classifier.")):
        state = without(weights(name), head)
        yield Case(f"{name} from a file without a head", "part", name, prefixed(state, "module."), (state,), auto=False)
    state = weights("res_net")
    yield Case("res_net body from a whole one", "part", "body_of_res_net", state, (without(state, "fc."),), auto=False)
    body = prefixed(weights("transformer"), "student.") | prefixed(weights("vit", 2), "teacher.")
    yield Case("a student next to a teacher", "part", "transformer", body, (below(body, "student."),))
    yield Case("a teacher next to a student", "part", "vit", body, (below(body, "teacher."),))
    listed = prefixed(weights("gru"), "models.0.") | prefixed(weights("gru", 1), "models.1.")
    answers = (below(listed, "models.0."), below(listed, "models.1."))
    yield Case("one network out of an ensemble", "part", "gru", listed, answers, auto=False)
    first = prefixed(weights("bert"), "0.auto_model.") | {"2.linear.weight": torch.randn(5, 16)}
    yield Case("the first of a sequence", "part", "bert", first, (below(first, "0.auto_model."),))
    extra = weights("conv_net") | {"aux_head.weight": torch.randn(5, 5), "aux_head.bias": torch.randn(5)}
    yield Case("an auxiliary head in the file", "part", "conv_net", extra, (weights("conv_net"),), auto=False)
    counters = {
        f"{place}.{name}": torch.zeros(1) for place in ("fc", "layer1") for name in ("total_ops", "total_params")
    }
    file = weights("res_net") | counters
    yield Case("what a profiler counted in the file", "part", "res_net", file, (weights("res_net"),), auto=False)
    many = {f"head{number}.weight": torch.randn(5, 5) for number in range(40)}
    file = weights("conv_net") | many
    yield Case("many heads next to the model", "part", "conv_net", file, (weights("conv_net"),), auto=False)
    file = weights("bert") | {"encoder.position_ids": torch.arange(4)}
    yield Case("a buffer that the model no longer has", "part", "bert", file, (weights("bert"),), auto=False)


def averages() -> Iterator[Case]:
    pairs = {"named_mlp": ("state_dict", "ema"), "res_net": ("model", "model_ema"), "vit": ("net", "ema_net")}
    for name, (raw, average) in pairs.items():
        states = weights(name), weights(name, 1)
        file = {raw: states[0], average: states[1], "step": 10}
        yield Case(f"{name} next to its average", "average", name, file, states, auto=False)
        flat = prefixed(states[0], f"{raw}.") | prefixed(states[1], f"{average}.")
        yield Case(f"{name} next to its average in one dict", "average", name, flat, states, auto=False)
    states = weights("gru"), weights("gru", 1)
    file = {"model": states[0], "ema": prefixed(states[1], "module.") | {"n_averaged": torch.tensor(7)}}
    yield Case("gru next to an AveragedModel", "average", "gru", file, states, auto=False)
    flat = prefixed(states[0], "model.") | prefixed(states[1], "model_ema.")
    rules = {"only": {"keep": "model_ema.*"}, "off": {"strip": "model_ema.net."}}
    asked: dict[str, Any] = {"checkpoint": {"key": "state_dict"}, "rules": rules}
    yield Case("the average by rules that miss", "average", "gru", {"state_dict": flat}, states[1:], given=asked)
    bare = {key.replace(".", ""): value for key, value in states[1].items()}
    flat = prefixed(states[0], "model.") | prefixed(bare, "model_ema.") | {"model_ema.decay": torch.tensor(0.9)}
    yield Case("gru next to a LitEma", "average", "gru", {"state_dict": flat}, states[:1])
    listed = {"decay": 0.9, "num_updates": 3, "shadow_params": list(states[1].values())}
    yield Case("gru next to a listed average", "average", "gru", {"net": states[0], "ema": listed}, states[:1])


def combined() -> Iterator[Case]:
    for name, changes in RENAMINGS.items():
        state = weights(name)
        file = {"epoch": 1, "state_dict": prefixed(renamed(state, *changes), "module.")}
        yield Case(f"{name}: nested, prefixed, renamed", "combined", name, file, (state,))
    for name in ("res_net", "vit", "gpt"):
        state = weights(name)
        place = {"res_net": r"(layer\d)\.", "vit": r"(blocks\.\d+)\.", "gpt": r"(h\.\d+)\."}[name]
        inside = renamed(state, (place, r"\1._orig_mod."))
        file = {"state_dict": prefixed(inside, "model."), "loss": 0.3}
        yield Case(f"{name}: nested, prefixed, compiled inside", "combined", name, file, (state,))
    state = weights("transformer")
    yield Case(
        "transformer: nested, shifted, renamed",
        "combined",
        "transformer",
        {"model": renamed(shifted(state, "layers", 1), (r"^encoder\.", "backbone."))},
        (state,),
    )
    yield Case(
        "transformer: prefixed, of another family",
        "combined",
        "transformer",
        {"net": prefixed(renamed(state, *FAMILIES["transformer"]), "model.")},
        (state,),
    )
    state = weights("vit")
    yield Case(
        "vit: wrapped twice in a class", "combined", "vit", {"state": prefixed(state, "module.wrapper.net.")}, (state,)
    )
    head = weights("res_net", classes=33)
    yield Case(
        "res_net: renamed, another head",
        "combined",
        "res_net",
        prefixed(renamed(head, (r"^layer(\d)\.", r"stage\1.")), "module."),
        (head, without(head, "fc."), rows_of(head, "fc.", 10)),
        auto=False,
    )


def given() -> Iterator[Case]:
    state = weights("conv_net")
    file = {"state_dict": prefixed(state, "module.net.")}
    key = {"checkpoint": {"key": "state_dict"}}
    yield Case("the key is given", "given", "conv_net", file, (state,), given=key)
    rules = {"ddp": {"strip": "module."}}
    yield Case("the key and a rule are given", "given", "conv_net", file, (state,), given={**key, "rules": rules})
    wrong = {"compile": {"strip": "_orig_mod.", "anywhere": True}}
    yield Case("a wrong rule is given", "given", "conv_net", file, (state,), given={**key, "rules": wrong})
    yield Case("a wrong key is given", "given", "conv_net", file, (state,), given={"checkpoint": {"key": "model"}})
    allowed = without(state, "classifier.")
    yield Case(
        "the head may be missing",
        "given",
        "conv_net",
        prefixed(allowed, "net."),
        (allowed,),
        given={"allow": {"missing": ["classifier.*"]}},
    )


def deep() -> Iterator[Case]:
    """Files of another depth or width than the constructor's defaults: arguments to give."""
    for number, (name, depth) in enumerate((n, d) for n in ("res_net", "transformer", "gpt", "bert") for d in (3, 12)):
        state = filled(build_deep(name, depth))
        file: Any = state if number % 2 else {"state_dict": prefixed(state, "module.")}
        title = f"{name} of depth {depth}"
        yield Case(title, "arguments", name, file, (state,), auto=False, target="build_deep")
    for title, arguments in {
        "wider": {"width": 20}, "deeper": {"depth": 5}, "shallower": {"depth": 1}, "without a bias": {"bias": False},
        "everything else": {"inputs": 9, "width": 5, "depth": 4, "classes": 3, "bias": False},
    }.items():  # fmt: skip
        state = filled(Sized(**arguments))  # type: ignore[arg-type]
        yield Case(f"sized, {title}", "arguments", "", {"model": state}, (state,), auto=False, target="Sized")


def spread() -> Iterator[Case]:
    """One model in several nested dicts of a file."""
    whole = weights("auto_encoder")
    halves = {name: below(whole, f"{name}.") for name in ("encoder", "decoder")}
    answer = (whole,)
    yield Case("an auto encoder in two dicts", "parts", "auto_encoder", halves, answer, auto=False)
    nested = {"epoch": 2, "nets": {f"{name}_state_dict": state for name, state in halves.items()}}
    yield Case("an auto encoder in two nested dicts", "parts", "auto_encoder", nested, answer, auto=False)
    wrapped = {name: prefixed(state, "module.") for name, state in halves.items()}
    yield Case("an auto encoder in two wrapped dicts", "parts", "auto_encoder", wrapped, answer, auto=False)
    whole = weights("conv_net")
    apart = {"backbone": below(whole, "features."), "head": below(whole, "classifier.")}
    yield Case("a conv_net in two dicts of other names", "parts", "conv_net", apart, (whole,), auto=False)


def strangers() -> Iterator[Case]:
    for number, name in enumerate(EVERY):
        for offset in (1, 2, 5):
            other = EVERY[(number + offset) % len(EVERY)]
            if {name, other} != {"named_mlp", "plain_mlp"}:
                yield Case(f"{name} from a {other} file", "stranger", name, weights(other), ())
        yield Case(
            f"{name} from a wrapped file of another",
            "stranger",
            name,
            {"state_dict": prefixed(weights(EVERY[number - 4]), "module.")},
            (),
        )
    for one, other in (("res_net", "res_net_deep"), ("transformer", "transformer_deep"), ("gpt", "gpt_deep")):
        yield Case(f"{one} from a deeper file", "stranger", one, weights(other), ())
        yield Case(f"{other} from a shallower file", "stranger", other, prefixed(weights(one), "module."), ())
    for name in ("vit", "bert", "transformer", "gpt"):
        yield Case(f"one linear layer from a {name} file", "stranger", "one_linear", weights(name), ())
    for one, other in (("vit", "transformer"), ("transformer", "vit"), ("bert", "transformer"), ("gpt", "vit")):
        yield Case(f"{one} from the file of a {other} of its width", "stranger", one, weights(other), ())
    attention = filled(nn.MultiheadAttention(16, 2))
    yield Case("one linear layer from an attention's file", "stranger", "one_linear", attention, ())
    wide = {key: torch.randn([2 * size for size in value.shape]) for key, value in weights("res_net").items()}
    yield Case("res_net from a wider file", "stranger", "res_net", wide, ())
    lacking = {key: value for key, value in weights("conv_net").items() if not key.endswith(".bias")}
    yield Case("conv_net from a file without biases", "stranger", "conv_net", lacking, ())
    more = weights("vit") | {f"blocks.{n}.ls.gamma": torch.randn(16) for n in range(3)}
    yield Case("vit from a file with scales in its layers", "stranger", "vit", more, ())
    alike = filled(Sub(a=nn.Linear(8, 8), b=nn.Linear(8, 8), c=nn.Linear(8, 8)))
    yield Case("layers that only their places could tell apart", "stranger", "same_layers", alike, ())
    yield Case(
        "an optimizer's file",
        "stranger",
        "named_mlp",
        {"state": {n: {"exp_avg": torch.randn(s)} for n, s in enumerate(((32, 20), (32,), (24, 32)))}},
        (),
    )
    others: dict[str, Any] = {"model": weights("unet")}
    moments = {"exp_avg": weights("named_mlp"), "exp_avg_sq": weights("named_mlp", 1)}
    flat = prefixed(moments["exp_avg"], "exp_avg.") | prefixed(moments["exp_avg_sq"], "exp_avg_sq.")
    behind = {f"{key}.{name}": value for name, state in moments.items() for key, value in state.items()}
    state = {key: {"exp_avg": value} for key, value in moments["exp_avg"].items()}
    places: dict[str, dict[str, Any]] = {
        "under their names": moments,
        "in front of the names": flat,
        "behind the names": behind,
        "by parameter": {"state": state, "param_groups": []},
        "of an optimizer of one's own": {"optimizer": {"m": moments["exp_avg"], "v": moments["exp_avg_sq"]}},
    }
    down = {"a.lora_A.weight": torch.randn(2, 20), "a.lora_B.weight": torch.randn(32, 2)}
    yield Case("an adapter without its base", "stranger", "named_mlp", prefixed(down, "base_model.model."), ())
    for title, place in places.items():
        yield Case(f"Adam's moments {title}", "stranger", "named_mlp", others | place, ())
