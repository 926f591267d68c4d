"""Weight norm that the file keeps in two tensors and the model has multiplied out.

Guarantees: pure functions of names and shapes. Both tensors are there, the direction has the weight's shape, and the
formula leaves one reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...keys.candidates import Shape
from ...keys.segments import segments
from .held import Held
from .patterns import Place, patterns
from .proposed import Proposed, shown

_STYLES: Sequence[tuple[str, str]] = (("_g", "_v"), ("original0", "original1"))
"""The ends of the names of length and direction: of `torch.nn.utils.weight_norm`, and of its parametrization."""
_MOST_KINDS = 8
"""A network has few names for the weights that it norms."""
_PARAMETRIZATIONS = "parametrizations"


def unnormed(held: Held) -> Iterator[Proposed]:
    """Multiplies weight norm out."""
    for length, direction in _STYLES:
        found: dict[tuple[str, bool], list[tuple[Place, Place, tuple[str, str]]]] = {}
        for name, shape in held.extra.items():
            if name.endswith(length):
                one = _pair(held, name, name.removesuffix(length) + direction, shape)
                if one is not None:
                    plain = _plain(name, length)
                    found.setdefault((plain[-1], len(plain) > 1), []).append((*one, (name, ".".join(plain))))
        for (own, _), alike in found.items() if len(found) <= _MOST_KINDS else ():
            lengths = {names[0]: place for place, _, names in alike}
            directions = {names[0].removesuffix(length) + direction: place for _, place, names in alike}
            both = patterns(lengths, held.file), patterns(directions, held.file)
            if len(both[0]) == len(both[1]) and both[0]:
                rules = [
                    {"merge": [g.expression, v.expression], "to": g.to((own,)), "by": "weight_norm"}
                    for (g, _), (v, _) in zip(*both, strict=True)
                ]
                names = f"{shown(alike[0][2][1])}{f' (and {len(alike) - 1:,} like it)' if len(alike) > 1 else ''}"
                yield Proposed(tuple(rules), f"{names} is weight-normed in the file and plain in the model")


def _plain(name: str, length: str) -> tuple[str, ...]:
    """Returns the segments of the weight that the tensor of this name is the length of."""
    path = segments(name)
    if length.startswith("_"):
        return (*path[:-1], path[-1].removesuffix(length))
    return (*path[:-3], path[-2]) if len(path) > 2 and path[-3] == _PARAMETRIZATIONS else path


def _pair(held: Held, length: str, direction: str, shape: Shape) -> tuple[Place, Place] | None:
    """Returns what a rule replaces in both names; None if they are not the two of a plain weight of the model."""
    style = next(one for one in _STYLES if length.endswith(one[0]))[0]
    plain = _plain(length, style)
    wanted, of = held.missing.get(".".join(plain)), held.extra.get(direction)
    if not plain[-1] or wanted is None or of != wanted or not _is_length(shape, wanted):
        return None
    before = plain[:-1]
    places = [Place(before, segments(name)[len(before) :], ()) for name in (length, direction)]
    return places[0], places[1]


def _is_length(shape: Shape, weight: Shape) -> bool:
    """Whether a tensor may hold the lengths of a weight's vectors: all dims but one are 1, or it has no dims."""
    if len(shape) != len(weight):
        return shape == ()
    kept = [dim for dim, size in enumerate(shape) if size != 1]
    return len(kept) <= 1 and all(shape[dim] == weight[dim] for dim in kept)
