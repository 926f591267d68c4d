"""What every checkpoint format is read into.

Guarantees: these are plain records without tensor data and without torch; a reader builds them from a file by parsing
it as data, and hands out a tensor's bytes only when asked for that tensor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from ..files.file import CheckpointFile

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
"""Bytes per element of every dtype that is read, by torch's own name for it."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes in a file that one or more tensors look into."""

    key: str
    """Its name inside the file, for messages."""
    offset: int
    """Where its first byte stands in the file."""
    nbytes: int
    """How many bytes it holds once unpacked."""
    crc32: int | None = None
    """Its checksum, where the format keeps one."""
    packed: int | None = None
    """How many bytes it takes in the file where it is deflated; None where it is stored as it is."""
    file: CheckpointFile | None = field(default=None, repr=False)
    """The opened file it stands in."""
    big_endian: bool = False
    """Whether its elements were written most significant byte first."""
    data: bytes | bytearray | None = field(default=None, hash=False, repr=False)
    """Its bytes, where the file keeps them inside a pickle; `offset` means nothing then."""
    memory: torch.UntypedStorage | None = field(default=None, compare=False, repr=False)
    """Its bytes, where they are in memory already."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a checkpoint, without its data."""

    dtype: str
    """torch's name, e.g. ``float32``."""
    shape: tuple[int, ...]
    stride: tuple[int, ...] = ()
    """In elements, as torch counts; one per dimension."""
    offset: int = 0
    """Elements between the storage's start and the first one."""
    storage: Storage | None = None
    """None for a tensor whose data is not in the file (saved on the meta device), and for an assembled one."""
    location: str = "cpu"
    """The device it was saved on; text only, never acted on."""
    layout: Layout = "strided"
    components: Mapping[str, TensorEntry] = field(default_factory=dict)
    """The dense tensors an assembled one is made of, by role (``indices``, ``values``, ``scales`` …).

    A strided tensor has them where it is computed from ggml's blocks.
    """
    details: Mapping[str, object] = field(default_factory=dict)
    """Plain values that belong to the layout (quantisation scheme, scale, zero point, conjugate bit …)."""
    pieces: tuple[Piece, ...] = ()
    """What a tensor is put together from that lies in several places; together they cover it exactly once."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements when dense and compact; those of the components where it is assembled."""
        if self.components:
            return sum(component.nbytes for component in self.components.values())
        return self.numel * ITEMSIZE[self.dtype]

    def storages(self) -> Iterator[Storage]:
        """The runs of bytes that reading it needs."""
        if self.storage is not None:
            yield self.storage
        for component in self.components.values():
            yield from component.storages()
        for piece in self.pieces:
            yield from piece.entry.storages()

    @property
    def is_without_data(self) -> bool:
        """Whether it is a shape alone: no bytes of it are in any file."""
        return self.storage is None and not self.components and not self.pieces


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor that lies in a place of its own."""

    entry: TensorEntry
    start: tuple[int, ...]
    """Where its first element stands in the whole: one number per dimension; or a single one for a run of the flattened
    tensor, which a piece of one dimension is."""


@functools.lru_cache(maxsize=4096)  # a model has few shapes, however many tensors
def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides of a compact tensor, as torch counts them."""
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
    """The entry of a compact tensor that its pieces cover; one without elements needs none."""
    empty = Storage(name, 0, 0, data=b"") if 0 in shape else None
    return TensorEntry(dtype, shape, contiguous(shape), storage=empty, pieces=() if empty else tuple(pieces))


@dataclass(frozen=True, slots=True)
class Leaf:
    """An entry that is no tensor and holds none."""

    type: str
    """Its type as the file names it, e.g. ``int``, ``argparse.Namespace``."""
    text: str = ""
    """Its value, for plain numbers, strings and the like; made safe to show."""
    record: object = None
    """What the inert reader made of it; plain Python for plain values."""


@dataclass(slots=True)
class Container:
    """An entry that holds others: a dict, a list, or a pickled module's state dict."""

    kind: Kind
    type: str
    """Its type as the file names it, e.g. ``collections.OrderedDict``, ``my_pkg.Net``."""
    children: dict[str, Node] = field(default_factory=dict)
    """By key, in the file's order. A module's are its whole flat state dict; a list's are named 0, 1, 2 …"""
    metadata: dict[str, dict[str, object]] = field(default_factory=dict)
    """torch's ``_metadata`` (module prefix → version and the like), plain scalars only."""
    record: object = None
    """What the inert reader made of it."""

    def tensors(self) -> dict[str, TensorEntry]:
        """The children that are tensors themselves."""
        return {key: child for key, child in self.children.items() if isinstance(child, TensorEntry)}

    def walk(self) -> Iterator[tuple[str, Container]]:
        """This container and every one below it, with dotted keys, outermost first; cycles are walked once."""
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
