"""Recognizes what a file holds other than plain weights, by names, shapes and dtypes.

That is: quantized weights, adapters without their base, optimizers' states, nameless averages, transposed weights, and
whole models. Guarantees: pure functions; the search decides nothing by them. A whole model is offered as a line to
type and never built; a name that only an attack needs is not offered.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..formats.limits import LONGEST_NAME
from ..formats.tree import Container, TensorEntry
from ..keys.candidates import Shape, is_average
from ..keys.guard import by_what_is_left
from ..keys.plain import to_plain
from ..keys.plan import Plan, Wanted
from ..keys.quantized import Quantized, has_plain_weight, quantized, summary
from ..keys.select import MOMENTS, is_moment, without_optimizers
from ..parts.adapters.alone import by_names
from ..text.lines import NO_FIX, Fix, override, typed
from ..text.wording import counted, listing, safe_text
from ..trust import may_be_suggested
from .layouts import doubted, ways
from .names import group

RECORD = "hydra_loader"
"""The note of a converted file that holds its model's config."""
_WITH_MODEL = re.compile(r'"model": ?\{')
_MOST_GLOBALS = 50
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
"""Each kind of adapter, by a name that only it has; a file with several is of the first kind."""
_ADDED = frozenset({"DoRA", "LoRA"})
"""The kinds that can be added to their base."""
_PACKED = "_packed_params._packed_params"
_FIRST_OF_TWO = re.compile(r"lora_(embedding_)?A\b|lora[._]down\b")
_MERGED = Fix("model.merge_and_unload().save_pretrained('FOLDER')", "in peft, writes one")


@dataclass(frozen=True, slots=True)
class Nature:
    """A file or part of it that is not a model's plain weights."""

    remark: str
    instead: tuple[Fix, ...]
    """What to give instead."""


def nature(key: str | None, container: Container) -> Nature | None:
    """Describes the tensors under a nested key; None if they may be plain weights."""
    found = described(container)
    return Nature(f"{_place(key)} {found.remark}", found.instead) if found is not None else None


def scaled_elsewhere(
    key: str, container: Container, root: Container, full: Callable[[str], str], wanted: Mapping[str, Wanted]
) -> Nature | None:
    """Describes quantized tensors under a nested key that take the whole file and the model to recognize."""
    names = {name: full(name) for name in container.children}
    found = by_what_is_left(root, container.children, names, wanted)
    return Nature(f"{_place(key)} quantized: {summary(found)}", to_plain(found)) if found else None


def _place(key: str | None) -> str:
    return f"the file's '{safe_text(key)}' is" if key else "the file is"


def described(container: Container) -> Nature | None:
    """Describes the same without the place: ``quantized: …``, ``a LoRA adapter for …``."""
    entries = container.children
    found = [one for one in quantized(entries) if not has_plain_weight(one, entries)] or list(_by_torch(container))
    return Nature(f"quantized: {summary(found)}", to_plain(found)) if found else _adapter(container.tensors())


def _by_torch(container: Container) -> Iterator[Quantized]:
    """Yields layers that torch's own `quantize_dynamic` packed, or that hold quantized tensors."""
    for name, child in container.children.items():
        if name.endswith(_PACKED):
            yield Quantized("torch.ao", name.removesuffix(_PACKED) + "weight", ())
        elif isinstance(child, TensorEntry) and child.layout == "quantized":
            yield Quantized("torch.ao", name, ())


def moments_alone(root: Container) -> Nature | None:
    """Describes a file that holds nothing but an optimizer's state; None for any other."""
    names = [f"{key}.{name}" if key else name for key, container in root.walk() for name in container.tensors()]
    if not names or not all(map(is_moment, names)):
        return None
    kept = sorted(MOMENTS.intersection(segment for name in names for segment in name.split(".")))
    held = f"the state of an optimizer ({listing(kept)})" if kept else "the state of an optimizer, or gradients,"
    return Nature(
        f"the file holds {held} and no weights",
        (Fix("checkpoint.path=…", "the file with the weights, often next to this one"),),
    )


def adapter_of(names: Iterable[str]) -> str | None:
    """Returns the kind of adapter that some of these names belong to."""
    ends = [name[-LONGEST_NAME:] for name in names]
    return next((kind for kind, written in _ADAPTERS if any(map(written.search, ends))), None)


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
        (
            *(by_names(tensors) if kind in _ADDED else ()),
            Fix("checkpoint.path=…", "a file with merged weights"),
            _MERGED,
        ),
    )


def _changed(name: str) -> str:
    """Returns the module that an adapter's tensor changes."""
    starts = (found.start() for _, written in _ADAPTERS if (found := written.search(name[-LONGEST_NAME:])) is not None)
    return safe_text(name[: min(starts, default=0)].strip("._")) or "the model itself"


_MOST_NAMED = 4


def transposed(plan: Plan, wanted: Mapping[str, Wanted]) -> list[str]:
    """Returns the remarks on weights that are transposed in the file."""
    keys = [mismatch.key for mismatch in plan.mismatched if ways(mismatch.model, mismatch.checkpoint)]
    if not keys:
        return []
    doubt = in_doubt(plan, wanted)
    return [f"transposed in the file: {_patterns(keys)}", *([doubt] if doubt else [])]


def in_doubt(plan: Plan, wanted: Mapping[str, Wanted], dropped: Mapping[str, Shape] | None = None) -> str:
    """Names the square weights that are loaded as they are next to transposed ones; empty if there are none.

    Args:
        plan: The plan.
        wanted: The model's keys.
        dropped: The shapes of tensors that rules dropped, by full model key.
    """
    left_out = {key: shape for key, shape in (dropped or {}).items() if key in wanted}
    pairs = [(m.key, m.model, m.checkpoint) for m in plan.mismatched]
    pairs += [(key, wanted[key].shape or (), shape) for key, shape in left_out.items()]
    crossed = {key: (mine, theirs) for key, mine, theirs in pairs if ways(mine, theirs)}
    if not crossed:
        return ""
    taken = {match.key: match.taken.shape for match in plan.matches if wanted[match.key].kind == "parameter"}
    squares = doubted(taken, crossed)
    if not squares:
        return ""
    return f"square and next to transposed ones, so they may be transposed too: {_patterns(squares)}"


def _patterns(keys: Iterable[str]) -> str:
    found = [safe_text(one.pattern, 100) for one in group(dict.fromkeys(keys), star=False)]
    return ", ".join(found[:_MOST_NAMED]) + (", …" if len(found) > _MOST_NAMED else "")


_ENOUGH = 0.9
_MOST_REMARKS = 3


def nameless(root: Container, wanted: Mapping[str, Wanted]) -> list[str]:
    """Names the averages that no rule can load: they have no names, or names without their dots."""
    parameters = {key: want.shape for key, want in wanted.items() if want.kind == "parameter" and want.first == key}
    bare = {name.replace(".", ""): shape for name, shape in parameters.items() if "." in name}
    longest = max(bare, key=len, default="")
    shapes = list(parameters.values())
    remarks: list[str] = []
    for key, container in without_optimizers(root):
        if container.kind == "list" and is_average(key):
            remarks += _listed(key, container.tensors(), shapes)
        elif longest and container.kind != "list":
            remarks += _undotted(key, container.tensors(), bare, longest)
        if len(remarks) >= _MOST_REMARKS:
            break
    return remarks


def _listed(key: str, tensors: Mapping[str, TensorEntry], shapes: Sequence[tuple[int, ...] | None]) -> Iterator[str]:
    """Describes a list as `torch_ema` keeps it."""
    if tensors:
        fits = "in the order" if [entry.shape for entry in tensors.values()] == list(shapes) else "not in the shapes"
        yield (
            f"'{safe_text(key)}' is an average kept as a list of {len(tensors):,} tensors without names, {fits} of the "
            "model's parameters; no rule names them"
        )


def _undotted(
    key: str, tensors: Mapping[str, TensorEntry], bare: Mapping[str, tuple[int, ...] | None], longest: str
) -> Iterator[str]:
    """Describes names as `LitEma` of latent-diffusion writes them: the model's, without their dots."""
    starts = (name.removesuffix(longest) for name in tensors if name.endswith(longest))
    for start in itertools.islice(starts, _MOST_REMARKS):
        fitting = sum(_has(tensors, start + name, shape) for name, shape in bare.items())
        if fitting >= _ENOUGH * len(bare):
            place = f"{key}.{start}" if key else start
            yield (
                f"'{safe_text(place)}*' is an average whose names have lost their dots (as LitEma writes them), of "
                f"{fitting:,} of the model's {len(bare):,} parameters; no rule puts them back"
            )


def _has(tensors: Mapping[str, TensorEntry], name: str, shape: tuple[int, ...] | None) -> bool:
    return name in tensors and shape in (None, tensors[name].shape)


def embedded_line(place: Sequence[str], notes: object) -> Fix:
    """Returns the line that builds the model whose config `mode=convert` wrote into the file; empty for other files.

    Args:
        place: As `located` returns it.
        notes: The file's header, without its tensors.
    """
    record = notes.get(RECORD) if isinstance(notes, Mapping) else None
    embedded = isinstance(record, str) and _WITH_MODEL.search(record) is not None
    return typed("model=embedded", *place) if embedded and place else NO_FIX


def pickled_line(place: Sequence[str], names: Sequence[str]) -> Fix:
    """Returns the line that takes a whole pickled model out of the file; empty if it needs a name only an attack does.

    Args:
        place: As `located` returns it.
        names: The names that rebuilding the model would import.
    """
    if not place or not 0 < len(names) <= _MOST_GLOBALS or not all(map(may_be_suggested, names)):
        return NO_FIX
    return typed("model=null", *place, override("checkpoint.allow_globals", names), note="if you trust what it names")
