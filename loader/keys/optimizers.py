"""What optimizers keep next to the weights, gradients among it, and how it is told from them.

Guarantees: pure functions of names; a moment of Adam or a gradient is never taken for a weight, however well its name
and shape fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..formats.tree import Container

MOMENTS = frozenset(
    {
        "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "exp_avg_slow", "exp_avg_diff", "exp_avg_var",
        "momentum_buffer", "square_avg", "acc_delta", "grad_avg",
    }
)  # fmt: skip
"""What the optimizers of torch keep for a parameter."""
_CALLED = re.compile(
    r"(\w{1,40}_)?optim(izer)?s?(_\w{1,40})?|opt(_(states?|state_dict|g|d))?|(adam(w|ax|w8bit)?|sgd|lion|muon|adafactor)(_states?)?",
    re.IGNORECASE | re.ASCII,
)
_OF_WEIGHTS = re.compile(
    r"((prev|last|old|acc(um)?(ulated)?|mean|avg|ema)_)?grad(ient)?s?(_(accum|buffer|avg|ema|sq)s?)?|"
    r"fisher(s|_\w{1,20})?|((first|second)_)?(moments?|momentum|momenta)(_buffers?|s)?|(max_)?exp_(avg|inf)(_sq)?s|[mv]_t",
    re.IGNORECASE | re.ASCII,
)
"""How a place is called that holds a number for each weight, and nothing else."""
_MAYBE_OF_WEIGHTS = re.compile(r"mu|nu|[mvz]|variances?|hessian", re.IGNORECASE)
"""The same, where a layer may be called so: what a whole model has under it is not one layer's."""
_IN_FRONT = re.compile(rf"optim(izer)?s?(_states?|_state_dict)?|{_OF_WEIGHTS.pattern}", re.IGNORECASE | re.ASCII)
"""How the names of a file without nested keys begin, of what belongs to an optimizer."""
TABLES = frozenset({"state", "param_groups"})
"""What `Optimizer.state_dict` returns."""


def optimizers(containers: Mapping[str, Container]) -> set[str]:
    """The keys of containers that hold an optimizer's state, the outermost ones."""
    found: set[str] = set()
    for key, container in containers.items():
        name = key.rpartition(".")[2]
        is_state = _is_table(container) or (key and (_CALLED.fullmatch(name) or _is_of_weights(name, container)))
        if is_state and container.kind != "module" and owner(key, found) is None:
            found.add(key)
    return found


def _is_of_weights(name: str, container: Container) -> bool:
    """Whether it is called like gradients or moments; by a letter, only where it holds more than one layer."""
    if _OF_WEIGHTS.fullmatch(name):
        return True
    several = any("." in tensor for tensor in container.tensors()) or any(
        isinstance(child, Container) for child in container.children.values()
    )
    return several and _MAYBE_OF_WEIGHTS.fullmatch(name) is not None


def _is_table(container: Container) -> bool:
    """Whether it is what `Optimizer.state_dict` returns, with no weights next to that."""
    others = [child for name, child in container.children.items() if name not in TABLES]
    held = (inner for child in others if isinstance(child, Container) for _, inner in child.walk())
    return container.children.keys() >= TABLES and not any(inner.tensors() for inner in held)


def owner(key: str, tables: set[str]) -> str | None:
    """The optimizer that a container belongs to."""
    if key in tables or (key and "" in tables):
        return key if key in tables else ""
    at = key.find(".")
    while at >= 0:
        if key[:at] in tables:
            return key[:at]
        at = key.find(".", at + 1)
    return None


def is_moment(name: str) -> bool:
    """Whether a dotted name says that a tensor is what an optimizer keeps for a parameter."""
    segments = name.split(".")
    return not MOMENTS.isdisjoint(segments) or (len(segments) > 1 and _IN_FRONT.fullmatch(segments[0]) is not None)


def without_optimizers(root: Container) -> Iterator[tuple[str, Container]]:
    """Every container with its dotted key, apart from those that belong to an optimizer."""
    containers = dict(root.walk())
    tables = optimizers(containers)
    for key, container in root.walk():
        if owner(key, tables) is None and not is_moment(key):
            yield key, container
