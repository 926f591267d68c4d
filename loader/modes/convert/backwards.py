"""The tensors of a file out of the values that a model has, by the recorded entries backwards.

An entry says which elements of a file's tensors make which element of the model's. So the values of a model are
scattered through the views and pieces of its entries into memory laid out as the file's storages, out of which the
file's own entries then read. No expression is ever inverted.

Guarantees: which tensors can be given back is decided from shapes and strides alone, before a value is computed; one
tensor is computed when it is asked for, and is not kept, nor is more than one step between it and the model. A tensor
of the file of which the model holds only a part is never given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from ...errors import ConfigError
from ...formats.elements import same_elements
from ...formats.formulas.inverse import has_inverse, inverse
from ...formats.formulas.records import Formula
from ...formats.tensor import box, torch_dtype
from ...formats.tree import ITEMSIZE, Bits, Piece, Storage, TensorEntry
from ...module.dtype import cast
from ...text.lines import Fix
from ...text.wording import safe_text

AS_THE_MODEL = Fix("convert.names=model", "writes the names and layout of the model")
Place = tuple[object, ...]
"""What takes values: a tensor of the file, a storage of it, or what views of a storage are made of."""


class Irreversible(Exception):  # noqa: N818  # the caller knows the rule
    """An entry whose sources do not follow from its values."""


class _Differing(Exception):  # noqa: N818  # the caller knows the key
    """Two values of the model belong in one place and differ."""


@dataclass(frozen=True, slots=True)
class _Step:
    """Values for some elements of a place."""

    give: Callable[[], torch.Tensor]
    """Computes them, on the CPU."""
    entry: TensorEntry
    """Where they belong, as a view of the place."""
    dtype: torch.dtype | Place
    """Theirs; a place stands for the dtype of its values."""


class Backwards:
    """Gives a file's tensors back.

    Args:
        tensors: The file's tensors by key.
    """

    def __init__(self, tensors: Mapping[str, TensorEntry]) -> None:
        self._tensors = tensors
        self._keys = {id(entry): key for key, entry in tensors.items()}
        self._steps: dict[Place, list[_Step]] = {}
        self._sizes: dict[Place, int] = {}
        self._last: dict[Place, torch.Tensor] = {}

    def add(self, entry: TensorEntry, value: torch.Tensor) -> None:
        """Adds a tensor of the model.

        Args:
            entry: What the file offered for it.
            value: Its values, on any device.

        Raises:
            Irreversible: What it was made of cannot be computed from it.
        """
        self._add(entry, lambda: value.detach().cpu().reshape(entry.shape), value.dtype)

    def given(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the keys of the file's tensors of which the model holds anything, each with a stand-in without data.

        Raises:
            Irreversible: The model holds a part of a tensor; the message is its key.
        """
        for place in self._steps:
            if place[0] == "made" and not bool(self._mask(place).all()):
                raise Irreversible(self._below(place))
        masks: dict[Place, torch.Tensor] = {}
        for key, entry in self._tensors.items():
            place = self._place(key, entry)
            if not entry.numel and entry.layout == "strided":  # it follows from its shape
                yield key, torch.empty(entry.shape, dtype=torch_dtype(entry), device="meta")
                continue
            if place not in self._steps:
                continue
            if place[0] == "storage":
                if place not in masks:
                    masks = {place: self._mask(place)}  # neighbours in a file share a storage
                covered = masks[place].as_strided(entry.shape, entry.stride, entry.offset)
                if not bool(covered.any()):
                    continue
                if not bool(covered.all()):
                    raise Irreversible(key)
            yield key, torch.empty(entry.shape, dtype=self._dtype(place), device="meta")

    def tensor(self, key: str) -> torch.Tensor:
        """Computes one of the tensors that are given back.

        Raises:
            ConfigError: The model has different values for what is one tensor in the file, or the inverse of a rule
                overflows.
        """
        entry = self._tensors[key]
        if not entry.numel and entry.layout == "strided":
            return torch.empty(entry.shape, dtype=torch_dtype(entry))
        place = self._place(key, entry)
        try:
            if place[0] == "key":
                return self._only(place).reshape(entry.shape)
            found = self._assembled(place).as_strided(entry.shape, entry.stride, entry.offset)
        except _Differing:
            text = f"the model has different values for what is one tensor in the file: {safe_text(key)}"
            raise ConfigError(text, AS_THE_MODEL) from None
        return _with_bits(found, entry.details.bits)

    def _add(self, entry: TensorEntry, give: Callable[[], torch.Tensor], dtype: torch.dtype | Place) -> None:
        if (key := self._keys.get(id(entry))) is not None:
            self._steps.setdefault(("key", key), []).append(_Step(give, entry, dtype))
        elif entry.formula is not None:
            if not has_inverse(entry.formula):
                raise Irreversible
            undo = partial(_inverted, entry.formula, give, entry.inputs[0].shape)
            self._add(entry.inputs[0], lambda: self._kept(("formula", id(entry)), undo), dtype)
        elif len(entry.pieces) == 1:
            self._add(entry.pieces[0].entry, partial(_reshaped, give, entry.pieces[0].entry.shape), dtype)
        elif entry.pieces:
            for piece in entry.pieces:
                self._add(piece.entry, partial(_part, give, piece), dtype)
        elif entry.storage is None or any(n > 1 and s == 0 for n, s in zip(entry.shape, entry.stride, strict=True)):
            raise Irreversible  # without data, or repeated along a dim
        else:
            self._add_view(entry, entry.storage, give, dtype)

    def _add_view(
        self, entry: TensorEntry, storage: Storage, give: Callable[[], torch.Tensor], dtype: torch.dtype | Place
    ) -> None:
        made = storage.made
        place = _storage_of(entry, storage) if made is None else ("made", id(made))
        known = place in self._steps
        self._steps.setdefault(place, []).append(_Step(give, entry, dtype))
        if made is None:
            self._sizes[place] = storage.nbytes // ITEMSIZE[entry.dtype]
        elif not known:
            self._sizes[place] = made.numel
            whole = partial(self._assembled, place)
            self._add(made, lambda: self._kept(place, whole).view(made.shape), place)

    def _place(self, key: str, entry: TensorEntry) -> Place:
        """Where the values of a tensor of the file arrive."""
        if ("key", key) in self._steps or entry.storage is None or entry.storage.made is not None:
            return "key", key
        return _storage_of(entry, entry.storage)

    def _mask(self, place: Place) -> torch.Tensor:
        """The elements of a place that have values."""
        mask = torch.zeros(self._sizes[place], dtype=torch.bool)
        for step in self._steps[place]:
            mask.as_strided(step.entry.shape, step.entry.stride, step.entry.offset).fill_(True)
        return mask

    def _below(self, place: Place) -> str:
        """A key of the file that lies below a place."""
        for key, entry in self._tensors.items():
            own = self._place(key, entry)
            if any(place in self._above(step) for step in self._steps.get(own, ())):
                return key
        return ""

    def _above(self, step: _Step) -> Iterator[Place]:
        """Yields the places that a step's values come out of."""
        if isinstance(step.dtype, tuple):
            yield step.dtype
            for above in self._steps[step.dtype]:
                yield from self._above(above)

    def _dtype(self, place: Place) -> torch.dtype:
        """The dtype of a place's values: the one that holds all of them."""
        found: torch.dtype | None = None
        for step in self._steps[place]:
            one = self._dtype(step.dtype) if isinstance(step.dtype, tuple) else step.dtype
            found = one if found is None or found == one else torch.promote_types(found, one)
        if found is None:
            raise LookupError(place)  # a place has a step
        return found

    def _only(self, place: Place) -> torch.Tensor:
        first, *others = (step.give().to(self._dtype(place)) for step in self._steps[place])
        if not all(same_elements(first, other) for other in others):
            raise _Differing
        return first

    def _assembled(self, place: Place) -> torch.Tensor:
        """Scatters all values of a place into memory of its layout."""
        flat = torch.zeros(self._sizes[place], dtype=self._dtype(place))
        filled = torch.zeros(self._sizes[place], dtype=torch.bool)
        for step in self._steps[place]:
            view = (step.entry.shape, step.entry.stride, step.entry.offset)
            value = _with_bits(step.give(), step.entry.details.bits).to(flat.dtype)
            there, before = flat.as_strided(*view), filled.as_strided(*view)
            if bool(before.any()) and not same_elements(there[before], value[before]):
                raise _Differing
            there.copy_(value)
            before.fill_(True)
        return flat

    def _kept(self, place: Place, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What is between the model and the file, kept until another is needed: its sources are asked for in turn."""
        if place not in self._last:
            self._last = {}
            self._last = {place: compute()}
        return self._last[place]


def _storage_of(entry: TensorEntry, storage: Storage) -> Place:
    held = storage.memory if storage.memory is not None else storage.data
    where = (
        id(storage.file) if held is None else held.data_ptr() if isinstance(held, torch.UntypedStorage) else id(held)
    )
    return "storage", where, storage.offset, storage.nbytes, entry.dtype


def _inverted(formula: Formula, give: Callable[[], torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    values = give()
    found, loss = cast(inverse(formula, values), values.dtype)
    if loss:
        raise ConfigError(f"the inverse of a rule that scales overflows: {loss}", AS_THE_MODEL)
    return found.reshape(shape)


def _reshaped(give: Callable[[], torch.Tensor], shape: tuple[int, ...]) -> torch.Tensor:
    return give().reshape(shape)


def _part(give: Callable[[], torch.Tensor], piece: Piece) -> torch.Tensor:
    return box(give().contiguous(), piece)


def _with_bits(value: torch.Tensor, bits: Bits | None) -> torch.Tensor:
    """The elements as a file keeps them where torch negates or conjugates what it reads; its own inverse."""
    if bits is None:
        return value
    value = value.conj().resolve_conj() if bits.conj else value
    return value.neg() if bits.neg else value
