"""Files of `torch.save` before torch 1.6: five pickles in a row, then the storages.

Guarantees: the pickles are read inertly, twice: first to learn which storages there are, then, once their places in
the file are known, to make the tensors. Every storage lies inside the file and has exactly the declared size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...files.file import CheckpointFile
from ...files.path import shown_path
from ...text.wording import safe_text
from ..names import TORCH_LEGACY as FORMAT
from ..opened import OpenedFile
from ..pickle.reader import Unpickled, unpickle
from ..pickle.records import Builder, PersistentId
from ..pickle.storages import TypedStorage, storage_dtype
from ..pickle.tensors import BUILDERS
from ..pickle.tree import build_tree
from ..signatures import LEGACY_MAGIC
from ..tree import ITEMSIZE, Storage

_PROTOCOL_VERSION = 1001
_COUNT = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class _Reference:
    """A persistent id: ("storage", type, key, location, elements, view), the view ("key", offset, elements) or None."""

    dtype: str
    key: str
    location: str
    count: int
    view: tuple[int, int] | None


class TorchLegacy(OpenedFile):
    """A file written by `torch.save` in its old format.

    Args:
        file: The opened file.
        check: Its bytes carry no checksum: all that can be checked, the structure, always is.

    Raises:
        CheckpointError: It is cut off, damaged, or not what torch writes.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        self._dtypes: dict[str, str] = {}
        self._known: dict[str, Storage] = {}
        start = self._header()
        end = self._pickle(start, self._learn).end
        self._place(self._pickle(end))
        unpickled = self._pickle(start, self._storage, BUILDERS)
        super().__init__(file, FORMAT, build_tree(unpickled.root), check)

    @property
    def _where(self) -> str:
        return f"the pickle in {shown_path(self._file.path)}"

    def _pickle(
        self,
        start: int,
        persistent: Callable[[object], object] = PersistentId,
        builders: Mapping[str, Builder] | None = None,
    ) -> Unpickled:
        found = unpickle(self._file.mapping, start, builders=builders, persistent=persistent, where=self._where)
        self._file.note(found.globals)
        return found

    def _header(self) -> int:
        """Checks the magic number and the version; returns where the object's pickle begins."""
        magic = self._pickle(0)
        version = self._pickle(magic.end)
        system = self._pickle(version.end)
        if magic.root != LEGACY_MAGIC or version.root != _PROTOCOL_VERSION:
            raise self._file.damaged(f"its version is {safe_text(version.root)}; {_PROTOCOL_VERSION} was expected")
        return system.end

    def _learn(self, pid: object) -> object:
        reference = self._reference(pid)
        if isinstance(reference, _Reference):
            self._dtypes.setdefault(reference.key, reference.dtype)
        return reference

    def _place(self, listed: Unpickled) -> None:
        """Walks over the storages, which stand in the order of the listed keys, each behind its number of elements."""
        keys, position = listed.root, listed.end
        if not isinstance(keys, list):
            raise self._file.damaged("its storages are not listed")
        for key in keys:
            dtype = self._dtypes.get(key) if type(key) is str else None
            if dtype is None or key in self._known:
                raise self._file.damaged(
                    f"it holds a storage '{safe_text(key)}' that nothing refers to, or holds it twice"
                )
            count = _COUNT.unpack(self._file.pread(position, _COUNT.size))[0]
            start, nbytes = position + _COUNT.size, count * ITEMSIZE[dtype]
            if count < 0:
                raise self._file.damaged(f"its storage '{safe_text(key)}' declares {count:,} elements")
            if start + nbytes > self._file.size:
                raise self._file.ends_early(start + nbytes)
            self._known[key] = Storage(key, start, nbytes, file=self._file)
            position = start + nbytes

    def _storage(self, pid: object) -> object:
        reference = self._reference(pid)
        if not isinstance(reference, _Reference):
            return reference
        root = self._known.get(reference.key)
        if root is None:
            raise self._file.damaged(f"its storage '{safe_text(reference.key)}' is missing")
        width = ITEMSIZE[reference.dtype]
        if self._dtypes[reference.key] != reference.dtype or reference.count * width != root.nbytes:
            raise self._file.damaged(
                f"its pickle declares {safe_text(reference.count)} elements of {reference.dtype} in the storage "
                f"'{safe_text(reference.key)}', which holds {root.nbytes:,} bytes"
            )
        if reference.view is not None:
            offset, count = reference.view
            if offset < 0 or count < 0 or (offset + count) * width > root.nbytes:
                raise self._file.damaged(f"a view lies outside the storage '{safe_text(reference.key)}'")
            root = Storage(root.key, root.offset + offset * width, count * width, file=self._file)
        return TypedStorage(root, reference.dtype, reference.location)

    def _reference(self, pid: object) -> object:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # a class with its source code beside it, as torch 1.x saved whole modules
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[0] != "storage":
            raise self._file.damaged("its pickle refers to something that is no storage")
        _, kind, key, location, count, view = pid
        if type(key) is not str or type(location) is not str or type(count) is not int:
            raise self._file.damaged("its pickle refers to a storage without a name or a size")
        dtype = storage_dtype(kind)
        if dtype is None:
            return PersistentId(pid)
        return _Reference(dtype, key, location, count, self._view(view))

    def _view(self, view: object) -> tuple[int, int] | None:
        if view is None:
            return None
        if not isinstance(view, tuple) or len(view) != 3 or type(view[1]) is not int or type(view[2]) is not int:
            raise self._file.damaged("its pickle refers to a view that is none")
        return view[1], view[2]
