"""Ranks the nested keys of a file that may hold the weights.

Guarantees: one ranking, whoever asks: `mode=inspect`, the lines of a refusal, and ``auto``. A pure function of names,
shapes and dtypes. An optimizer's state, and a network among the hyperparameters of a Lightning checkpoint, fit no
model, however well their names and shapes do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from ..formats.limits import LONGEST_NAME
from ..formats.tree import Container, TensorEntry
from ..text.wording import counted
from .select import MOMENTS, is_moment, optimizers, owner

Shape = tuple[int, ...]

Role = Literal["weights", "model", "average", "tensors", "optimizer"]
"""The contents of a nested key, the most wanted first: ``model`` is a whole pickled one."""
ROLES: tuple[Role, ...] = get_args(Role)
LIGHTNING = "pytorch-lightning_version"
"""An entry of every Lightning checkpoint."""
AVERAGE = "n_averaged"
"""The counter that `torch.optim.swa_utils.AveragedModel` keeps next to its module."""
IN_ARCHIVE = "__torch__."
"""The prefix of classes that a TorchScript archive defines itself."""

_KNOWN = re.compile(
    r"(model_?)?state_dict|model|module|net(work)?|params|weights|(model_?)?state|generator|discriminator|encoder|"
    r"backbone|teacher|student|policy|actor|critic|net_?[gd]|g|d",
    re.IGNORECASE,
)
"""Common names for a model's weights."""
_AVERAGE = re.compile(r"(^|[_.\W])(ema|swa|polyak|averaged?|shadow)($|[_.\W\d])", re.IGNORECASE)
_PARAMETER = frozenset({"weight", "bias", "kernel", "gamma", "beta", "scale", "embedding", "running", "w", "b"})
"""Words in the last names of parameters: `in_proj_weight`, `bias_hh_l0`."""
_LIGHTNING_WEIGHTS = "state_dict"
_HYPERPARAMETERS = frozenset({"hyper_parameters", "datamodule_hyper_parameters", "hparams"})
_LONGEST_KEY = 8000
"""No command line carries a longer one."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A nested key that holds tensors; an optimizer is one candidate with everything below it."""

    key: str
    """Dotted; ``""`` is the top level."""
    container: Container
    members: tuple[Container, ...]
    """The containers that hold its tensors: itself, or those of an optimizer."""
    names: tuple[str, ...]
    """The names of its tensors, from the nested key."""
    role: Role
    why: str
    """The reason for the role."""
    fitting: int
    """Number of model keys with the shape of one of its tensors; 0 without a model."""
    elements: int

    @property
    def holds_model(self) -> bool:
        """Whether it holds the weights of a model, or an average of them."""
        return self.role in ROLES[:3]

    @property
    def is_pickled(self) -> bool:
        """Whether it is a whole pickled model; a TorchScript archive brings its own code."""
        return self.role == "model" and not _is_script(self.container)


def candidates(root: Container, wanted: Iterable[Shape | None] = (), typed: str | None = None) -> list[Candidate]:
    """Ranks the nested keys that hold tensors, best first.

    The first are those with most of the model's shapes; then come the roles in their order, and the largest.

    Args:
        root: The whole file.
        wanted: The shapes of the model's keys; None takes any shape.
        typed: The nested key that the user typed: it may be a hyperparameter.
    """
    containers = {key: container for key, container in root.walk() if len(key) <= _LONGEST_KEY}
    tables, shapes = optimizers(containers), Counter(wanted)
    lightning = {key for key, container in containers.items() if lightning_weights(container)}
    main = {f"{prefix}{_LIGHTNING_WEIGHTS}" for key in lightning for prefix in [f"{key}." if key else ""]}
    found = []
    for key, members in _grouped(containers, tables).items():
        around = _around(key, lightning) if lightning and key != typed else ()
        aside = (prefix for prefix in around if _is_aside(key.removeprefix(prefix), containers[key]))
        held = _Held(key, containers[key], members, next(aside, None), in_table=key in tables)
        found.append(held.judged(shapes))
    return sorted(found, key=lambda c: (-c.fitting, c.key not in main, ROLES.index(c.role), -c.elements))


def is_average(name: str) -> bool:
    """Whether a dotted name is called like an average of weights (EMA, SWA)."""
    return _AVERAGE.search(name[:LONGEST_NAME]) is not None


def lightning_weights(root: Container) -> str | None:
    """Returns the nested key of a Lightning checkpoint's weights; None for any other file.

    `save_hyperparameters` pickles whole networks next to it, with values from an unknown time.
    """
    weights = root.children.get(_LIGHTNING_WEIGHTS)
    found = LIGHTNING in root.children and isinstance(weights, Container) and bool(weights.tensors())
    return _LIGHTNING_WEIGHTS if found else None


def _is_script(container: Container) -> bool:
    """Whether a module's class is code inside a TorchScript archive: never imported, and run only under trust."""
    return container.type.startswith(IN_ARCHIVE)


def _around(key: str, lightning: set[str]) -> Iterator[str]:
    """The prefixes of the Lightning checkpoints that a key lies in, outermost first."""
    if "" in lightning:
        yield ""
    at = key.find(".")
    while at >= 0:
        if key[:at] in lightning:
            yield key[: at + 1]
        at = key.find(".", at + 1)


def _is_aside(key: str, container: Container) -> bool:
    """Whether a container of a Lightning checkpoint is a hyperparameter, or a whole pickled network."""
    return container.kind == "module" or key.partition(".")[0] in _HYPERPARAMETERS


def _grouped(containers: Mapping[str, Container], tables: set[str]) -> dict[str, dict[str, Container]]:
    """Groups the containers that hold tensors by nested key; those of an optimizer are together."""
    found: dict[str, dict[str, Container]] = {}
    for key, container in containers.items():
        if any(isinstance(child, TensorEntry) for child in container.children.values()):
            table = owner(key, tables)
            found.setdefault(key if table is None else table, {})[key] = container
    return found


@dataclass(frozen=True, slots=True)
class _Held:
    """The contents of one nested key."""

    key: str
    container: Container
    members: Mapping[str, Container]
    aside: str | None
    """The prefix of the Lightning checkpoint of which it is a hyperparameter."""
    in_table: bool
    """Whether it is an optimizer's state."""

    def judged(self, wanted: Counter[Shape | None]) -> Candidate:
        own = len(self.key) + 1 if self.key else 0
        tensors = {
            f"{key}.{name}"[own:] if key else name: entry
            for key, member in self.members.items()
            for name, entry in member.tensors().items()
        }
        prefix = f"{self.key}." if self.key else ""
        moments = {name for name in tensors if is_moment(name) or is_moment(prefix + name)}
        weights = [name for name in tensors if name not in moments]
        role: Role = "optimizer"
        why = _kept(prefix + name for name in tensors)
        if not self.in_table and weights and (2 * len(moments) <= len(tensors) or any(map(_is_parameter, weights))):
            role, why = _role(self.key, self.container, tensors)
        if self.aside is not None and role in ROLES[:3]:
            role, why = "tensors", f"{why}, a hyperparameter; the weights are under '{self.aside}{_LIGHTNING_WEIGHTS}'"
        usable = not self.in_table and self.aside is None
        fitting = _overlap(wanted, Counter(tensors[name].shape for name in weights)) if usable else 0
        elements = sum(entry.numel for entry in tensors.values())
        return Candidate(
            self.key, self.container, tuple(self.members.values()), tuple(tensors), role, why, fitting, elements
        )


def _overlap(wanted: Counter[Shape | None], shapes: Counter[Shape]) -> int:
    """Counts the wanted shapes that are there; keys that accept any shape get the rest."""
    exact = sum(min(count, shapes[shape]) for shape, count in wanted.items() if shape is not None)
    return exact + min(wanted[None], shapes.total() - exact)


def _kept(keys: Iterable[str]) -> str:
    kept = sorted({segment for key in keys for segment in key.split(".")} & MOMENTS)
    return f"an optimizer's state: {', '.join(kept)}" if kept else "named like one"


def _role(key: str, container: Container, names: Collection[str]) -> tuple[Role, str]:
    name = key.rpartition(".")[2]
    if container.kind == "module":
        return "model", "a TorchScript module" if _is_script(container) else f"a whole pickled {container.type}"
    if is_average(key):
        return "average", f"called '{name}'"
    if AVERAGE in names:
        return "average", f"an AveragedModel: it has '{AVERAGE}'"
    named = sum(map(_is_parameter, names))
    if container.kind == "list":
        return "tensors", "a list: its tensors have no names"
    if 2 * named >= len(names) or (_KNOWN.fullmatch(name) and any("." in own for own in names)):
        called = f"called '{name}'; " if _KNOWN.fullmatch(name) else ""
        share = "all" if named == len(names) else f"{named:,} of {len(names):,}"
        return "weights", f"{called}{share} names look like parameters"
    return "tensors", f"{named or 'none'} of {counted(len(names), 'name')} looks like a parameter"


def _is_parameter(name: str) -> bool:
    return not _PARAMETER.isdisjoint(name.rpartition(".")[2][:LONGEST_NAME].split("_"))
