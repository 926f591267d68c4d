"""Files that hold no model's plain weights, by name: quantized ones, adapters without their base, optimizers' states.

Guarantees: pure functions of names, shapes and dtypes; nothing is proposed here, and the search decides nothing by it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..formats.limits import LONGEST_NAME
from ..formats.tree import Container, TensorEntry
from ..keys.optimizers import MOMENTS, is_moment
from ..keys.plan import Plan, Wanted
from ..keys.quantized import Quantized, by_what_is_left, has_plain_weight, quantized, to_plain, told
from ..text.lines import Fix
from ..text.wording import counted, listing, safe_text
from .attempts import Shape
from .names import group, segments

_ADAPTERS = (
    ("DoRA", re.compile(r"(^|\.)lora_magnitude_vector\b|\.dora_scale$")),
    ("LoRA", re.compile(r"(^|[._])lora_(embedding_)?[AB](\.|$)|(^|[._])lora[._](up|down)\.|\.lora_[AB]_")),
    ("LoHa", re.compile(r"(^|\.)hada_[wt][12]")),
    ("LoKr", re.compile(r"(^|\.)lokr_[wt][12]")),
    ("IA3", re.compile(r"(^|\.)ia3_l\b")),
    ("VeRA", re.compile(r"(^|\.)vera_lambda_")),
    ("OFT", re.compile(r"(^|\.)b?oft_(r|s|R|blocks|diag)\b")),
    ("prompt-tuning", re.compile(r"(^|\.)prompt_embeddings$")),
)
"""Each kind of adapter, by a name that only it has; what has several of them is the first."""
_PACKED = "_packed_params._packed_params"
_FIRST_OF_TWO = re.compile(r"lora_(embedding_)?A\b|lora[._]down\b")
_MERGED = Fix("model.merge_and_unload().save_pretrained('FOLDER')", "in peft, writes such a one")


@dataclass(frozen=True, slots=True)
class Nature:
    """What a file is instead of a model's plain weights."""

    remark: str
    instead: tuple[Fix, ...]
    """What to give in its place."""


def nature(key: str | None, container: Container) -> Nature | None:
    """Says what the tensors under a nested key are; None where they may be plain weights."""
    found = described(container)
    return Nature(f"{_place(key)} {found.remark}", found.instead) if found is not None else None


def scaled_elsewhere(
    key: str, container: Container, root: Container, full: Callable[[str], str], wanted: Mapping[str, Wanted]
) -> Nature | None:
    """Says that the tensors under a nested key are quantized where that takes the whole file and the model to tell."""
    names = {name: full(name) for name in container.children}
    found = by_what_is_left(root, container.children, names, wanted)
    return Nature(f"{_place(key)} quantized: {told(found)}", to_plain(found)) if found else None


def _place(key: str | None) -> str:
    return f"the file's '{safe_text(key)}' is" if key else "the file is"


def described(container: Container) -> Nature | None:
    """The same without its place: ``quantized: …``, ``a LoRA adapter for …``."""
    entries = container.children
    found = [one for one in quantized(entries) if not has_plain_weight(one, entries)] or list(_by_torch(container))
    return Nature(f"quantized: {told(found)}", to_plain(found)) if found else _adapter(container.tensors())


def _by_torch(container: Container) -> Iterator[Quantized]:
    """Layers that torch's own `quantize_dynamic` packed, or that hold quantized tensors."""
    for name, child in container.children.items():
        if name.endswith(_PACKED):
            yield Quantized("torch.ao", name.removesuffix(_PACKED) + "weight", ())
        elif isinstance(child, TensorEntry) and child.layout == "quantized":
            yield Quantized("torch.ao", name, ())


def moments_alone(root: Container) -> Nature | None:
    """Says that a file holds nothing but what an optimizer keeps; None where it holds anything else."""
    names = [f"{key}.{name}" if key else name for key, container in root.walk() for name in container.tensors()]
    if not names or not all(map(is_moment, names)):
        return None
    kept = sorted(MOMENTS.intersection(segment for name in names for segment in name.split(".")))
    held = f"the state of an optimizer ({listing(kept)})" if kept else "the state of an optimizer, or gradients,"
    return Nature(
        f"the file holds {held} and no weights",
        (Fix("checkpoint.path=…", "the file of the model's weights, often next to it"),),
    )


def adapter_of(names: Iterable[str]) -> str | None:
    """The kind of adapter that some of these names belong to."""
    given = [name[-LONGEST_NAME:] for name in names]
    return next((kind for kind, written in _ADAPTERS if any(map(written.search, given))), None)


def _adapter(tensors: Mapping[str, TensorEntry]) -> Nature | None:
    kind = adapter_of(tensors)
    if kind is None:
        return None
    written = [name for name in tensors if adapter_of([name]) is not None]
    changed = list(dict.fromkeys(_changed(name) for name in written))
    ranks = {min(tensors[name].shape) for name in written if _FIRST_OF_TWO.search(name) and tensors[name].shape}
    rank = f", rank {min(ranks)}{'' if len(ranks) == 1 else f' to {max(ranks)}'}" if ranks else ""
    base = "with" if any(".base_layer." in f".{name}" for name in tensors) else "without"
    modules = f"{counted(len(changed), 'module')} ({listing(changed, 3)}{rank})"
    return Nature(
        f"a {kind} adapter for {modules}, {base} the weights that it changes",
        (Fix("checkpoint.path=…", "a file with merged weights"), _MERGED),
    )


def _changed(name: str) -> str:
    """The module that an adapter's tensor changes."""
    starts = (found.start() for _, written in _ADAPTERS if (found := written.search(name[-LONGEST_NAME:])) is not None)
    return safe_text(name[: min(starts, default=0)].strip("._")) or "the model itself"


_MOST_NAMED = 4


def turned(model: Shape, file: Shape) -> bool:
    """Whether one shape is the other transposed, as a matrix or as the kernel of a convolution."""
    return model != file and len(model) > 1 and file in _transposes(model)


def _transposes(shape: Shape) -> tuple[Shape, ...]:
    return shape[::-1], (shape[1], shape[0], *shape[2:])


def transposed(plan: Plan, wanted: Mapping[str, Wanted]) -> list[str]:
    """What a refusal says of weights that lie transposed in the file."""
    keys = [mismatch.key for mismatch in plan.mismatched if turned(mismatch.model, mismatch.checkpoint)]
    if not keys:
        return []
    doubt = in_doubt(plan, wanted)
    return [f"transposed in the file, and no rule turns them: {listing(keys)}", *([doubt] if doubt else [])]


def in_doubt(plan: Plan, wanted: Mapping[str, Wanted], dropped: Mapping[str, Shape] | None = None) -> str:
    """Names the square weights that are loaded as they are next to transposed ones; empty where there are none.

    Args:
        plan: What is done.
        wanted: The model's keys.
        dropped: The shapes of tensors that rules dropped, by full model key.
    """
    left_out = {key: shape for key, shape in (dropped or {}).items() if key in wanted}
    pairs = [(m.key, m.model, m.checkpoint) for m in plan.mismatched]
    pairs += [(key, wanted[key].shape or (), shape) for key, shape in left_out.items()]
    crossed = {key: mine for key, mine, theirs in pairs if turned(mine, theirs)}
    if not crossed:
        return ""
    ranks = set(map(len, crossed.values()))
    taken = {match.key: match.taken.shape for match in plan.matches if wanted[match.key].kind == "parameter"}
    loaded = {key: shape for key, shape in taken.items() if len(shape) in ranks}
    straight = [key for key, shape in loaded.items() if not _is_square(shape)]
    squares = [key for key, shape in loaded.items() if _is_square(shape)]
    doubted = dict.fromkeys(_next_to(squares, crossed, straight))
    if not doubted:
        return ""
    patterns = [safe_text(found.pattern, 100) for found in group(doubted, star=False)]
    named = ", ".join(patterns[:_MOST_NAMED]) + (", …" if len(patterns) > _MOST_NAMED else "")
    return f"square next to transposed ones, so that nothing says whether they are transposed too: {named}"


def _is_square(shape: Shape) -> bool:
    return shape in _transposes(shape) and max(shape[:2]) > 1


def _next_to(squares: Iterable[str], crossed: Iterable[str], straight: Iterable[str]) -> Iterator[str]:
    """Those whose nearest module with weights of two sizes has transposed ones."""
    around_crossed, around_straight = _modules(crossed), _modules(straight)
    for key in squares:
        path = segments(key)
        around = (path[:at] for at in range(len(path) - 1, -1, -1))
        nearest = next((m for m in around if m in around_crossed or m in around_straight), None)
        if nearest in around_crossed:
            yield key


def _modules(keys: Iterable[str]) -> set[tuple[str, ...]]:
    return {path[:at] for path in map(segments, keys) for at in range(len(path))}
