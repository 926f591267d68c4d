"""Which part of a file holds the weights.

Guarantees: an explicit nested key is taken literally; where it is absent, nothing is guessed: the refusal shows the
file's tree.
"""

from __future__ import annotations

from collections.abc import Collection

from ..errors import FitError
from ..formats.tree import Container, Leaf, Node, TensorEntry
from ..text.lines import line
from ..text.wording import closest, counted, safe_text
from .optimizers import TABLES

_MOST_LINES = 12


def select(root: Container, key: str | None, wanted: Collection[str], path: str) -> Container:
    """Finds the container whose tensors are to be loaded.

    Args:
        root: The whole file.
        key: Dotted nested key; None is the file's top level.
        wanted: The model's keys: a container without tensors is taken where it has one of them.
        path: The file, for messages.

    Raises:
        FitError: The key is not there, or holds no tensor; `loader.suggest` adds the line to type.
    """
    found = root if key is None else find(root, key)
    if isinstance(found, Container) and (found.tensors() or any(name in found.children for name in wanted)):
        return found
    raise FitError(f"{_misses(found, root, key, path)}. In the file:\n{tree(root)}")


def subtree(root: Container, key: str | None, path: str, override: str = "checkpoint.key") -> Container:
    """Finds what stands under a nested key, whether it can be loaded or not; raises FitError as `select` does."""
    found = root if key is None else find(root, key)
    if isinstance(found, Container):
        return found
    what = _misses(found, root, key, path)
    raise FitError(f"{what}. In the file:\n{tree(root)}", line(override, None, note="all that is in the file"))


def _misses(found: Node | None, root: Container, key: str | None, path: str) -> str:
    place = "the top level" if key is None else f"the nested key '{safe_text(key)}'"
    if found is None:
        near = near_key(root, key or "")
        told = f" (did you mean '{safe_text(near)}'?)" if near else ""
        return f"{place} is not in {path}{told}"
    if isinstance(found, Container):
        return f"{place} of {path} holds no tensor itself"
    kind = "one tensor" if isinstance(found, TensorEntry) else f"an entry of type {safe_text(found.type)}"
    return f"{place} of {path} is {kind}, not a state dict"


def near_key(root: Container, key: str) -> str | None:
    """The nested key that looks like a mistyped one: its whole name, or the last segment of it."""
    known: dict[str, str] = {}
    for name, _ in root.walk():
        known.setdefault(name.rpartition(".")[2], name)
    known |= {name: name for name, _ in root.walk()}
    near = closest(key, filter(None, known), most=1)
    return known[near[0]] if near else None


def find(root: Container, key: str) -> Node | None:
    """Follows a dotted key; a name that holds dots itself is found as well. None where it leads nowhere."""
    if key in root.children:
        return root.children[key]
    head = key
    while "." in head:
        head = head.rpartition(".")[0]
        child = root.children.get(head)
        if isinstance(child, Container):
            found = find(child, key[len(head) + 1 :])
            if found is not None:
                return found
    return None


def only_optimizer(root: Container) -> bool:
    """Whether all that a file holds is the state of optimizers, as `Optimizer.state_dict` gives it."""
    found, pending, seen = False, [root], {id(root)}
    while pending:
        container = pending.pop()
        table = container.children.keys() >= TABLES
        found = found or table
        for name, child in container.children.items():
            if table and name in TABLES:
                continue
            if isinstance(child, TensorEntry):
                return False
            if isinstance(child, Container) and id(child) not in seen:
                seen.add(id(child))
                pending.append(child)
    return found


def tree(root: Container) -> str:
    """Draws the containers of a file with their tensor counts, one per line, a bounded number of them."""
    lines = []
    for key, container in root.walk():
        name = safe_text(key) if key else "(top level)"
        kind = f"pickled {safe_text(container.type)}" if container.kind == "module" else container.kind
        others = [name for name, child in container.children.items() if isinstance(child, Leaf)]
        beside = f", {counted(len(others), 'other entry', 'other entries')}" if others else ""
        lines.append(f"  {name}: {kind}, {counted(len(container.tensors()), 'tensor')}{beside}")
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"  … and {len(lines) - _MOST_LINES} more containers"]
    return "\n".join(lines)
