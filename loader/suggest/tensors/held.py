"""The tensors of a file after the key rules of an attempt, next to the keys of a model.

Guarantees: pure data, in the file's and the model's order; no values are read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from ...keys.candidates import Shape
from ...keys.plan import fits
from ...keys.segments import Path, segments
from ..attempts import ModelKeys

_DEEPEST = 3
"""How many segments below a common module two names that belong together may differ in."""
_MOST_BELOW = 512
"""A module with more tensors of its own has no few that belong together."""

Below = Mapping[Path, list[tuple[Path, str]]]
"""Module → the rest of each name below it, and the name."""


@dataclass(frozen=True, slots=True)
class Joint:
    """How a rule has made a tensor of others, or others of it, along a dim."""

    dim: int
    piece: Shape
    """The shape of each piece; no dims if they differ."""
    count: int
    merged: bool
    """Whether the tensor is of several pieces; else it is one of them."""

    @property
    def is_last(self) -> bool:
        """Whether the pieces are side by side in the last dim, as where outputs are last."""
        return self.dim == len(self.piece) - 1


@dataclass(frozen=True)
class Held:
    """Both sides of an attempt."""

    file: Mapping[str, Shape]
    """Name after the rules → shape."""
    model: ModelKeys
    ties: Mapping[str, str] = field(default_factory=dict)
    """Model key → the first name of its tensor."""
    whole: Collection[str] = frozenset()
    """The names of tensors of integers or bools."""
    joints: Mapping[str, Joint] = field(default_factory=dict)
    """The tensors that rules have made of matrices of one size, or such a matrix: name → how."""

    @cached_property
    def extra(self) -> dict[str, Shape]:
        """The file's tensors whose names the model does not have."""
        keys, aliases = self.model.shapes, self.model.aliases
        return {name: shape for name, shape in self.file.items() if aliases.get(name, name) not in keys}

    @cached_property
    def missing(self) -> dict[str, Shape]:
        """The model's keys that no name of the file fills, of a known shape."""
        named = {self.model.aliases.get(name, name) for name in self.file}
        tied = {self.ties.get(key, key) for key in named}
        absent = {key: shape for key, shape in self.model.shapes.items() if self.ties.get(key, key) not in tied}
        return {key: shape for key, shape in absent.items() if shape is not None}

    @cached_property
    def loaded(self) -> dict[str, Shape]:
        """The model's keys of which the file has the name and the shape."""
        return {name: shape for name, shape in self.file.items() if self.model.filled_by(name, shape) == name}

    @cached_property
    def crossed(self) -> dict[str, tuple[Shape, Shape]]:
        """The keys of two shapes: key → the model's and the file's."""
        shapes = self.model.shapes
        pairs = {name: (shapes[name], shape) for name, shape in self.file.items() if name in shapes}
        return {
            name: (mine, theirs)
            for name, (mine, theirs) in pairs.items()
            if mine is not None and not fits(mine, theirs)
        }


def below(names: Iterable[str]) -> Below:
    """Indexes names by the modules right above them; modules with very many are left out."""
    found: dict[Path, list[tuple[Path, str]]] = {}
    for name in names:
        path = segments(name)
        for at in range(max(len(path) - _DEEPEST, 0), len(path)):
            found.setdefault(path[:at], []).append((path[at:], name))
    return {module: rests for module, rests in found.items() if len(rests) <= _MOST_BELOW}
