"""Tensors that one side keeps apart and the other has joined: fused projections.

Guarantees: pure functions of names and shapes. Pieces and the fused tensor lie in one module, differ in one dim, in
which the pieces add up, and belong together by their names or by being all that is left there. Shapes prove sizes,
never order: a rule is certain only for torch's own ``in_proj``, whose order torch defines, or if no two pieces have
the same size and the fused name or the model lists them in order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...keys.candidates import Shape
from ...keys.segments import Path, is_number, segments
from ..layouts import WAYS, ways
from . import roles
from .held import Below, Held, below
from .patterns import Pattern, Place, patterns
from .proposed import Proposed, ready, shown
from .sums import dim_of, joinable

_MOST_PIECES = 8
_MOST_KINDS = 24
_IN_PROJ = (("in_proj_weight",), ("in_proj_bias",))
"""The fused parameters of `torch.nn.MultiheadAttention`."""
_READY = "mha_in_proj"
"""The option with the rule for them."""
_LEAVES = frozenset({"weight", "bias"})
_OF_BIAS = "bias"


@dataclass(frozen=True, slots=True)
class _Fusion:
    """One fused tensor and its pieces, in order, between the segments that they share."""

    fused: str
    pieces: tuple[str, ...]
    before: Path
    after: Path
    dim: int
    certain: bool
    lengths: tuple[int, ...]
    """Those of the pieces along the dim."""
    square: bool
    """Whether the shapes of the pieces do not show whether they are transposed."""
    rank: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """The proportions of the pieces."""
        return tuple(length // math.gcd(*self.lengths) for length in self.lengths)

    def middle(self, name: str) -> Path:
        """Returns the segments of a name in which it differs from the others."""
        path = segments(name)
        return path[len(self.before) : len(path) - len(self.after)]

    @property
    def kind(self) -> tuple[object, ...]:
        """What one rule has in common."""
        ends = (bool(self.before), bool(self.after))
        return (self.middle(self.fused), tuple(map(self.middle, self.pieces)), self.dim, self.certain, *ends)


def split(held: Held) -> Iterator[Proposed]:
    """Splits tensors of the file that the model keeps apart."""
    found = list(_fusions(held.extra, held.missing, listed=True))
    sized = any(map(_is_open, found)) or any(ways(*pair) for pair in held.crossed.values())
    kinds = _kinds(found, sized=sized)
    torchs = [alike for alike in kinds if _is_torchs(alike[0])]
    known = ready(_READY, [one.fused for alike in torchs for one in alike], held.file) if torchs else ()
    if known:
        kinds = [alike for alike in kinds if alike not in torchs]
        yield Proposed(known, f"{shown(torchs[0][0].fused)} is fused of {_pieces(torchs[0][0])}, as torch defines it")
    for alike in kinds:
        first = alike[0]
        places = {one.fused: Place(one.before, one.middle(one.fused), one.after) for one in alike}
        rules = [_split(pattern, first, sized=sized and first.square) for pattern, _ in patterns(places, held.file)]
        if rules:
            yield Proposed(tuple(rules), f"{_names(alike, first.fused)} is fused of {_pieces(first)}", first.certain)


def _is_open(fusion: _Fusion) -> bool:
    """Whether the pieces are square and side by side in the last dim, so that they may be transposed as well."""
    return fusion.square and 0 < fusion.dim == fusion.rank - 1


def _is_torchs(fusion: _Fusion) -> bool:
    """Whether it is a parameter of torch's attention, in pieces of the names that the ready-made rule gives them."""
    leaf = fusion.fused.rpartition("_")[2]
    own = [".".join(fusion.middle(piece)) for piece in fusion.pieces]
    theirs = [f"{role}_proj.{leaf}" for role in "qkv"]
    return fusion.middle(fusion.fused)[-1:] in _IN_PROJ and not fusion.dim and own == theirs


def merge(held: Held) -> Iterator[Proposed]:
    """Joins tensors of the file that the model has as one."""
    for alike in _kinds(_fusions(held.missing, held.extra, listed=False), sized=False):
        first = alike[0]
        written = [
            patterns(
                {one.pieces[at]: Place(one.before, one.middle(one.pieces[at]), one.after) for one in alike}, held.file
            )
            for at in range(len(first.pieces))
        ]
        if len({len(found) for found in written}) == 1 and written[0]:
            rules = [_merge([pattern for pattern, _ in together], first) for together in zip(*written, strict=True)]
            if all(rules):
                what = f"{_names(alike, first.fused)} of the model is fused of {_pieces(first)}"
                yield Proposed(tuple(filter(None, rules)), what, first.certain)


def _split(pattern: Pattern, fusion: _Fusion, *, sized: bool) -> dict[str, object]:
    """Writes a rule; only with sizes may another rule transpose the pieces."""
    into = [pattern.to(fusion.middle(piece)) for piece in fusion.pieces]
    sizes = {"sizes": list(fusion.sizes)} if sized else {}
    return {"split": pattern.expression, "into": into, **_dim(fusion), **sizes}


def _merge(found: Sequence[Pattern], fusion: _Fusion) -> dict[str, object] | None:
    """Joins one pattern for each piece; None if they are not alike."""
    to = {pattern.to(fusion.middle(fusion.fused)) for pattern in found}
    expressions = [pattern.expression for pattern in found]
    return {"merge": expressions, "to": to.pop(), **_dim(fusion)} if len(to) == 1 else None


def _dim(fusion: _Fusion) -> dict[str, int]:
    return {"dim": fusion.dim} if fusion.dim else {}


def _names(alike: Sequence[_Fusion], name: str) -> str:
    where = f" (and {len(alike) - 1:,} like it)" if len(alike) > 1 else ""
    return f"{shown(name)}{where}"


def _pieces(fusion: _Fusion) -> str:
    names = [".".join(fusion.middle(piece)) for piece in fusion.pieces]
    return f"{', '.join(map(shown, names[:-1]))} and {shown(names[-1])}"


def _kinds(found: Iterable[_Fusion], *, sized: bool) -> list[list[_Fusion]]:
    """Gathers the fusions that one rule, with sizes or without, can carry out; none if there are too many kinds."""
    kinds: dict[tuple[object, ...], list[_Fusion]] = {}
    for fusion in found:
        own = (fusion.square, fusion.sizes) if sized else ()
        kinds.setdefault((*fusion.kind, *own), []).append(fusion)
    return list(kinds.values()) if len(kinds) <= _MOST_KINDS else []


def _fusions(whole: Mapping[str, Shape], apart: Mapping[str, Shape], *, listed: bool) -> Iterator[_Fusion]:
    """Finds the fused tensors of one side whose pieces the other side has.

    Args:
        whole: The fused tensors, and others.
        apart: The pieces, and others.
        listed: Whether the order of the pieces means anything: a model's does, a file may be sorted.
    """
    possible = joinable(whole.values(), apart.values())
    if not possible:
        return
    around: Below = below(apart)
    used: set[str] = set()
    alone = _alone(whole)
    found: dict[str, _Fusion] = {}
    paths = {name: segments(name) for name, shape in whole.items() if shape in possible}
    for cut, name in itertools.product(range(1, 4), _innermost_first(paths)):
        path = paths[name]
        if name in found or cut > len(path):
            continue
        near = [(own, piece) for own, piece in around.get(path[:-cut], ()) if piece not in used]
        place = _Whole(name, whole[name], path[:-cut], alone)
        fusion = _fusion(place, near, apart, listed=listed) if near else None
        if fusion is not None:
            used.update(fusion.pieces)
            found[name] = fusion
    yield from (found[name] for name in whole if name in found)


def _innermost_first(paths: Mapping[str, Path]) -> list[str]:
    """Sorts names so that the pieces in a module are taken by its own tensors before those of the modules around it."""
    return sorted(paths, key=lambda name: -len(paths[name]))


def _alone(whole: Mapping[str, Shape]) -> Mapping[tuple[Path, Path], int]:
    """Counts the tensors of each last name that are left in each module."""
    counts: dict[tuple[Path, Path], int] = {}
    for name in whole:
        path = segments(name)
        for cut in (1, 2):
            place = (path[:-cut], path[-1:] if cut > 1 else ())
            counts[place] = counts.get(place, 0) + 1
    return counts


@dataclass(frozen=True)
class _Whole:
    """A tensor that may be fused of some below a module that it lies in."""

    name: str
    shape: Shape
    before: Path
    alone: Mapping[tuple[Path, Path], int]

    @cached_property
    def rest(self) -> Path:
        """Its segments below the module."""
        return segments(self.name)[len(self.before) :]

    @cached_property
    def after(self) -> Path:
        """The last segment, if pieces have it as well."""
        return self.rest[-1:] if len(self.rest) > 1 and self.rest[-1] in _LEAVES else ()

    @cached_property
    def middle(self) -> Path:
        """Its own segments."""
        return self.rest[: len(self.rest) - len(self.after)]

    def may_be_of(self, own: Sequence[Path]) -> bool:
        """Whether nothing else is left next to it, and the names of all pieces do not contradict torch's order."""
        lone = len(self.middle) == 1 and self.alone.get((self.before, self.after), 0) == 1
        kept = self.rest not in _IN_PROJ or all(
            roles.role(one) in ("", role) for one, role in zip(own, "qkv", strict=False)
        )
        return lone and kept and all(len(one) == 1 for one in own)

    def like(self, around: Sequence[tuple[Path, str]], apart: Mapping[str, Shape]) -> list[tuple[Path, str]]:
        """Returns the possible pieces, with their own segments."""
        about_bias = _is_bias(self.rest)
        same = [(own, piece) for own, piece in around if _is_bias(own) == about_bias]
        if self.after:
            same = [(own[:-1], piece) for own, piece in same if own[-1:] == self.after and len(own) > 1]
        ranked = [(own, piece) for own, piece in same if len(apart[piece]) == len(self.shape)]
        return [(own, piece) for own, piece in ranked if not any(map(is_number, own))]


def _is_bias(rest: Path) -> bool:
    return _OF_BIAS in roles.words(rest[-1:])


def _fusion(
    whole: _Whole, around: Sequence[tuple[Path, str]], apart: Mapping[str, Shape], *, listed: bool
) -> _Fusion | None:
    """Returns how one tensor is fused of some of those below a module."""
    if any(map(is_number, whole.middle)):
        return None
    for pieces, told in _sets(whole, whole.like(around, apart)):
        dim = dim_of([apart[piece] for piece in pieces], whole.shape)
        if dim is not None:
            sizes = {apart[piece][dim] for piece in pieces}
            own = [segments(piece)[len(whole.before) :] for piece in pieces]
            by_torch = not dim and whole.rest in _IN_PROJ and list(map(roles.role, own)) == [*"qkv"] and len(sizes) == 1
            certain = by_torch or (len(sizes) == len(pieces) and (told or listed))
            lengths = tuple(apart[piece][dim] for piece in pieces)
            rank = len(whole.shape)
            square = len(sizes) == 1 and any(way.keeps(apart[pieces[0]]) for way in WAYS.get(rank, ()))
            return _Fusion(whole.name, tuple(pieces), whole.before, whole.after, dim, certain, lengths, square, rank)
    return None


def _sets(whole: _Whole, like: Sequence[tuple[Path, str]]) -> Iterator[tuple[list[str], bool]]:
    """Yields the sets of pieces that may be fused, in order, and whether the names show the order."""
    own: dict[str, list[str]] = {}
    for segment, piece in like:
        own.setdefault(roles.role(segment), []).append(piece)
    spelled = roles.spelled(whole.middle)
    for order in [spelled] if spelled else roles.orders():
        if all(len(own.get(role, ())) == 1 for role in order):
            yield [own[role][0] for role in order], bool(spelled)
    if 1 < len(like) <= _MOST_PIECES:
        pieces = [piece for _, piece in like]
        places = roles.composed(whole.middle, [segment for segment, _ in like])
        if places:
            yield [pieces[at] for at in places], True
        elif not spelled and whole.may_be_of([segment for segment, _ in like]):
            yield pieces, False
