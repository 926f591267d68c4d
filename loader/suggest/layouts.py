"""The orders of dims in which libraries keep a weight, and the weights whose shapes do not show their order.

Guarantees: pure functions of names and shapes. A weight that another order of its dims leaves in its shape is in doubt
only if the nearest module around it that shows an order has transposed weights; those of its own rank count first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..keys.candidates import Shape
from ..keys.segments import Path, segments


@dataclass(frozen=True, slots=True)
class Way:
    """One order of dims, from the file's to the model's."""

    pattern: str
    """In the notation of `rearrange`."""
    axes: tuple[int, ...]
    last: bool = True
    """Whether outputs are the file's last dim, for weights of all ranks alike; false for a convolution's own swap."""

    def of(self, shape: Shape) -> Shape:
        """Returns the model's shape for the file's."""
        return tuple(shape[axis] for axis in self.axes)

    def keeps(self, shape: Shape) -> bool:
        """Whether it moves elements of this shape without changing the shape."""
        moved = [size for at, (axis, size) in enumerate(zip(self.axes, shape, strict=True)) if axis != at]
        return self.of(shape) == shape and max(moved) > 1


WAYS: Mapping[int, Sequence[Way]] = {
    2: [Way("i o -> o i", (1, 0))],
    3: [
        Way("e i o -> e o i", (0, 2, 1)),
        Way("i o k -> o i k", (1, 0, 2), last=False),
        Way("k i o -> o i k", (2, 1, 0)),
    ],
    4: [Way("i o h w -> o i h w", (1, 0, 2, 3), last=False), Way("h w i o -> o i h w", (3, 2, 0, 1))],
    5: [Way("i o d h w -> o i d h w", (1, 0, 2, 3, 4), last=False), Way("d h w i o -> o i d h w", (4, 3, 0, 1, 2))],
}
"""Number of dims → the ways in which libraries keep a weight."""


def ways(model: Shape, file: Shape) -> list[Way]:
    """Returns the ways in which a weight of one shape is one of another transposed; none of the same shape."""
    return [way for way in WAYS.get(len(file), ()) if way.of(file) == model] if model != file else []


def doubted(loaded: Mapping[str, Shape], crossed: Mapping[str, tuple[Shape, Shape]]) -> dict[str, Way]:
    """Returns the weights that may be transposed like those next to them, each with the way.

    Args:
        loaded: The shapes of the parameters that are loaded as they are.
        crossed: The shapes of the transposed ones: the model's and the file's.
    """
    seen = {way for pair in set(crossed.values()) for way in ways(*pair)}
    everywhere = any(way.last for way in seen)
    found: dict[str, Way] = {}
    for rank, known in WAYS.items():
        own = {key for key, (mine, _) in crossed.items() if len(mine) == rank}
        possible = [way for way in known if way in seen or (everywhere and way.last)]
        alike = {key: shape for key, shape in loaded.items() if len(shape) == rank} if possible else {}
        kept = {shape: [way for way in possible if way.keeps(shape)] for shape in set(alike.values())}
        square = {key: kept[shape][0] for key, shape in alike.items() if kept[shape]}
        straight = [key for key in alike if key not in square]
        near = _next_to(square, own or crossed, straight, mixed=bool(own))
        found |= {key: square[key] for key in near}
    return {key: found[key] for key in loaded if key in found}


def _next_to(squares: Iterable[str], crossed: Iterable[str], straight: Iterable[str], *, mixed: bool) -> Iterator[str]:
    """Yields those whose nearest module with weights that show an order has transposed ones.

    Args:
        squares: The weights that show none.
        crossed: Transposed weights.
        straight: Weights that are not transposed.
        mixed: Whether a module with both is one with transposed ones.
    """
    around_crossed, around_straight = _modules(crossed), _modules(straight)
    for key in squares:
        path = segments(key)
        around = (path[:at] for at in range(len(path) - 1, -1, -1))
        nearest = next((m for m in around if m in around_crossed or m in around_straight), None)
        if nearest in around_crossed and (mixed or nearest not in around_straight):
            yield key


def _modules(keys: Iterable[str]) -> set[Path]:
    return {path[:at] for path in map(segments, keys) for at in range(len(path))}
