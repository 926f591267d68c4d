"""The model as the search sees it.

Guarantees: plain data; built once for a search and never changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .names import is_number, segments

Shape = tuple[int, ...]

_ALIASES = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
"""Old names that torch's own load hook of a parametrized weight norm takes."""


@dataclass(frozen=True, slots=True)
class Target:
    """The names and shapes that a part of a model wants, below the part."""

    shapes: Mapping[str, Shape | None]
    """Key → shape; None takes any."""
    aliases: Mapping[str, str]
    """Another name that loads → the key that it fills."""
    _suffixes: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, shapes: Mapping[str, Shape | None]) -> Target:
        """Indexes a model's keys."""
        aliases = {
            key.removesuffix(new) + old: key
            for key in shapes
            for new, old in _ALIASES.items()
            if f".{key}".endswith(f".{new}")
        }
        return cls(shapes, aliases)

    def filled_by(self, name: str, shape: Shape) -> str | None:
        """The key that a tensor of this name and shape fills."""
        key = self.aliases.get(name, name)
        if key not in self.shapes:
            return None
        wanted = self.shapes[key]
        fits = wanted is None or wanted == shape or (wanted == () and shape == (1,))
        return key if fits else None

    def ending_in(self, suffix: str) -> list[str]:
        """The names, aliases too, that end in these whole segments."""
        if not self._suffixes:
            for name in (*self.shapes, *self.aliases):
                for rest in _suffixes(name):
                    self._suffixes.setdefault(rest, []).append(name)
        return self._suffixes.get(suffix, [])

    def shape_of(self, name: str) -> Shape | None:
        """The shape behind a name or an alias."""
        return self.shapes[self.aliases.get(name, name)]


def numbered(names: Iterable[tuple[str, Shape | None]]) -> dict[str, dict[int, dict[str, Shape | None]]]:
    """The modules that count their children: prefix → number → what stands below, with shapes."""
    found: dict[str, dict[int, dict[str, Shape | None]]] = {}
    for name, shape in names:
        path = segments(name)
        for at, segment in enumerate(path):
            if is_number(segment) and str(int(segment)) == segment:
                below = found.setdefault(".".join(path[:at]), {}).setdefault(int(segment), {})
                below[".".join(path[at + 1 :])] = shape
    return found


def _suffixes(name: str) -> Iterable[str]:
    path = segments(name)
    return (".".join(path[at:]) for at in range(len(path)))
