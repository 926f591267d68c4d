"""Files of `torch.save` before torch 0.1.10: a tar archive of storages, tensors and the pickle that refers to them.

Guarantees: the pickles are read inertly; every storage lies inside its member of the archive, every view of one inside
that storage, and every tensor inside what it looks into.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable

from ...files.file import CheckpointFile
from ...files.path import shown_path
from ...text.wording import safe_text
from ..archives.tar import TarMember, tar_members
from ..names import TORCH_TAR as FORMAT
from ..opened import OpenedFile
from ..pickle.reader import Unpickled, unpickle
from ..pickle.records import PersistentId
from ..pickle.storages import TypedStorage, storage_dtype, viewed
from ..pickle.tensors import BUILDERS
from ..pickle.tree import build_tree
from ..signatures import TORCH_TAR_MEMBERS
from ..tree import ITEMSIZE, Storage, TensorEntry

_COUNT = struct.Struct("<q")
_DIMENSIONS = struct.Struct("<i4x")
_MOST_DIMENSIONS = 64
_KEY = re.compile(r"-?\d{1,20}", re.ASCII)


class TorchTar(OpenedFile):
    """A file written by `torch.save` in its oldest format.

    Args:
        file: The opened file.
        check: Its bytes carry no checksum: all that can be checked, the structure, always is.

    Raises:
        CheckpointError: It is cut off, damaged, or not what torch wrote.
    """

    def __init__(self, file: CheckpointFile, check: str) -> None:
        self._file = file
        members = tar_members(file)
        missing = [name for name in TORCH_TAR_MEMBERS[1:] if name not in members]
        if missing:
            raise file.damaged(f"its member '{missing[0]}' is missing")
        self._known: dict[int, TypedStorage | TensorEntry] = {}
        self._read_storages(members["storages"])
        self._read_tensors(members["tensors"])
        found = self._pickle(members["pickle"], members["pickle"].start, self._object)
        super().__init__(file, FORMAT, build_tree(found.root), check)

    def _pickle(
        self, member: TarMember, start: int, persistent: Callable[[object], object] = PersistentId
    ) -> Unpickled:
        where = f"the pickle in {shown_path(self._file.path)}"
        found = unpickle(self._file.mapping, start, builders=BUILDERS, persistent=persistent, where=where)
        self._file.note(found.globals)
        if found.end > member.end:
            raise self._file.damaged("a pickle in it reaches beyond its member")
        return found

    def _read_storages(self, member: TarMember) -> None:
        """The number of storages, each behind a pickle of (key, location, type), and the views of them."""
        number = self._pickle(member, member.start)
        position = number.end
        for _ in self._times(number.root, member):
            listed = self._pickle(member, position)
            key, location, kind = self._three(listed.root)
            dtype = storage_dtype(kind)
            if dtype is None or not isinstance(location, str):
                raise self._file.damaged("a storage in it has no known type")
            count = self._number(_COUNT, listed.end, member)
            start, nbytes = listed.end + _COUNT.size, count * ITEMSIZE[dtype]
            position = start + nbytes
            if count < 0 or position > member.end:
                raise self._file.damaged(f"a storage in it declares {count:,} elements of {dtype}, which are not there")
            self._store(key, TypedStorage(Storage(safe_text(key), start, nbytes, file=self._file), dtype, location))
        self._read_views(self._pickle(member, position).root)

    def _read_views(self, views: object) -> None:
        if not isinstance(views, list):
            raise self._file.damaged("the views of its storages are not listed")
        for view in views:
            if not isinstance(view, tuple) or len(view) != 4 or not all(type(part) is int for part in view):
                raise self._file.damaged("a view of a storage in it is none")
            target, key, offset, count = view
            root = self._known.get(key)
            width = ITEMSIZE[root.dtype] if root is not None else 1
            if not isinstance(root, TypedStorage) or min(offset, count) < 0:
                raise self._file.damaged("a view in it looks into no storage")
            if (offset + count) * width > root.storage.nbytes:
                raise self._file.damaged(f"a view lies outside the storage '{root.storage.key}'")
            start = root.storage.offset + offset * width
            storage = Storage(root.storage.key, start, count * width, file=self._file)
            self._store(target, TypedStorage(storage, root.dtype, root.location))

    def _read_tensors(self, member: TarMember) -> None:
        """The number of tensors, each a pickle of (key, storage, type), then its sizes, strides and offset."""
        number = self._pickle(member, member.start)
        position = number.end
        for _ in self._times(number.root, member):
            listed = self._pickle(member, position)
            key, storage_key, _ = self._three(listed.root)
            storage = self._known.get(storage_key) if type(storage_key) is int else None
            if not isinstance(storage, TypedStorage):
                raise self._file.damaged("a tensor in it has no storage")
            dimensions = self._number(_DIMENSIONS, listed.end, member)
            if not 0 <= dimensions <= _MOST_DIMENSIONS:
                raise self._file.damaged(f"a tensor in it declares {dimensions:,} dimensions")
            position = listed.end + _DIMENSIONS.size
            layout = struct.Struct(f"<{2 * dimensions + 1}q")
            self._check_inside(position + layout.size, member)
            numbers = layout.unpack(self._file.pread(position, layout.size))
            position += layout.size
            sizes, strides = numbers[:dimensions], numbers[dimensions:-1]
            self._store(key, viewed(storage, storage.dtype, numbers[-1], sizes, strides))

    def _times(self, number: object, member: TarMember) -> Iterable[int]:
        # Each takes more than a byte.
        if type(number) is not int or not 0 <= number <= member.size:
            raise self._file.damaged(f"it declares {safe_text(number)} storages or tensors")
        return range(number)

    def _three(self, listed: object) -> tuple[object, object, object]:
        if not isinstance(listed, tuple) or len(listed) != 3:
            raise self._file.damaged("a storage or tensor in it is described by something else than three values")
        return listed

    def _number(self, form: struct.Struct, position: int, member: TarMember) -> int:
        self._check_inside(position + form.size, member)
        number: int = form.unpack(self._file.pread(position, form.size))[0]
        return number

    def _check_inside(self, end: int, member: TarMember) -> None:
        if end > member.end:
            raise self._file.damaged("a storage or tensor in it reaches beyond its member")

    def _store(self, key: object, found: TypedStorage | TensorEntry) -> None:
        if type(key) is not int or key in self._known:
            raise self._file.damaged(f"it describes '{safe_text(key)}' twice, or by something that is no number")
        self._known[key] = found

    def _object(self, pid: object) -> object:
        """A persistent id is the number of a storage or tensor as text, or (class, source file, source)."""
        if isinstance(pid, tuple) and len(pid) == 3:
            return pid[0]
        known = self._known.get(int(pid)) if isinstance(pid, str) and _KEY.fullmatch(pid) else None
        if known is None:
            raise self._file.damaged(f"its pickle refers to '{safe_text(pid)}', which is not described")
        return known
