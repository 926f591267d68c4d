"""The rule that brings a tensor to the size of the model's key: ``resize``.

Guarantees: as in `tensors`. The size is settled after all rules have named their results; a tensor that has it already
stays as it is, whatever its dtype. Rows that both sides have are moved, so that their bits stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from ...formats.boxes import computed, is_movable, joined, narrowed, repeated, reshaped, unflattened
from ...formats.formulas.records import Initial, Reduced, Resized, Scaled
from ...formats.tree import ITEMSIZE, Storage, TensorEntry, contiguous
from ...schema import own_fields
from ...text.wording import counted, shape
from ..plan import fits
from .arithmetic import refuse_outsized, refuse_unfit_values
from .tensors import Mending, Pending, SelectingRule, Shape, Unfit, Unsettled, Unusable, each, naming, shown

Manner = Literal["bicubic", "bilinear", "linear", "nearest", "area", "rows", "channels"]
"""How a tensor is brought to another size."""
Fill = Literal["model", "mean", "0"]
"""What new rows hold."""

_GRIDS = frozenset({"prefix", "suffix", "grid", "file_grid"})
_SETTINGS: Mapping[str, frozenset[str]] = {
    "bicubic": _GRIDS | {"antialias"},
    "bilinear": _GRIDS | {"antialias"},
    "nearest": _GRIDS,
    "area": _GRIDS,
    "linear": frozenset({"prefix", "suffix"}),
    "rows": frozenset({"fill"}),
    "channels": frozenset(),
}
"""The settings that have an effect."""
_A_PICTURE = 2


@dataclass(frozen=True, slots=True)
class Resize(SelectingRule):
    """Brings a tensor to the size of the model's key."""

    resize: str
    """A glob over keys."""
    by: Manner
    """Interpolation of one dim, a flattened grid (a line for ``linear``), or of two, a picture; ``rows`` of the first
    dim, or ``channels`` of the second."""
    prefix: int = 0
    """How many tokens in front of a flattened grid stay as they are."""
    suffix: int = 0
    """How many tokens behind it do."""
    grid: list[int] | None = None
    """Height and width of the model's grid, if it is not square."""
    file_grid: list[int] | None = None
    """Those of the file's."""
    antialias: bool = False
    """Whether ``bicubic`` and ``bilinear`` smooth a smaller result."""
    fill: Fill = "model"
    """What new rows hold: the initial values that the ``model`` has from ``seed``, the ``mean`` of the file's, or 0."""
    example: ClassVar[Mapping[str, object]] = {"resize": "pos_embed", "by": "bicubic"}

    @property
    def reversible(self) -> bool:
        """False: another size holds less, or was made up."""
        return False

    def change(self) -> Callable[[TensorEntry], Unsettled]:
        """Returns the function of one tensor; raises Unusable for settings that cannot work."""
        self._check()
        pending = _Resizing(self)

        def changed(entry: TensorEntry) -> Unsettled:
            pending.entries.append(entry)
            return Unsettled(pending, len(pending.entries) - 1)

        return changed

    def _check(self) -> None:
        known = {"resize", "by", *_SETTINGS[self.by]}
        set_ = [one for one in own_fields(self) if one.default != getattr(self, one.name)]
        idle = [one for one in set_ if one.name not in known]
        if idle:
            mendings = [Mending(one.name, one.default) for one in idle]
            raise Unusable(f"'{idle[0].name}' has no effect with by: {self.by}", *mendings)
        for name in ("prefix", "suffix"):
            if getattr(self, name) < 0:
                raise Unusable(f"'{name}' is {getattr(self, name)}, expected a number of tokens", Mending(name, 0))
        for name in ("grid", "file_grid"):
            sizes = getattr(self, name)
            if sizes is not None and (len(sizes) != _A_PICTURE or min(sizes) < 1):
                raise Unusable(f"'{name}' is {shape(sizes)}, expected a height and a width such as [14, 14]")


@dataclass(slots=True)
class _Resizing(Pending):
    """The tensors that a rule resizes."""

    rule: Resize
    entries: list[TensorEntry] = field(default_factory=list)

    def settled(self, names: Sequence[str | None], shapes: Sequence[Shape | None]) -> Sequence[TensorEntry]:
        """Returns them in the sizes of the model's keys; one that was dropped stays as it is."""
        return each(zip(self.entries, names, shapes, strict=True), lambda one: self._settled(*one))

    def _settled(self, entry: TensorEntry, name: str | None, wanted: Shape | None) -> TensorEntry:
        if name is None:
            return entry
        if wanted is None:
            raise Unfit([f"{shown(name, entry)} takes its size from the model, which has no key of this name and size"])
        with naming(f"{shown(name, entry)}, in the model {shape(wanted)},"):
            return _resized(self.rule, entry, wanted)


def _resized(rule: Resize, entry: TensorEntry, wanted: Shape) -> TensorEntry:
    given = rule.grid is not None or rule.file_grid is not None
    if fits(wanted, entry.shape) and not given:
        return entry
    if len(entry.shape) != len(wanted):
        raise Unfit([f"differs in the number of dims, which by: {rule.by} does not change"])
    differing = [dim for dim, (one, other) in enumerate(zip(entry.shape, wanted, strict=True)) if one != other]
    if not (rule.by == "rows" and is_movable(entry)):
        refuse_unfit_values(entry)
    if rule.by == "rows":
        return _with_rows(rule, entry, wanted, differing)
    if 0 in entry.shape or 0 in wanted:
        raise Unfit(["has no elements on one of the two sides"])
    refuse_outsized(entry, wanted)
    if rule.by == "channels":
        return _with_channels(entry, wanted, differing)
    if len(differing) == _A_PICTURE and rule.by != "linear":
        return _picture(rule, entry, wanted, differing)
    return _tokens(rule, entry, wanted, differing)


def _refuse_others(by: str, differing: Iterable[int], changed: int) -> None:
    """Raises Unfit if dims differ that a manner does not change."""
    others = [dim for dim in differing if dim != changed]
    if others:
        named = " and ".join(map(str, others))
        raise Unfit([f"differs in dim {named}, which by: {by} does not change (it changes dim {changed} alone)"])


def _with_rows(rule: Resize, entry: TensorEntry, wanted: Shape, differing: Sequence[int]) -> TensorEntry:
    """The rows that both sides have, and new ones."""
    _refuse_others("rows", differing, 0)
    have, rows = entry.shape[0], wanted[0]
    if rows < have:
        return narrowed(entry, 0, 0, rows)
    rest = (rows - have, *wanted[1:])
    if rule.fill == "model":
        new = TensorEntry(entry.dtype, rest, contiguous(rest), formula=Initial(have))
    elif rule.fill == "mean":
        refuse_unfit_values(entry)
        if not have:
            raise Unfit(["has no rows in the file whose mean new ones could take"])
        new = repeated(computed(Reduced((0,), "mean"), [entry], wanted[1:]), 0, rest[0])
    else:
        new = _zeros(entry.dtype, rest)
    return joined([entry, new], 0)


def _zeros(dtype: str, sizes: Shape) -> TensorEntry:
    """A tensor of zeros that takes the memory of one."""
    one = TensorEntry(dtype, (), (), storage=Storage("", 0, ITEMSIZE[dtype], data=bytes(ITEMSIZE[dtype])))
    for size in reversed(sizes):
        one = repeated(one, 0, size)
    return one


def _with_channels(entry: TensorEntry, wanted: Shape, differing: Sequence[int]) -> TensorEntry:
    """The sum of all channels for one, otherwise channels repeated in turn and scaled, so that their sum stays.

    The rule is that of timm, ``adapt_input_conv``.
    """
    _refuse_others("channels", differing, 1)
    have, channels = entry.shape[1], wanted[1]
    if channels == 1:
        total = computed(Reduced((1,), "sum"), [entry], (*wanted[:1], *wanted[2:]))
        return reshaped(total, wanted)
    turns = [entry] * (channels // have)
    rest = channels % have
    turned = joined([*turns, *([narrowed(entry, 1, 0, rest)] if rest else [])], 1)
    return computed(Scaled(have / channels), [turned], wanted)


def _picture(rule: Resize, entry: TensorEntry, wanted: Shape, differing: Sequence[int]) -> TensorEntry:
    """Two dims interpolated."""
    idle = [name for name in sorted(_GRIDS) if getattr(rule, name)]
    if idle:
        raise Unfit([f"differs in dims {differing[0]} and {differing[1]}, and '{idle[0]}' is for one flattened grid"])
    return _interpolated(rule, entry, differing, [wanted[dim] for dim in differing])


def _tokens(rule: Resize, entry: TensorEntry, wanted: Shape, differing: Sequence[int]) -> TensorEntry:
    """One dim interpolated as a grid, or as a line, between tokens that stay."""
    dim = _only(rule, entry, differing)
    kept, have, want = rule.prefix + rule.suffix, entry.shape[dim], wanted[dim]
    if min(have, want) <= kept:
        raise Unfit([f"has no tokens left in dim {dim} beside prefix: {rule.prefix} and suffix: {rule.suffix}"])
    middle = narrowed(entry, dim, rule.prefix, have - kept)
    if rule.by == "linear":
        made = _interpolated(rule, middle, [dim], [want - kept])
    else:
        theirs, mine = _grids(rule, have - kept, want - kept)
        if theirs == mine:
            return entry
        grid = unflattened(middle, dim, theirs)
        made = _interpolated(rule, grid, [dim, dim + 1], mine)
        made = reshaped(made, (*wanted[:dim], want - kept, *wanted[dim + 1 :]))
    before, after = narrowed(entry, dim, 0, rule.prefix), narrowed(entry, dim, have - rule.suffix, rule.suffix)
    return joined([before, made, after], dim) if kept else made


def _only(rule: Resize, entry: TensorEntry, differing: Sequence[int]) -> int:
    """The dim that holds the tokens."""
    if len(differing) == 1:
        return differing[0]
    if differing:
        expected = "one" if rule.by == "linear" else "one, a flattened grid, or two, a picture"
        named = ", ".join(map(str, differing))
        raise Unfit([f"differs in dims {named}; by: {rule.by} changes {expected}"])
    sizes = [rule.prefix + math.prod(grid) + rule.suffix for grid in (rule.file_grid, rule.grid) if grid is not None]
    dims = [dim for dim, size in enumerate(entry.shape) if size == sizes[0]]
    if len(dims) != 1:
        raise Unfit([f"has {counted(len(dims), 'dim')} of {sizes[0]} tokens, expected one with the grid"])
    return dims[0]


def _grids(rule: Resize, have: int, want: int) -> tuple[list[int], list[int]]:
    """The grids of the file and of the model."""
    for name, grid, tokens in (("file_grid", rule.file_grid, have), ("grid", rule.grid, want)):
        if grid is not None and math.prod(grid) != tokens:
            side = "model" if name == "grid" else "file"
            raise Unfit([f"has {tokens} tokens in the {side} where {name}: {shape(grid)} has {math.prod(grid)}"])
    theirs, mine = rule.file_grid or _square(have), rule.grid or _square(want)
    if theirs and mine:
        return theirs, mine
    sides = (("file_grid", theirs, f"{have} tokens in the file"), ("grid", mine, f"{want} in the model"))
    odd = {name: said for name, grid, said in sides if grid is None}
    expected = " and ".join(f"{name}: [H, W]" for name in odd)
    given = rule.grid is not None or rule.file_grid is not None or rule.prefix or rule.suffix
    prefix = None if given else _prefix(have, want)
    mends = [Mending("prefix", prefix, "makes both grids square")] if prefix else []
    raise Unfit([f"has {' and '.join(odd.values())}: a grid that is not square (expected {expected})"], *mends)


def _square(tokens: int) -> list[int] | None:
    side = math.isqrt(tokens)
    return [side, side] if side * side == tokens else None


def _prefix(have: int, want: int) -> int | None:
    """The smallest number of tokens without which both sides are square grids."""
    few = range(1, min(have, want, 17))
    return next((kept for kept in few if _square(have - kept) and _square(want - kept)), None)


def _interpolated(rule: Resize, entry: TensorEntry, dims: Sequence[int], sizes: Sequence[int]) -> TensorEntry:
    new = list(entry.shape)
    for dim, size in zip(dims, sizes, strict=True):
        new[dim] = size
    formula = Resized(tuple(dims), tuple(sizes), rule.by, rule.antialias)  # type: ignore[arg-type]  # one that interpolates
    return computed(formula, [entry], new)
