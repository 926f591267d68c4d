"""Files of arrays: NumPy's `.npy` and `.npz`, and what `pickle.dump` writes.

Guarantees: a header is bounded and matched, never evaluated; the array is exactly as large as it says. Of an archive
only the headers are read for the index; a record's checksum covers its header too. Pickles, and arrays of Python
objects, are read inertly; a file without an array or a tensor is refused as what it is.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.lines import Fix
from ..text.wording import counted, listing, safe_text, shape
from .archived import ArchivedFile, Records
from .frameworks import name_pickle
from .limits import LONGEST_NPY_HEADER, MOST_DIGITS, MOST_DIMENSIONS
from .opened import OpenedFile
from .pickle.reader import unpickle
from .pickle.storages import NUMPY_DTYPES
from .pickle.tensors import BUILDERS
from .pickle.tree import build_tree
from .signatures import NPY, NPY_MAGIC, NPZ, PICKLE
from .tree import ITEMSIZE, Container, Leaf, Node, Storage, TensorEntry, contiguous
from .zip import Archive

_ITEM = r"""'(descr|fortran_order|shape)'\s*:\s*('[^']{1,40}'|True|False|\([\d\s,L]*\))\s*"""
_HEADER = re.compile(rf"\{{\s*{_ITEM},\s*{_ITEM},\s*{_ITEM},?\s*\}}\s*", re.ASCII)
_FIELDED = re.compile(r"'descr'\s*:\s*(?=\[)")
_ENDING = ".npy"
_HEAD = 4096
_FIELDS = "'fields'"
"""Placeholder for the list of a type's fields."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an array."""

    descr: str
    """NumPy's name of the type, such as ``<f4``; for a type with fields, their list as text."""
    fortran: bool
    shape: tuple[int, ...]
    start: int
    """Offset of the array."""

    @property
    def dtype(self) -> str | None:
        """Torch's name of the type; None if torch does not have it."""
        return NUMPY_DTYPES.get(self.descr[1:]) if self.descr[:1] in {"<", ">", "|", "="} else None

    @property
    def of_objects(self) -> bool:
        """Whether the array is a pickle."""
        return self.descr[1:2] == "O" or "'|O'" in self.descr

    @property
    def of_raw_bytes(self) -> bool:
        """Whether it has a type that NumPy does not have and wrote as raw bytes."""
        return self.descr[1:2] == "V"

    def stride(self) -> tuple[int, ...]:
        """In elements, as torch counts."""
        return contiguous(self.shape[::-1])[::-1] if self.fortran else contiguous(self.shape)


def read_header(file: CheckpointFile, head: bytes, name: str) -> Header:
    """Reads the header of an array.

    Args:
        file: The file, for messages.
        head: Its first bytes, up to `LONGEST_NPY_HEADER`.
        name: The name of the array, for messages.

    Raises:
        CheckpointError: It is invalid.
    """
    wide = head[6:7] != b"\x01"
    start = 12 if wide else 10
    length = int.from_bytes(head[8:start], "little")
    text = head[start : start + length].decode("utf-8", "replace")
    fielded = _FIELDED.search(text)
    listed = text[fielded.end() : text.rfind("]") + 1] if fielded else ""
    found = _HEADER.fullmatch(text.replace(listed, _FIELDS, 1) if listed else text)
    if not head.startswith(NPY_MAGIC) or len(head) < start + length or found is None:
        raise file.damaged(f"invalid header of array '{safe_text(name)}'")
    fields = dict(zip(found.groups()[::2], found.groups()[1::2], strict=True))
    shown, order, sizes = fields.get("descr", ""), fields.get("fortran_order", ""), fields.get("shape", "")
    dimensions = [size.strip().rstrip("L") for size in sizes[1:-1].split(",") if size.strip()]
    if shown[:1] != "'" or order not in {"True", "False"} or sizes[:1] != "(" or len(dimensions) > MOST_DIMENSIONS:
        raise file.damaged(f"invalid header of array '{safe_text(name)}'")
    if not all(size.isdigit() and len(size) <= MOST_DIGITS for size in dimensions):
        raise file.damaged(f"invalid shape of array '{safe_text(name)}'")
    descr = listed if shown == _FIELDS else shown[1:-1]
    return Header(descr, order == "True", tuple(map(int, dimensions)), start + length)


def entry_of(file: CheckpointFile, header: Header, storage: Storage, name: str) -> TensorEntry | Leaf:
    """The tensor in a record that begins with this header; a leaf if torch does not have its type.

    Raises:
        CheckpointError: The record is not as large as the header says.
    """
    dtype = header.dtype
    if dtype is None:
        return Leaf(f"numpy {safe_text(header.descr, 20)}", shape(header.shape))
    count, width = math.prod(header.shape), ITEMSIZE[dtype]
    if header.start + count * width != storage.nbytes:
        raise file.damaged(
            f"array '{safe_text(name)}' has {storage.nbytes - header.start:,} bytes; {dtype} "
            f"{safe_text(list(header.shape))} needs {safe_text(count * width)}"
        )
    if header.start % width:
        raise file.damaged(f"array '{safe_text(name)}' is not aligned for {dtype}")
    return TensorEntry(dtype, header.shape, header.stride(), header.start // width, storage)


def refuse_unreadable(file: CheckpointFile, headers: dict[str, Header]) -> None:
    """Raises CheckpointError if arrays have an unknown type, or all are pickles."""
    path = shown_path(file.path)
    raw = [f"{name} ({header.descr})" for name, header in headers.items() if header.of_raw_bytes]
    if raw:
        raise CheckpointError(
            f"{path} holds {counted(len(raw), 'array')} of a type that NumPy does not have, as raw bytes: "
            f"{listing(raw)}; the file does not say which type (bfloat16, float8 …)",
            Fix("numpy.savez('new.npz', name=array.astype('float32'))", "writes it again with types of NumPy"),
        )
    pickled = [name for name, header in headers.items() if header.of_objects]
    if pickled and len(pickled) == len(headers):
        raise CheckpointError(
            f"{path} holds only arrays of Python objects, which are pickles: {listing(pickled)}",
            Fix("numpy.savez('new.npz', **arrays)", "saves the arrays by name, where you trust the file"),
        )


def _of_objects(file: CheckpointFile, header: Header) -> Container:
    """The arrays of numbers among Python objects, such as the values of a dict that `numpy.save` was given."""
    found = unpickle(file.mapping, header.start, builders=BUILDERS, where=f"the pickle in {shown_path(file.path)}")
    file.note(found.globals)
    root = build_tree(found.root)
    if not any(container.tensors() for _, container in root.walk()):
        refuse_unreadable(file, {file.path.name: header})
    return root


class Npy(OpenedFile):
    """A file with one array.

    Args:
        file: The opened file.
        check: Ignored: the format has no checksums, and its structure is always checked.

    Raises:
        CheckpointError: It is cut off, damaged, or of a type that torch does not have.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        header = read_header(file, file.pread(0, min(LONGEST_NPY_HEADER, file.size)), file.path.name)
        if header.of_objects:
            super().__init__(file, NPY, _of_objects(file, header), check)
            return
        refuse_unreadable(file, {file.path.name: header})
        width = ITEMSIZE.get(header.dtype or "", 0)
        needed = header.start + width * math.prod(header.shape)
        if needed > file.size:
            raise file.ends_early(needed)
        storage = Storage("array", 0, file.size, file=file, big_endian=header.descr.startswith(">"))
        entry = entry_of(file, header, storage, file.path.name)
        super().__init__(file, NPY, Container("dict", "numpy.ndarray", {"": entry}), check)


class Npz(ArchivedFile):
    """An archive of arrays.

    Args:
        archive: The archive's table of contents.
        check: `structure` compares no checksums, `full` all of them now, `crc` those of the tensors in use.

    Raises:
        CheckpointError: It is damaged, or holds arrays of types that torch does not have.
    """

    def __init__(self, archive: Archive, check: str) -> None:
        records = Records(archive, "", check)
        headers: dict[str, Header] = {}
        children: dict[str, Node] = {}
        for member in archive.members.values():
            name = member.name.removesuffix(_ENDING)
            header = read_header(archive.file, archive.head(member, LONGEST_NPY_HEADER), name)
            storage = replace(records.storage(member.name), big_endian=header.descr.startswith(">"))
            headers[name], children[name] = header, entry_of(archive.file, header, storage, name)
        refuse_unreadable(archive.file, headers)
        super().__init__(records, NPZ, Container("dict", NPZ, children), check)


class PickledFile(OpenedFile):
    """A file written by `pickle.dump`.

    Args:
        file: The opened file.
        check: Ignored: the format has no checksums, and its structure is always checked.

    Raises:
        CheckpointError: It is cut off, damaged, or without an array of numbers or a tensor.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        found = unpickle(file.mapping, builders=BUILDERS, where=f"the pickle in {shown_path(file.path)}")
        file.note(found.globals)
        root = build_tree(found.root)
        if not any(container.tensors() for _, container in root.walk()):
            foreign = name_pickle(file.pread(0, min(_HEAD, file.size)), b"")
            raise CheckpointError(
                f"{shown_path(file.path)} is {foreign.what if foreign else 'a pickle'}, and holds no array of numbers",
                *(foreign.advice() if foreign else ()),
            )
        super().__init__(file, PICKLE, root, check)
