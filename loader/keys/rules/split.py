"""The rules that make several tensors of one: `split` and `copy`.

Guarantees: as in `tensors`; the pieces of a split together are the whole tensor, each element once.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...formats import boxes
from ...formats.tree import TensorEntry
from ...text.lines import Fix
from ...text.wording import counted, safe_text, shape
from . import boxed
from .expressions import check_numbered, check_replacement, expression, numbered
from .tensors import (
    Context,
    Group,
    Mending,
    Pending,
    Result,
    Shape,
    TensorRule,
    Unfit,
    Unsettled,
    Unusable,
    each,
    naming,
    shown,
)

BY_MODEL = Mending("sizes", None, "each piece is as long as its key in the model")


@dataclass(frozen=True, slots=True)
class Split(TensorRule):
    """Cuts a tensor into several along `dim`; `sizes` are proportions, or the model's sizes where they are unset."""

    split: str
    """A regular expression that is found in the key."""
    into: str | list[str | None]
    """What replaces the match in the name of each piece; null drops one. A text with ``{}`` names one per index."""
    dim: int = 0
    """The dim that is cut."""
    sizes: list[int] | None = None
    """The proportions of the pieces; null takes the sizes of the model's keys."""
    groups: int = 1
    """Equal runs into which the dim is cut first, each of which has a part of every piece."""
    example: ClassVar[Mapping[str, object]] = {"split": r"\.qkv\.", "into": [".q.", ".k.", ".v."]}

    def hits(self, name: str) -> bool:
        """Whether the expression is found in the name."""
        return expression(self.split).search(name) is not None

    def grouped(self, entries: Mapping[str, TensorEntry], context: Context) -> Iterable[Group]:  # noqa: ARG002
        """Returns a group of each tensor with its pieces."""
        pattern = expression(self.split)
        self._check(pattern)
        cut = self._indices if isinstance(self.into, str) else self._pieces

        def made(name: str) -> Group:
            with naming(shown(name, entries[name])):
                return Group((name,), tuple(cut(pattern, name, boxed.movable(entries[name]))))

        hit = [name for name in entries if self.hits(name)]
        if isinstance(self.into, str):
            shapes = (entries[name].shape for name in hit)
            boxed.check_most(sum(one[self.dim] for one in shapes if -len(one) <= self.dim < len(one)))
        return each(hit, made)

    def without(self, positions: Collection[int]) -> Mending | None:
        """Drops these pieces, where each has a name in a list."""
        if isinstance(self.into, str):
            return None
        return Mending("into", [None if at in positions else to for at, to in enumerate(self.into)])

    def follow(self, prefix: str) -> Sequence[str]:
        """Returns the prefix of each piece; it stays where the pieces are numbered."""
        if isinstance(self.into, str) or not self.hits(prefix):
            return (prefix,)
        return [expression(self.split).sub(to, prefix) for to in self.into if to is not None]

    def _check(self, pattern: re.Pattern[str]) -> None:
        if isinstance(self.into, str):
            check_numbered(pattern, self.into, "into")
            if self.sizes is not None or self.groups != 1:
                idle = [Mending("sizes", None), Mending("groups", 1)]
                raise Unusable("'sizes' and 'groups' belong to a list of names, but 'into' is one name", *idle)
            return
        boxed.check_number(self.groups, "groups")
        for to in self.into:
            check_replacement(pattern, to or "", "into")
        if not any(to is not None for to in self.into):
            raise Unusable("'into' names no piece", Mending("into", [".q.", ".k.", ".v."]))
        if self.sizes is not None:
            if len(self.sizes) != len(self.into):
                sizes = counted(len(self.sizes), "size")
                raise Unusable(f"'sizes' has {sizes} for the {counted(len(self.into), 'piece')} of 'into'", BY_MODEL)
            for size in self.sizes:
                boxed.check_number(size, "sizes", BY_MODEL)

    def _indices(self, pattern: re.Pattern[str], name: str, entry: TensorEntry) -> Iterable[Result]:
        dim = boxed.place_of(self.dim, entry.shape)
        if not entry.numel:
            raise Unfit([f"has no elements, so that nothing along dim {dim} can be named"], boxed.NARROW)
        for index in range(entry.shape[dim]):
            new = numbered(pattern, str(self.into), index, name)
            yield Result(new, boxes.indexed(entry, dim, index))

    def _pieces(self, pattern: re.Pattern[str], name: str, entry: TensorEntry) -> Iterable[Result]:
        names = [None if to is None else pattern.sub(to, name) for to in self.into]
        dim = boxed.place_of(self.dim, entry.shape)
        runs = boxed.in_runs(entry, dim, self.groups)
        whole = Whole(name, entry, runs, dim, self.groups)
        if self.sizes is None:
            pending = ByModel(whole)
            return [Result(new, Unsettled(pending, index)) for index, new in enumerate(names)]
        length, total = runs.shape[dim + 1], sum(self.sizes)
        if length % total:
            each_of = f"each of {self.groups} groups of " if self.groups > 1 else ""
            fault = f"is not divisible along dim {dim}: {each_of}{length} into sizes: {self.sizes}, {total} parts"
            raise Unfit([fault], BY_MODEL)
        sizes = [size * length // total for size in self.sizes]
        return [Result(new, piece) for new, piece in zip(names, whole.pieces(sizes), strict=True)]


@dataclass(frozen=True, slots=True)
class Whole:
    """A tensor that is to be cut along a dim."""

    name: str
    entry: TensorEntry
    runs: TensorEntry
    """The same, with the dim in equal runs."""
    dim: int
    groups: int

    def pieces(self, sizes: Sequence[int]) -> Iterable[TensorEntry]:
        """Returns the pieces whose sizes, within each run, sum to its length."""
        for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
            piece = boxes.narrowed(self.runs, self.dim + 1, end - size, size)
            yield boxed.out_of_runs(piece, self.dim)


@dataclass(frozen=True, slots=True)
class ByModel(Pending):
    """The pieces of a tensor, each as long as its model key; the others share the rest."""

    whole: Whole

    def settled(self, names: Sequence[str | None], shapes: Sequence[Shape | None]) -> Sequence[TensorEntry]:
        """Returns the pieces; as in `Pending`."""
        whole, dim = self.whole, self.whole.dim
        rank = len(whole.entry.shape)
        known = [None if one is None or len(one) != rank else one[dim] for one in shapes]
        rest, lacking = whole.entry.shape[dim] - sum(filter(None, known)), known.count(None)
        share = rest // lacking if lacking else 0
        sizes = [share if one is None else one for one in known]
        with naming(shown(whole.name, whole.entry)):
            others = [shape(one) for one in shapes if one is not None and len(one) != rank]
            if others:
                raise Unfit(
                    [f"cannot be cut into {_listed(names, shapes)}: its pieces have {counted(rank, 'dim')}"],
                    boxed.NARROW,
                )
            if (rest if not lacking else rest % lacking or rest < 0 or (not rest and whole.entry.numel)) or any(
                size % whole.groups for size in sizes
            ):
                fault = f"cannot be cut along dim {dim} into {_listed(names, shapes)}: {self._why(known, rest)}"
                raise Unfit([fault], Fix(note="build the model with sizes that sum, or give sizes in the rule"))
        return list(whole.pieces([size // whole.groups for size in sizes]))

    def _why(self, known: Sequence[int | None], rest: int) -> str:
        sizes = [one for one in known if one is not None]
        size, lacking = self.whole.entry.shape[self.whole.dim], known.count(None)
        if any(one % self.whole.groups for one in sizes):
            return f"the sizes are not divisible by groups: {self.whole.groups}"
        if lacking and rest > 0:
            noun = counted(lacking, "piece")
            return f"the {rest} that are left cannot be shared equally by {noun} that the model lacks"
        return f"the sizes sum to {sum(sizes)}, expected {f'less than {size}' if lacking else size}"


def _listed(names: Sequence[str | None], shapes: Sequence[Shape | None]) -> str:
    texts = (
        f"{'a dropped piece' if name is None else safe_text(name)} {'' if one is None else shape(one)}".strip()
        for name, one in zip(names, shapes, strict=True)
    )
    return ", ".join(itertools.islice(texts, 8))


@dataclass(frozen=True, slots=True)
class Copy(TensorRule):
    """Gives a tensor several names; each has the values in memory of its own."""

    copy: str
    """A regular expression that is found in the key."""
    into: str | list[str]
    """What replaces the match in the name of each copy; a text with ``{}`` for several with a number."""
    times: int | None = None
    """The number of numbered copies."""
    example: ClassVar[Mapping[str, object]] = {"copy": r"\.mlp\.", "into": ".experts.{}.", "times": 8}

    @property
    def reversible(self) -> bool:
        """False: once a model was trained, its copies differ."""
        return False

    def hits(self, name: str) -> bool:
        """Whether the expression is found in the name."""
        return expression(self.copy).search(name) is not None

    def grouped(self, entries: Mapping[str, TensorEntry], context: Context) -> Iterable[Group]:  # noqa: ARG002
        """Returns a group of each tensor with its copies."""
        self._check(expression(self.copy))
        hit = [name for name in entries if self.hits(name)]
        boxed.check_most(len(hit) * (self.times or len(self.into)))
        for name in hit:
            yield Group((name,), tuple(Result(new, entries[name]) for new in self.follow(name)))

    def without(self, positions: Collection[int]) -> Mending | None:
        """Leaves these copies out, where each has a name in a list."""
        if isinstance(self.into, str):
            return None
        return Mending("into", [to for at, to in enumerate(self.into) if at not in positions])

    def follow(self, prefix: str) -> Sequence[str]:
        """Returns the prefix of each copy."""
        if not self.hits(prefix):
            return (prefix,)
        pattern = expression(self.copy)
        if isinstance(self.into, str):
            return [numbered(pattern, self.into, index, prefix) for index in range(self.times or 0)]
        return [pattern.sub(to, prefix) for to in self.into]

    def _check(self, pattern: re.Pattern[str]) -> None:
        if isinstance(self.into, str):
            check_numbered(pattern, self.into, "into")
            if self.times is None:
                raise Unusable("'times' is required where 'into' is one name with a number", Mending("times", 8))
            boxed.check_number(self.times, "times")
            return
        for to in self.into:
            check_replacement(pattern, to, "into")
        if self.times is not None or not self.into:
            raise ValueError("'times' has no meaning where 'into' is a list" if self.into else "'into' names no copy")
