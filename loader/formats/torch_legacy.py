"""Files of `torch.save` before torch 1.6 (five pickles in a row, then the storages) and before 0.1.10 (a tar archive).

Guarantees: the pickles are read inertly. Every storage lies inside the file, or inside its member of the archive, and
has exactly the declared size; every view lies inside its storage.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.wording import safe_text
from .limits import MOST_DIMENSIONS
from .opened import OpenedFile
from .pickle.reader import Unpickled, unpickle
from .pickle.records import Builder, MalformedError, PersistentId
from .pickle.storages import UNEXPECTED_ID, TypedStorage, storage_dtype, viewed
from .pickle.tensors import BUILDERS
from .pickle.tree import build_tree
from .signatures import LEGACY_MAGIC, TORCH_LEGACY, TORCH_TAR, TORCH_TAR_MEMBERS
from .tar import TarMember, tar_members
from .tree import ITEMSIZE, Storage, TensorEntry

_PROTOCOL_VERSION = 1001
_COUNT = struct.Struct("<q")
_DIMENSIONS = struct.Struct("<i4x")
_KEY = re.compile(r"-?\d{1,20}", re.ASCII)


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

    Its pickle is read twice: first for the storages it refers to, then, with their positions known, for the tensors.

    Args:
        file: The opened file.
        check: Ignored: the format has no checksums, and the structure is always checked.

    Raises:
        CheckpointError: It is truncated, damaged, or not what torch writes.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        self._dtypes: dict[str, str] = {}
        self._known: dict[str, Storage] = {}
        start = self._header()
        end = self._pickle(start, self._learn).end
        self._place(self._pickle(end))
        unpickled = self._pickle(start, self._storage, BUILDERS)
        super().__init__(file, TORCH_LEGACY, build_tree(unpickled.root), check)

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
            raise self._file.damaged(f"version {safe_text(version.root)} (expected {_PROTOCOL_VERSION})")
        return system.end

    def _learn(self, pid: object) -> object:
        reference = self._reference(pid)
        if isinstance(reference, _Reference):
            self._dtypes.setdefault(reference.key, reference.dtype)
        return reference

    def _place(self, listed: Unpickled) -> None:
        """Locates the storages, which follow in the order of the listed keys, each after its number of elements."""
        keys, position = listed.root, listed.end
        if not isinstance(keys, list):
            raise self._file.damaged("the list of its storages is missing")
        for key in keys:
            dtype = self._dtypes.get(key) if type(key) is str else None
            if dtype is None or key in self._known:
                raise self._file.damaged(f"storage '{safe_text(key)}' is unused or listed twice")
            count = _COUNT.unpack(self._file.pread(position, _COUNT.size))[0]
            start, nbytes = position + _COUNT.size, count * ITEMSIZE[dtype]
            if count < 0:
                raise self._file.damaged(f"storage '{safe_text(key)}' declares {count:,} elements")
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
            raise MalformedError(f"storage '{safe_text(reference.key)}' is missing")
        width = ITEMSIZE[reference.dtype]
        if self._dtypes[reference.key] != reference.dtype or reference.count * width != root.nbytes:
            raise MalformedError(
                f"{safe_text(reference.count)} elements of {reference.dtype} declared for storage "
                f"'{safe_text(reference.key)}', which has {root.nbytes:,} bytes"
            )
        if reference.view is not None:
            offset, count = reference.view
            if offset < 0 or count < 0 or (offset + count) * width > root.nbytes:
                raise MalformedError(f"a view exceeds storage '{safe_text(reference.key)}'")
            root = Storage(root.key, root.offset + offset * width, count * width, file=self._file)
        return TypedStorage(root, reference.dtype, reference.location)

    def _reference(self, pid: object) -> object:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]  # a class with its source code, as torch 1.x saved whole modules
        if not isinstance(pid, tuple) or len(pid) != 6 or pid[0] != "storage":
            raise MalformedError(UNEXPECTED_ID)
        _, kind, key, location, count, view = pid
        if type(key) is not str or type(location) is not str or type(count) is not int:
            raise MalformedError(UNEXPECTED_ID)
        dtype = storage_dtype(kind)
        if dtype is None:
            return PersistentId(pid)
        return _Reference(dtype, key, location, count, _view(view))


def _view(view: object) -> tuple[int, int] | None:
    if view is None:
        return None
    if not isinstance(view, tuple) or len(view) != 3 or type(view[1]) is not int or type(view[2]) is not int:
        raise MalformedError('unexpected view of a storage (expected ("key", offset, elements))')
    return view[1], view[2]


class TorchTar(OpenedFile):
    """A file written by `torch.save` in its oldest format.

    Args:
        file: The opened file.
        check: Ignored: the format has no checksums, and the structure is always checked.

    Raises:
        CheckpointError: It is truncated, damaged, or not what torch wrote.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        members = tar_members(file)
        missing = [name for name in TORCH_TAR_MEMBERS[1:] if name not in members]
        if missing:
            raise file.damaged(f"member '{missing[0]}' is missing")
        self._known: dict[int, TypedStorage | TensorEntry] = {}
        self._read_storages(members["storages"])
        self._read_tensors(members["tensors"])
        found = self._pickle(members["pickle"], members["pickle"].start, self._object)
        super().__init__(file, TORCH_TAR, build_tree(found.root), check)

    def _pickle(
        self, member: TarMember, start: int, persistent: Callable[[object], object] = PersistentId
    ) -> Unpickled:
        where = f"the pickle in {shown_path(self._file.path)}"
        found = unpickle(self._file.mapping, start, builders=BUILDERS, persistent=persistent, where=where)
        self._file.note(found.globals)
        if found.end > member.end:
            raise self._file.damaged("a pickle exceeds its member")
        return found

    def _read_storages(self, member: TarMember) -> None:
        """Reads the number of storages, each after a pickle of (key, location, type), then their views."""
        number = self._pickle(member, member.start)
        position = number.end
        for _ in self._times(number.root, member):
            listed = self._pickle(member, position)
            key, location, kind = self._three(listed.root)
            dtype = storage_dtype(kind)
            if dtype is None or not isinstance(location, str):
                raise self._file.damaged("unknown storage type")
            count = self._number(_COUNT, listed.end, member)
            start, nbytes = listed.end + _COUNT.size, count * ITEMSIZE[dtype]
            position = start + nbytes
            if count < 0 or position > member.end:
                raise self._file.damaged(f"storage '{safe_text(key)}' declares {count:,} elements of {dtype}")
            self._store(key, TypedStorage(Storage(safe_text(key), start, nbytes, file=self._file), dtype, location))
        self._read_views(self._pickle(member, position).root)

    def _read_views(self, views: object) -> None:
        if not isinstance(views, list):
            raise self._file.damaged("the list of storage views is missing")
        for view in views:
            if not isinstance(view, tuple) or len(view) != 4 or not all(type(part) is int for part in view):
                raise self._file.damaged("a storage view is not four integers")
            target, key, offset, count = view
            root = self._known.get(key)
            width = ITEMSIZE[root.dtype] if root is not None else 1
            if not isinstance(root, TypedStorage) or min(offset, count) < 0:
                raise self._file.damaged("a storage view without a storage")
            if (offset + count) * width > root.storage.nbytes:
                raise self._file.damaged(f"a view exceeds storage '{root.storage.key}'")
            start = root.storage.offset + offset * width
            storage = Storage(root.storage.key, start, count * width, file=self._file)
            self._store(target, TypedStorage(storage, root.dtype, root.location))

    def _read_tensors(self, member: TarMember) -> None:
        """Reads the number of tensors, each a pickle of (key, storage, type), then sizes, strides and offset."""
        number = self._pickle(member, member.start)
        position = number.end
        for _ in self._times(number.root, member):
            listed = self._pickle(member, position)
            key, storage_key, _ = self._three(listed.root)
            storage = self._known.get(storage_key) if type(storage_key) is int else None
            if not isinstance(storage, TypedStorage):
                raise self._file.damaged(f"tensor '{safe_text(key)}' has no storage")
            dimensions = self._number(_DIMENSIONS, listed.end, member)
            if not 0 <= dimensions <= MOST_DIMENSIONS:
                raise self._file.damaged(f"tensor '{safe_text(key)}' declares {dimensions:,} dimensions")
            position = listed.end + _DIMENSIONS.size
            layout = struct.Struct(f"<{2 * dimensions + 1}q")
            self._check_inside(position + layout.size, member)
            numbers = layout.unpack(self._file.pread(position, layout.size))
            position += layout.size
            sizes, strides = numbers[:dimensions], numbers[dimensions:-1]
            self._store(key, viewed(storage, storage.dtype, numbers[-1], sizes, strides))

    def _times(self, number: object, member: TarMember) -> Iterable[int]:
        # Each takes at least one byte.
        if type(number) is not int or not 0 <= number <= member.size:
            raise self._file.damaged(f"{safe_text(number)} storages or tensors declared")
        return range(number)

    def _three(self, listed: object) -> tuple[object, object, object]:
        if not isinstance(listed, tuple) or len(listed) != 3:
            raise self._file.damaged("a storage or tensor is not described by three values")
        return listed

    def _number(self, form: struct.Struct, position: int, member: TarMember) -> int:
        self._check_inside(position + form.size, member)
        number: int = form.unpack(self._file.pread(position, form.size))[0]
        return number

    def _check_inside(self, end: int, member: TarMember) -> None:
        if end > member.end:
            raise self._file.damaged("a storage or tensor exceeds its member")

    def _store(self, key: object, found: TypedStorage | TensorEntry) -> None:
        if type(key) is not int or key in self._known:
            raise self._file.damaged(f"key '{safe_text(key)}' is duplicate or not an integer")
        self._known[key] = found

    def _object(self, pid: object) -> object:
        """Resolves a persistent id: the number of a storage or tensor as text, or (class, source file, source)."""
        if isinstance(pid, tuple) and len(pid) == 3:
            return pid[0]
        known = self._known.get(int(pid)) if isinstance(pid, str) and _KEY.fullmatch(pid) else None
        if known is None:
            raise MalformedError(f"unknown storage or tensor '{safe_text(pid)}'")
        return known
