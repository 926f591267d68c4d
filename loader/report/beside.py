"""The entries of a file next to its weights.

Guarantees: they are described as text, and none of them is rebuilt. The step of training is a finite number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from ..formats.pickle.tree import PLAIN
from ..formats.tree import Container, Leaf, Node, TensorEntry

_STEPS = ("global_step", "step", "epoch")
"""The entries that say how far a training was, best first."""
_NUMBER = re.compile(r"\d{1,18}(\.\d{1,18})?", re.ASCII)


def step_of(root: Container) -> float | None:
    """Returns the step of training at which a file was written; None if it does not say."""
    notes = root.record if isinstance(root.record, dict) else {}  # of a safetensors file, whose values are text
    found = (_number(root.children.get(name), notes.get(name)) for name in _STEPS)
    return next((step for step in found if step is not None), None)


def _number(entry: Node | None, note: object) -> float | None:
    value: object = entry.record if isinstance(entry, Leaf) else None
    if isinstance(note, str) and _NUMBER.fullmatch(note):
        value = int(note) if note.isdecimal() else float(note)
    return value if isinstance(value, int | float) and type(value) is not bool and math.isfinite(value) else None


_MOST = 100
_LEVELS = 2
"""`epoch` and `hyper_parameters.lr` are listed; deeper entries are a trainer's bookkeeping."""


def beside(root: Container, selected: Container) -> dict[str, str]:
    """Describes the entries of a file that are not tensors and contain none.

    Args:
        root: The whole file.
        selected: The container of the weights, which is left out.

    Returns:
        Dotted key → the value of a plain entry, or the type of any other.
    """
    found = {} if root is selected else dict(_entries(root, selected, "", _LEVELS))
    return dict(list(found.items())[:_MOST])


def _entries(container: Container, selected: Container, prefix: str, levels: int) -> Iterator[tuple[str, str]]:
    for name, child in container.children.items():
        key = f"{prefix}{name}"
        if isinstance(child, Leaf):
            yield key, _entry(child)
        elif isinstance(child, Container) and child is not selected and levels > 1 and _is_plain(child):
            yield from _entries(child, selected, f"{key}.", levels - 1)


def _entry(leaf: Leaf) -> str:
    if isinstance(leaf.record, (*PLAIN, list, tuple)):
        return leaf.text
    return f"{leaf.type} ({leaf.text})" if leaf.text else leaf.type


def _is_plain(container: Container) -> bool:
    # Entries next to tensors belong to an optimizer or another state dict.
    return container.kind == "dict" and not any(isinstance(child, TensorEntry) for child in container.children.values())
