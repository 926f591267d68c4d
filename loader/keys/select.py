"""Which part of a file holds the weights, and which belong to an optimizer.

Guarantees: pure functions of names. An explicit nested key is taken literally; where it is absent, nothing is guessed:
the refusal shows the file's tree. A moment of Adam or a gradient never counts as a weight, however well its name and
shape fit.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from ..errors import FitError
from ..formats.tree import Container, Leaf, Node, TensorEntry
from ..text.lines import line
from ..text.wording import closest, counted, safe_text

_MOST_LINES = 12
MOMENTS = frozenset(
    {
        "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "exp_avg_slow", "exp_avg_diff", "exp_avg_var",
        "momentum_buffer", "square_avg", "acc_delta", "grad_avg",
    }
)  # fmt: skip
"""What torch's optimizers keep for each parameter."""
_CALLED = re.compile(
    r"(\w{1,40}_)?optim(izer)?s?(_\w{1,40})?|opt(_(states?|state_dict|g|d))?|(adam(w|ax|w8bit)?|sgd|lion|muon|adafactor)(_states?)?",
    re.IGNORECASE | re.ASCII,
)
_OF_WEIGHTS = re.compile(
    r"((prev|last|old|acc(um)?(ulated)?|mean|avg|ema)_)?grad(ient)?s?(_(accum|buffer|avg|ema|sq)s?)?|"
    r"fisher(s|_\w{1,20})?|((first|second)_)?(moments?|momentum|momenta)(_buffers?|s)?|(max_)?exp_(avg|inf)(_sq)?s|[mv]_t",
    re.IGNORECASE | re.ASCII,
)
"""Names of containers that hold one number for each weight, and nothing else."""
_MAYBE_OF_WEIGHTS = re.compile(r"mu|nu|[mvz]|variances?|hessian", re.IGNORECASE)
"""The same, for names that a layer may have too: it counts only if it holds several layers."""
_IN_FRONT = re.compile(rf"optim(izer)?s?(_states?|_state_dict)?|{_OF_WEIGHTS.pattern}", re.IGNORECASE | re.ASCII)
"""Prefixes of an optimizer's tensors in a file without nested keys."""
TABLES = frozenset({"state", "param_groups"})
"""The keys that `Optimizer.state_dict` returns."""


def select(root: Container, key: str | None, wanted: Collection[str], path: str) -> Container:
    """Finds the container whose tensors are to be loaded.

    Args:
        root: The whole file.
        key: The dotted nested key; None is the file's top level.
        wanted: The model's keys; a container without tensors is accepted if it has one of them.
        path: The file, for messages.

    Raises:
        FitError: The key is absent or holds no tensor; `loader.suggest` adds the line to type.
    """
    found = find(root, key)
    if isinstance(found, Container) and (found.tensors() or any(name in found.children for name in wanted)):
        return found
    raise FitError(f"{_misses(found, root, key, path)}. In the file:\n{tree(root)}")


def subtree(root: Container, key: str | None, path: str, override: str = "checkpoint.key") -> Container:
    """Finds the container under a nested key, whether or not it holds tensors; raises FitError as `select` does."""
    found = find(root, key)
    if isinstance(found, Container):
        return found
    what = _misses(found, root, key, path)
    raise FitError(f"{what}. In the file:\n{tree(root)}", line(override, None, note="all that is in the file"))


def _misses(found: Node | None, root: Container, key: str | None, path: str) -> str:
    place = "the top level" if key is None else f"the nested key '{safe_text(key)}'"
    if found is None:
        near = near_key(root, key or "")
        return f"{place} is not in {path}" + (f" (did you mean '{safe_text(near)}'?)" if near else "")
    if isinstance(found, Container):
        return f"{place} of {path} holds no tensor itself"
    kind = "one tensor" if isinstance(found, TensorEntry) else f"an entry of type {safe_text(found.type)}"
    return f"{place} of {path} is {kind}, not a state dict"


def near_key(root: Container, key: str) -> str | None:
    """Returns the nested key that a mistyped one resembles, as a whole or in its last segment, if any."""
    known: dict[str, str] = {}
    for name, _ in root.walk():
        known.setdefault(name.rpartition(".")[2], name)
    known |= {name: name for name, _ in root.walk()}
    near = closest(key, filter(None, known), most=1)
    return known[near[0]] if near else None


def find(root: Container, key: str | None) -> Node | None:
    """Follows a dotted key, through names that contain dots too; returns None if it leads nowhere.

    None is the key of the top level.
    """
    if key is None:
        return root
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


def tree(root: Container) -> str:
    """Draws the containers of a file with their tensor counts, one per line; their number is bounded."""
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


def optimizers(containers: Mapping[str, Container]) -> set[str]:
    """Returns the keys of the outermost containers that hold an optimizer's state."""
    found: set[str] = set()
    for key, container in containers.items():
        name = key.rpartition(".")[2]
        is_state = _is_table(container) or (key and (_CALLED.fullmatch(name) or _is_of_weights(name, container)))
        if is_state and container.kind != "module" and owner(key, found) is None:
            found.add(key)
    return found


def _is_of_weights(name: str, container: Container) -> bool:
    """Whether its name is that of gradients or moments; a single letter counts only if it holds several layers."""
    if _OF_WEIGHTS.fullmatch(name):
        return True
    several = any("." in tensor for tensor in container.tensors()) or any(
        isinstance(child, Container) for child in container.children.values()
    )
    return several and _MAYBE_OF_WEIGHTS.fullmatch(name) is not None


def _is_table(container: Container) -> bool:
    """Whether it is what `Optimizer.state_dict` returns, without weights next to it."""
    others = [child for name, child in container.children.items() if name not in TABLES]
    held = (inner for child in others if isinstance(child, Container) for _, inner in child.walk())
    return container.children.keys() >= TABLES and not any(inner.tensors() for inner in held)


def owner(key: str, tables: set[str]) -> str | None:
    """Returns the optimizer that a container belongs to, or None."""
    if key in tables or (key and "" in tables):
        return key if key in tables else ""
    at = key.find(".")
    while at >= 0:
        if key[:at] in tables:
            return key[:at]
        at = key.find(".", at + 1)
    return None


def is_moment(name: str) -> bool:
    """Whether a tensor of this dotted name is what an optimizer keeps for a parameter."""
    segments = name.split(".")
    return not MOMENTS.isdisjoint(segments) or (len(segments) > 1 and _IN_FRONT.fullmatch(segments[0]) is not None)


def without_optimizers(root: Container) -> Iterator[tuple[str, Container]]:
    """Yields every container with its dotted key, except those of an optimizer."""
    containers = dict(root.walk())
    tables = optimizers(containers)
    for key, container in root.walk():
        if owner(key, tables) is None and not is_moment(key):
            yield key, container


def only_optimizer(root: Container) -> bool:
    """Whether a file holds nothing but the state of optimizers, as `Optimizer.state_dict` returns it."""
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
