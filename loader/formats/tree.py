"""The index of a checkpoint: containers, tensor entries and leaves.

Guarantees: plain records without tensor data and without torch, which every reader makes by parsing a file as data.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

    from ..files.file import CheckpointFile
    from .formulas.records import Formula

Layout = Literal["strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "quantized", "nested"]
"""How a tensor's elements are kept."""

Kind = Literal["dict", "list", "module", "object"]
"""What holds entries: a pickled module holds its whole flat state dict."""

ITEMSIZE: Mapping[str, int] = {
    "bool": 1, "uint8": 1, "int8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1, "float4_e2m1fn_x2": 1, "quint8": 1, "qint8": 1, "bits8": 1,
    "bits1x8": 1, "bits2x4": 1, "bits4x2": 1,
    "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2, "bits16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "complex32": 4, "bcomplex32": 4, "qint32": 4,
    "int64": 8, "uint64": 8, "float64": 8, "complex64": 8, "complex128": 16,
}  # fmt: skip
"""Bytes per element of every supported dtype, by torch's name."""

FLOATS = ("float16", "bfloat16", "float32", "float64")
"""The dtypes of real numbers that models compute in, by torch's name."""
FLOATS_OF_8_BITS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
"""Those that weights and scales are only kept in."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes in a file that one or more tensors share."""

    key: str
    """Its name inside the file, for messages."""
    offset: int
    """Offset of its first byte in the file."""
    nbytes: int
    """Its size in bytes once unpacked."""
    crc32: int | None = None
    """Its checksum, if the format has checksums."""
    packed: int | None = None
    """Its size in the file if it is deflated; None if it is stored."""
    file: CheckpointFile | None = field(default=None, repr=False)
    """The opened file that contains it."""
    big_endian: bool = False
    """Whether its elements are big-endian."""
    data: bytes | bytearray | None = field(default=None, hash=False, repr=False)
    """Its bytes, if the file keeps them inside a pickle; `offset` is unused then."""
    memory: torch.UntypedStorage | None = field(default=None, compare=False, repr=False)
    """Its bytes, if they are in memory already."""
    made: TensorEntry | None = field(default=None, hash=False, repr=False)
    """The entry whose elements, compact and in order, are its bytes once it is made; the other places are unused."""
    fetch: Callable[[], torch.UntypedStorage | None] | None = field(default=None, compare=False, repr=False)
    """Gives its bytes in memory, if they are read into it only when they are needed."""
    whole: Callable[[], torch.Tensor] | None = field(default=None, compare=False, repr=False)
    """Gives the tensor of `made`, if several entries share it."""


@dataclass(frozen=True, slots=True)
class Bits:
    """What torch does to a tensor's elements whenever it reads them."""

    conj: bool = False
    neg: bool = False


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a quantized tensor's integers represent numbers."""

    scheme: str
    """torch's name: ``per_tensor_affine``, ``per_channel_affine`` …"""
    scale: float | None = None
    zero_point: int | float | None = None
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Blocks:
    """The quantization of ggml's blocks."""

    type: int
    quantised: str
    """ggml's name of the type."""


@dataclass(slots=True)
class Pickled:
    """What a pickle says of a tensor's Python object."""

    requires_grad: bool | None = None
    parameter: bool = False
    array: bool = False
    """A NumPy array."""
    withheld: str = ""
    """Why its values are not in the file."""
    attributes: object = None
    """Record of its Python attributes."""
    subclass: object = None
    """Record of its class, unless that is torch's own."""


@dataclass(slots=True)
class Variable(Pickled):
    """The same of a parameter or variable of torch up to 0.3, which its pickle completes after making it."""


@dataclass(frozen=True, slots=True)
class Details:
    """What few tensors have besides shape, dtype and place."""

    bits: Bits | None = None
    quantization: Quantization | Blocks | None = None
    coalesced: bool | None = None
    """Of a sparse_coo tensor, where the file says so."""
    pickled: Pickled | None = None
    key: str = ""
    """The key of a tensor in memory."""

    def plain(self) -> dict[str, bool | int | float | str]:
        """Returns the plain values that are set, by name."""
        found: dict[str, Any] = {"is_coalesced": self.coalesced, "key": self.key}
        for part in (self.bits, self.quantization, self.pickled):
            found |= {one.name: getattr(part, one.name) for one in fields(part)} if part is not None else {}
        kept = {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}
        return {name: value for name, value in kept.items() if value or name not in _UNSAID}


_UNSAID = frozenset({"key", "conj", "neg", "parameter", "array", "withheld"})
"""Details that say nothing if they are false or empty."""
NO_DETAILS = Details()


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checkpoint, without its data."""

    dtype: str
    """Torch's name, such as ``float32``."""
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    """In elements; one per dimension."""
    offset: int = 0
    """Elements before the first one in the storage."""
    storage: Storage | None = None
    """None for a tensor without data (saved on the meta device) and for one with components or pieces."""
    location: str = "cpu"
    """The device it was saved on; text without effect."""
    layout: Layout = "strided"
    components: Mapping[str, TensorEntry] = field(default_factory=dict)
    """The dense tensors that make up another layout, by role (``indices``, ``values``, ``scales`` …), or the ``blocks``
    of a tensor that ggml quantized."""
    details: Details = NO_DETAILS
    pieces: tuple[Piece, ...] = ()
    """The parts of a tensor in several places; together they cover it exactly once."""
    formula: Formula | None = None
    """How its values are computed from `inputs`; its dtype is then the one that its sources suggest, while the values
    are float32, or float64 where it is float64, until they are rounded once to their final dtype."""
    inputs: tuple[TensorEntry, ...] = ()

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of its elements when dense and compact, or of its components."""
        if self.components:
            return sum(component.nbytes for component in self.components.values())
        return self.numel * ITEMSIZE[self.dtype]

    def storages(self) -> Iterator[Storage]:
        """The storages needed to read it."""
        if self.storage is not None and self.storage.made is not None:
            yield from self.storage.made.storages()
        elif self.storage is not None:
            yield self.storage
        for entry in self.inputs:
            yield from entry.storages()
        for component in self.components.values():
            yield from component.storages()
        for piece in self.pieces:
            yield from piece.entry.storages()

    @property
    def is_without_data(self) -> bool:
        """Whether it has a shape but no data in any file."""
        return self.storage is None and not self.components and not self.pieces and self.formula is None

    @property
    def is_computed(self) -> bool:
        """Whether arithmetic makes any of its values."""
        made = None if self.storage is None else self.storage.made
        return (
            self.formula is not None
            or (made is not None and made.is_computed)
            or any(piece.entry.is_computed for piece in self.pieces)
        )


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor."""

    entry: TensorEntry
    start: tuple[int, ...]
    """Index of its first element in the whole tensor: one number per dimension, or a single one if the piece is a run
    of the flattened tensor."""


@functools.lru_cache(maxsize=4096)  # a model has few shapes, however many tensors
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a compact tensor, in elements."""
    strides, step = [], 1
    for dimension in reversed(shape):
        strides.append(step)
        step *= dimension or 1
    return tuple(reversed(strides))


def stored(file: CheckpointFile, name: str, dtype: str, shape: tuple[int, ...], offset: int) -> TensorEntry:
    """The entry of a compact tensor whose bytes begin at an offset of a file."""
    nbytes = math.prod(shape) * ITEMSIZE[dtype]
    return TensorEntry(dtype, shape, contiguous(shape), storage=Storage(name, offset, nbytes, file=file))


def assembled(name: str, dtype: str, shape: tuple[int, ...], pieces: Iterable[Piece]) -> TensorEntry:
    """The entry of a compact tensor made of pieces."""
    empty = Storage(name, 0, 0, data=b"") if 0 in shape else None
    return TensorEntry(dtype, shape, contiguous(shape), storage=empty, pieces=() if empty else tuple(pieces))


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry that is not a tensor and contains none."""

    type: str
    """Its type in the file, such as ``int`` or ``argparse.Namespace``."""
    text: str = ""
    """Its value, if it is plain, safe to print."""
    record: object = None
    """The inert reader's record of it; plain Python for plain values."""


@dataclass(slots=True)
class Container:
    """An entry with children: a dict, a list, or a pickled module's state dict."""

    kind: Kind
    type: str
    """Its type in the file, such as ``collections.OrderedDict`` or ``my_pkg.Net``."""
    children: dict[str, Node] = field(default_factory=dict)
    """By key, in the file's order: a module's flat state dict, or a list's items as 0, 1, 2 …"""
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)
    """torch's ``_metadata`` (module prefix → version and the like), plain scalars only."""
    record: object = None
    """The inert reader's record of it."""

    def tensors(self) -> dict[str, TensorEntry]:
        """The children that are tensors."""
        return {key: child for key, child in self.children.items() if isinstance(child, TensorEntry)}

    def walk(self) -> Iterator[tuple[str, Container]]:
        """This container and all below it with their dotted keys, outermost first; each is visited once."""
        seen: set[int] = set()
        queue: list[tuple[str, Container]] = [("", self)]
        while queue:
            key, container = queue.pop(0)
            if id(container) in seen:
                continue
            seen.add(id(container))
            yield key, container
            below = ((name, child) for name, child in container.children.items() if isinstance(child, Container))
            queue.extend((f"{key}.{name}" if key else name, child) for name, child in below)


Node = Container | TensorEntry | Leaf
