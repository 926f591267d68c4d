"""Scales under unknown names: recognized by the narrow weights that they belong to, wherever they are in a file.

Guarantees: pure functions of names, shapes and dtypes. A tensor that the model takes is not a scale, nor is anything as
large as the weight, of a shape that matches none of its dimensions, or not of numbers; and integers are scales only
where they are called so.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..formats.limits import MOST_SCALES
from ..formats.tree import Container, Leaf, Node, TensorEntry
from .plan import Wanted

_NARROW = re.compile(r"float[48]_|u?int[1-8]$")
_WIDE = re.compile(r"b?float(16|32|64)|float8_e8m0fnu")
_WHOLE = re.compile(r"u?int(8|16|32|64)")
_SCALE = re.compile(r"scales?(?![a-z])|absmax|zero_?point", re.IGNORECASE)
_OF_OTHERS = re.compile(
    r"loss|grad|logit|softmax|attn|input|output|act|in_|out_|bias|running_|lora_|ia3", re.IGNORECASE
)
"""Names of small tensors next to a weight that do not scale it."""
_SIGNS = "_.:"
_MOST_SEGMENTS = 8


@dataclass(slots=True)
class Small:
    """Possible scales: the numbers that the model does not take, by every name that they may refer to."""

    named: dict[str, list[tuple[str, Node]]] = field(default_factory=dict)
    """Key of a weight or of its module → place in the file, entry."""
    whole: list[tuple[str, Node]] = field(default_factory=list)
    """Entries outside the weights with a scale's name; they may belong to any weight."""


def narrow(
    entries: Mapping[str, Node], names: Mapping[str, str], wanted: Mapping[str, Wanted]
) -> list[tuple[str, TensorEntry]]:
    """Returns the weights in a quantized dtype for which the model expects floats, by their names in the file."""
    return [
        (key, entry)
        for key, entry in entries.items()
        if isinstance(entry, TensorEntry) and len(entry.shape) > 1 and _NARROW.match(entry.dtype)
        if (want := wanted.get(names.get(key, ""))) is not None and _WIDE.match(want.dtype)
    ]


def small(root: Container, entries: Mapping[str, Node], taken: Iterable[str]) -> Small:
    """Collects the possible scales.

    Args:
        root: The whole file.
        entries: The entries under the selected key.
        taken: The names there that the model takes.
    """
    found, used = Small(), set(taken)
    for count, (place, name, entry) in enumerate(_numbers(root, entries)):
        if count >= MOST_SCALES:
            break
        beside = place is None
        if beside and name in used:
            continue
        shown = name if not place else f"{place}.{name}"
        for meant in _meant(name, beside=beside):
            found.named.setdefault(meant, []).append((shown, entry))
        held = _is_called_so((place or "").rpartition(".")[2])
        if held or (not beside and _is_called_so(name) and (not place or isinstance(entry, TensorEntry))):
            found.whole.append((shown, entry))
    return found


def scale_of(key: str, weight: TensorEntry, found: Small) -> str | None:
    """Returns the place of a weight's scale in the file; None if it has none."""
    of_its_name = found.named.get(key, ())
    of_its_module = (
        (place, entry)
        for place, entry in found.named.get(key.rpartition(".")[0], ())
        if not _OF_OTHERS.search(place.rpartition(".")[2]) and (isinstance(entry, TensorEntry) or _is_called_so(place))
    )
    possible = itertools.chain(of_its_name, of_its_module, found.whole)
    return next((place for place, entry in possible if _may_scale(entry, weight)), None)


def _numbers(root: Container, entries: Mapping[str, Node]) -> Iterator[tuple[str | None, str, Node]]:
    """Yields every possible scale of a file: its container outside the selected key (None under it), name, and entry.

    Integers count and number all kinds of things, and scale where they, or what holds them, is called so.
    """
    yield from ((None, name, entry) for name, entry in entries.items() if _is_number(entry, name))
    for place, container in root.walk():
        if container.children is not entries:
            held = place.rpartition(".")[2]
            each = container.children.items()
            yield from ((place, name, entry) for name, entry in each if _is_number(entry, name, held))


def _meant(name: str, *, beside: bool) -> Iterator[str]:
    """Yields what a name may refer to: `scales.fc.weight`, `fc.weight_s` and `fc.s` refer to `fc.weight`."""
    path = name.split(".")[-_MOST_SEGMENTS:]
    if beside and len(path) == 1:
        yield ""  # a name without dots belongs to the model itself
    for at in range(len(path)):
        if at and not any(map(_is_called_so, path[:at])):
            continue
        rest = ".".join(path[at:])
        if at or not beside:
            yield rest
        yield from (rest[:end] for end in range(1, len(rest)) if rest[end] in _SIGNS and "." not in rest[end + 1 :])


def _is_called_so(name: str) -> bool:
    return _SCALE.search(name) is not None and _OF_OTHERS.search(name) is None


def _is_number(entry: Node, *names: str) -> bool:
    if isinstance(entry, TensorEntry):
        wide, whole = _WIDE.match(entry.dtype) is not None, _WHOLE.match(entry.dtype) is not None
    elif isinstance(entry, Leaf):
        wide, whole = entry.type == "float", entry.type == "int"
    else:
        return False
    return wide or (whole and any(map(_is_called_so, names)))


def _may_scale(entry: Node, weight: TensorEntry) -> bool:
    """Whether a number, or a row, column or blocks of numbers, can scale a weight."""
    if not isinstance(entry, TensorEntry) or entry.numel == 1:
        return True
    kept = [size for size in entry.shape if size != 1]
    blocks = len(entry.shape) == len(weight.shape) and all(
        size and not whole % size for size, whole in zip(entry.shape, weight.shape, strict=True)
    )
    of_one = len(kept) == 1 and kept[0] in (weight.shape[0], weight.shape[-1])
    return entry.numel < math.prod(weight.shape) and (blocks or of_one)
