"""What a file says next to the weights: hyperparameters, epochs, versions.

Guarantees: shown, never acted on. Nothing is rebuilt for it: plain values are told as such, anything else by its type;
how many are told is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..formats.pickle.tree import PLAIN
from ..formats.tree import Container, Leaf, TensorEntry

_MOST = 100
_LEVELS = 2
"""`epoch` and `hyper_parameters.lr` are told; what lies deeper is the bookkeeping of a trainer."""


def beside(root: Container, selected: Container) -> dict[str, str]:
    """Describes the entries of a file that are neither tensors nor hold any.

    Args:
        root: The whole file.
        selected: Where the weights were taken from; nothing of it is told.

    Returns:
        Dotted key → the value of a plain entry, the type of another.
    """
    found = {} if root is selected else dict(_entries(root, selected, "", _LEVELS))
    return dict(list(found.items())[:_MOST])


def _entries(container: Container, selected: Container, prefix: str, levels: int) -> Iterator[tuple[str, str]]:
    for name, child in container.children.items():
        key = f"{prefix}{name}"
        if isinstance(child, Leaf):
            yield key, _told(child)
        elif isinstance(child, Container) and child is not selected and levels > 1 and _is_plain(child):
            yield from _entries(child, selected, f"{key}.", levels - 1)


def _told(leaf: Leaf) -> str:
    if isinstance(leaf.record, (*PLAIN, list, tuple)):
        return leaf.text
    return f"{leaf.type} ({leaf.text})" if leaf.text else leaf.type


def _is_plain(container: Container) -> bool:
    """Beside tensors stand the settings of an optimizer, or what another state dict holds."""
    return container.kind == "dict" and not any(isinstance(child, TensorEntry) for child in container.children.values())
