"""What an adapter's tensors are: differences and replacements, under the names of what they change.

Guarantees: pure functions of names, shapes and dtypes. Every tensor of the file is part of exactly one delta, or the
file is refused with the odd ones named. The values of a delta are computed when they are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ...errors import CheckpointError, FitError
from ...formats.boxes import computed, is_movable
from ...formats.formulas.additions import Product
from ...formats.formulas.records import Scaled
from ...formats.limits import LARGEST_RANK
from ...formats.tree import FLOATS, TensorEntry
from ...text.lines import Fix
from ...text.wording import counted, listing, phrases, safe_text, shape
from .peft import MERGED, Peft, belongs

Kind = Literal["product", "sum", "replaced"]
"""A product of two matrices and a sum are added; a replacement takes the place of what is there."""
_ENDS = (
    # PEFT and diffusers
    (re.compile(r"(.+)\.lora_A(?:\.default)?\.weight"), "down"),
    (re.compile(r"(.+)\.lora_B(?:\.default)?\.weight"), "up"),
    (re.compile(r"(.+)\.lora_B(?:\.default)?\.bias"), "bias"),
    (re.compile(r"(.+)\.lora_embedding_A(?:\.default)?"), "table_down"),
    (re.compile(r"(.+)\.lora_embedding_B(?:\.default)?"), "table_up"),
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"), "magnitude"),
    # kohya, and diffusers until 0.20
    (re.compile(r"(.+)\.lora_down\.weight"), "down"),
    (re.compile(r"(.+)\.lora_up\.weight"), "up"),
    (re.compile(r"(.+)\.alpha"), "alpha"),
    (re.compile(r"(.+)(?:\.lora|_lora|\.lora_linear_layer)\.down\.weight"), "down"),
    (re.compile(r"(.+)(?:\.lora|_lora|\.lora_linear_layer)\.up\.weight"), "up"),
)
"""The roles of an adapter's tensors by the end of their names, behind the module."""
_OTHERS = (
    ("LoHa", re.compile(r"(?:^|\.)hada_[wt][12]")),
    ("LoKr", re.compile(r"(?:^|\.)lokr_[wt][12]")),
    ("IA3", re.compile(r"(?:^|\.)ia3_l\b")),
    ("VeRA", re.compile(r"(?:^|\.)vera_(?:lambda_|[AB]\b)")),
    ("OFT", re.compile(r"(?:^|\.)b?oft_(?:r|s|R|blocks|diag)\b")),
    ("GLoRA", re.compile(r"\.(?:a1|a2|b1|b2)\.weight$")),
    ("DoRA of LyCORIS", re.compile(r"\.dora_scale$")),
    ("LoCon with a third factor", re.compile(r"\.lora_mid\.weight$")),
)
"""Adapters that are not sums of products of two matrices, by a name that only they have."""
_ANY_OTHER = re.compile("|".join(sign.pattern for _, sign in _OTHERS))
_WHOLE = re.compile(r"\.(?:modules_to_save(?:\.default)?|base_layer)(?=\.)")
_PREFIX = "base_model.model."
_LONGEST_END = 60
_PROCESSOR = ".processor."
"""What diffusers until 0.20 puts in front of an attention's layers."""


@dataclass(frozen=True, slots=True)
class Delta:
    """One change of an adapter."""

    kind: Kind
    entry: TensorEntry
    """The difference or the replacement."""
    sources: tuple[str, ...]
    """Its keys in the adapter's file."""
    magnitude: TensorEntry | None = None
    """DoRA's."""
    of_layer: bool = False
    """Whether it is a product of two matrices of a layer, whose class knows if its weight is [in, out]."""


Found = dict[str, tuple[str, TensorEntry]]
"""The tensors of one module, with their keys, by role."""


def is_low_rank(names: Iterable[str]) -> bool:
    """Whether a file holds low-rank products, or another kind of adapter."""
    return any(_role(name) is not None or _other(name) for name in names if not name.endswith(".alpha"))


def modules_of(names: Iterable[str]) -> list[str]:
    """Returns the modules that a file without PEFT's config has products of."""
    found = (role for name in names if (role := _role(name)) is not None)
    return list(dict.fromkeys(_named(module, None) for module, _ in found))


def of_products(
    tensors: Mapping[str, TensorEntry], config: Peft | None, where: str, networks: Mapping[str, Peft] | None = None
) -> dict[str, Delta]:
    """Returns the changes of a LoRA by module, or by key for a bias and for a tensor that is replaced.

    Args:
        tensors: The file's tensors by key.
        config: PEFT's; None for a file of kohya or diffusers.
        where: The file, for messages.
        networks: The configs in the file's header, by the prefix of their modules.

    Raises:
        CheckpointError: The file is another kind of adapter, or its tensors contradict each other or the config.
        FitError: Some tensors belong to no change.
    """
    _refuse_others(tensors, where)
    modules: dict[str, Found] = {}
    changes: dict[str, Delta] = {}
    odd: list[str] = []
    for key, entry in tensors.items():
        found = _role(key)
        if found is not None and not (config is not None and found[1] == "alpha"):
            roles = modules.setdefault(_named(found[0], config), {})
            odd += [key] if found[1] in roles else []
            roles[found[1]] = key, entry
        elif config is not None:
            name = _named(_WHOLE.sub("", key), config)
            odd += [key] if name in changes else []
            changes[name] = Delta("replaced", entry, (key,))
        else:
            odd.append(key)
    odd += [key for roles in modules.values() if not _is_complete(roles) for key, _ in roles.values()]
    if odd:
        raise FitError(
            f"{where} has {counted(len(odd), 'tensor')} without a place in a product of two matrices, or with a "
            f"place that another one has: {listing(odd)}",
            Fix(note="save the adapter again; nothing of it is left out silently"),
        )
    configs = {"": config} if config is not None else networks or {}
    owners = {name: owner for name in modules if (owner := _owner(name, configs)) is not None}
    _refuse_contradictions(modules, {name: configs[owner] for name, owner in owners.items()}, where)
    ranks = {name: _matrices(roles)[1][1].shape[0] for name, roles in modules.items()}
    factors = dict.fromkeys(ranks, 1.0)
    for network, known in configs.items():
        start = f"{network}." if network else ""
        own = {name.removeprefix(start): rank for name, rank in ranks.items() if owners.get(name) == network}
        factors |= {f"{start}{name}": factor for name, factor in known.factors(own).items()}
    for name, roles in modules.items():
        turned = name in owners and configs[owners[name]].transposed
        changes |= _changes(name, roles, factors[name], turned=turned)
    return changes


def _owner(module: str, networks: Iterable[str]) -> str | None:
    """The network that a module is part of; None if it is part of none."""
    return max((network for network in networks if belongs(module, network)), key=len, default=None)


def _role(key: str) -> tuple[str, str] | None:
    """The module and the role of a tensor; None if it belongs to no product."""
    if "lora" not in key and not key.endswith(".alpha"):
        return None  # most keys of a file of differences
    for end, role in _ENDS:
        found = end.fullmatch(key)
        if found is not None:
            return found[1], role
    return None


def _named(name: str, config: Peft | None) -> str:
    return name.removeprefix(_PREFIX) if config is not None else name.replace(_PROCESSOR, ".")


def _other(key: str) -> str:
    """The kind of an adapter that is not made of products of two matrices, by one of its keys; else empty."""
    end = key[-_LONGEST_END:]
    if _ANY_OTHER.search(end) is None:
        return ""
    return next(kind for kind, sign in _OTHERS if sign.search(end))


def _refuse_others(keys: Iterable[str], where: str) -> None:
    kinds = list(dict.fromkeys(filter(None, map(_other, keys))))
    if kinds:
        raise CheckpointError(
            f"{where} is an adapter of an unsupported type: {listing(kinds)}; products of two matrices are merged "
            "(LoRA, rsLoRA, DoRA)",
            MERGED,
        )


def _is_complete(roles: Found) -> bool:
    kinds = set(roles)
    if "table_up" in kinds or "table_down" in kinds:
        return {"table_up", "table_down"} <= kinds <= {"table_up", "table_down", "magnitude"}
    # The factor of a bias next to an alpha is nowhere defined.
    return {"up", "down"} <= kinds and not {"alpha", "bias"} <= kinds


def _matrices(roles: Found) -> tuple[tuple[str, TensorEntry], tuple[str, TensorEntry]]:
    """The two matrices of a module: up [out, rank], down [rank, in]."""
    return (roles["table_up"], roles["table_down"]) if "table_up" in roles else (roles["up"], roles["down"])


def _refuse_contradictions(modules: Mapping[str, Found], configs: Mapping[str, Peft], where: str) -> None:
    faults = [
        f"{safe_text(name)}: {fault}" for name, roles in modules.items() for fault in _faults(roles, configs.get(name))
    ]
    if faults:
        raise CheckpointError(
            f"{where} contradicts itself: {phrases(faults)}", Fix(note="do not use it; ask whoever made it")
        )


def _faults(roles: Found, config: Peft | None) -> Iterator[str]:
    for key, entry in roles.values():
        if not is_movable(entry) or (not is_floating(entry) and not key.endswith(".alpha")):
            yield f"{safe_text(key)} is {entry.layout} {entry.dtype}, expected dense floating-point numbers"
        held = sum(storage.nbytes for storage in entry.storages())
        if held and held < entry.nbytes:
            yield f"{safe_text(key)} {shape(entry.shape)} says it is larger than its data"
    (_, up), (_, down) = _matrices(roles)
    if len(up.shape) < 2 or len(down.shape) < 2 or up.shape[1] != down.shape[0] or set(up.shape[2:]) - {1}:
        yield f"{shape(up.shape)} and {shape(down.shape)} have no product"
        return
    rank, largest = down.shape[0], max(up.shape[0], *down.shape[1:])
    if not 0 < rank <= max(largest, LARGEST_RANK):
        yield f"{shape(up.shape)} · {shape(down.shape)} has rank {rank:,}, expected 1 to {max(largest, LARGEST_RANK):,}"
    for role, count in (("alpha", 1), ("bias", up.shape[0]), ("magnitude", up.shape[0])):
        if role in roles and roles[role][1].numel != count:
            yield f"its {role} has the shape {shape(roles[role][1].shape)}, expected {counted(count, 'number')}"
    if config is not None and "alpha" in roles:
        yield "it has an alpha, and the header of the file has another one (lora_adapter_metadata)"
    if config is not None and config.dora != ("magnitude" in roles):
        yield f"it has {'no' if config.dora else 'a'} lora_magnitude_vector, the config says use_dora={config.dora}"


def _changes(name: str, roles: Found, factor: float, *, turned: bool) -> Iterator[tuple[str, Delta]]:
    (up_key, up), (down_key, down) = _matrices(roles)
    turned = "table_up" in roles or (turned and len(down.shape) == 2)
    sources, inputs = [down_key, up_key], [up, down]
    if "alpha" in roles:
        factor /= down.shape[0]
        sources.append(roles["alpha"][0])
        inputs.append(roles["alpha"][1])
    size = (*down.shape[1:], up.shape[0]) if turned else (up.shape[0], *down.shape[1:])
    made = Product(factor, turned, "alpha" in roles)
    magnitude = roles.get("magnitude")
    sources += [] if magnitude is None else [magnitude[0]]
    yield (
        name,
        Delta(
            "product",
            computed(made, inputs, size, down.dtype),
            tuple(sources),
            None if magnitude is None else magnitude[1],
            of_layer="up" in roles and len(down.shape) == 2,
        ),
    )
    if "bias" in roles:
        key, bias = roles["bias"]
        yield f"{name}.bias", Delta("sum", computed(Scaled(factor), [bias], bias.shape), (key,))


def oriented(delta: Delta, turned: bool | None) -> Delta:
    """Returns a change as the layer keeps its weight: [in, out] if `turned`; None for a layer that does not say so."""
    entry, made = delta.entry, delta.entry.formula
    if not delta.of_layer or turned is None or not isinstance(made, Product) or made.turned is turned:
        return delta
    made = replace(made, turned=turned)
    return replace(delta, entry=computed(made, entry.inputs, entry.shape[::-1], entry.dtype))


def is_floating(entry: TensorEntry) -> bool:
    """Whether an entry holds real floating-point numbers."""
    return entry.dtype in FLOATS
