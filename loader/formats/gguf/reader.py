"""GGUF files, as llama.cpp has them.

Guarantees: tensors of plain types are mapped as they are; those that ggml has quantised become float32 when they are
asked for, which alone needs the package `gguf`. The tensors lie inside the file, each as large as its type and shape
say, and do not overlap.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...files.file import CheckpointFile
from ...files.path import shown_path
from ...text.wording import counted, safe_text
from ..limits import LARGEST_ALIGNMENT, LARGEST_NUMBER
from ..names import GGUF as FORMAT
from ..opened import OpenedFile
from ..pickle.tree import leaf
from ..tree import ITEMSIZE, Container, Leaf, Node, Storage, TensorEntry
from .ggml import quantisations
from .header import Header, Listed, Values

_ALIGNMENT = "general.alignment"
_PLAIN: Mapping[int, str] = {
    0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16",
}  # fmt: skip
"""torch's name of a type by ggml's number."""


class Gguf(OpenedFile):
    """A GGUF file.

    Args:
        file: The opened file.
        check: Its bytes carry no checksum: all that can be checked, the structure, always is.

    Raises:
        CheckpointError: It is cut off, damaged, or quantised and the package `gguf` is not there.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        header = Header(file)
        alignment = header.notes.get(_ALIGNMENT, 32)
        if type(alignment) is not int or not 0 < alignment <= LARGEST_ALIGNMENT or alignment & (alignment - 1):
            raise file.damaged(f"its alignment is {safe_text(alignment)}; a power of two was expected")
        self._start = -(-header.end // alignment) * alignment
        children: dict[str, Node] = {name: _note(note) for name, note in header.notes.items()}
        children |= {name: self._entry(listed) for name, listed in header.listed.items()}
        self._check_places(children)
        super().__init__(file, FORMAT, Container("dict", FORMAT, children), check)

    def _entry(self, listed: Listed) -> TensorEntry | Leaf:
        shape = tuple(reversed(listed.dimensions))
        count = 1
        for size in shape:
            count *= size
        if any(size >= LARGEST_NUMBER for size in shape):
            raise self._file.damaged(f"its tensor '{safe_text(listed.name)}' has a shape that is none")
        plain = _PLAIN.get(listed.type)
        if plain is not None:
            return TensorEntry(plain, shape, _strides(shape), 0, self._storage(listed, count * ITEMSIZE[plain]))
        kind = quantisations(shown_path(self._file.path), listed.name).get(listed.type)
        if kind is None:
            return Leaf(f"ggml type {listed.type:,}", safe_text(list(shape)))
        name, elements, nbytes = kind
        if not shape or shape[-1] % elements:
            raise self._file.damaged(
                f"its tensor '{safe_text(listed.name)}' has rows that are no multiple of {name}'s {elements} elements"
            )
        storage = self._storage(listed, count // elements * nbytes)
        blocks = TensorEntry("uint8", (storage.nbytes,), (1,), 0, storage)
        details = {"type": listed.type, "quantised": name}
        return TensorEntry("float32", shape, components={"blocks": blocks}, details=details)

    def _storage(self, listed: Listed, nbytes: int) -> Storage:
        start = self._start + listed.offset
        if start + nbytes > self._file.size:
            raise self._file.ends_early(start + nbytes)
        return Storage(listed.name, start, nbytes, file=self._file)

    def _check_places(self, children: Mapping[str, Node]) -> None:
        storages = [s for node in children.values() if isinstance(node, TensorEntry) for s in node.storages()]
        end = self._start
        for storage in sorted(storages, key=lambda storage: (storage.offset, storage.nbytes)):
            if storage.offset < end:
                raise self._file.damaged(f"its tensor '{safe_text(storage.key)}' overlaps what stands before it")
            end = storage.offset + storage.nbytes


def _note(note: object) -> Leaf:
    return Leaf("list", counted(note.count, "value")) if isinstance(note, Values) else leaf(note)


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))
