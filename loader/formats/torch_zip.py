"""Files of `torch.save` since torch 1.6: a zip archive of one pickle and one record per storage.

Guarantees: every storage in the pickle is a record of exactly the declared size and of one dtype; the pickle is read
inertly; a storage is neither read nor unpacked before one of its tensors is requested.
"""

from __future__ import annotations

import struct

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.wording import listing, safe_text
from .archived import ArchivedFile, Records, torch_records
from .pickle.reader import unpickle
from .pickle.records import MalformedError, PersistentId
from .pickle.storages import UNEXPECTED_ID, TypedStorage, storage_dtype
from .pickle.tensors import BUILDERS
from .pickle.tree import build_tree
from .signatures import INDEX, POLICY
from .signatures import TORCH_ZIP as FORMAT
from .tree import ITEMSIZE
from .zip import Archive

_LOCAL = struct.Struct("<8xH16x2H")
"""Of a member's local header: its compression, and the lengths of its name and extra field."""


class TorchZip(ArchivedFile):
    """A zip file written by `torch.save`.

    Args:
        archive: The archive's table of contents.
        check: `structure` ignores the checksums, `full` compares all of them now, `crc` those of the tensors in use.

    Raises:
        CheckpointError: It is damaged, or not what torch writes.
    """

    def __init__(self, archive: Archive, check: str) -> None:
        records = torch_records(archive, check)
        super().__init__(records, FORMAT, build_tree(pickled_in(records)), check)


class PolicyZip(ArchivedFile):
    """The weights of a policy saved by stable-baselines3: a `torch.save` file inside another archive.

    Args:
        archive: The outer archive's table of contents.
        check: As for `TorchZip`; nothing else of the outer archive is used.

    Raises:
        CheckpointError: It is damaged, or not what torch writes.
    """

    def __init__(self, archive: Archive, check: str) -> None:
        records = Records(archive, "", check).within(POLICY, check)
        super().__init__(records, FORMAT, build_tree(pickled_in(records)), check)
        others = [name for name in archive.members if name != POLICY and name.endswith(".pth")]
        self.note = f"read from {POLICY} in the stable-baselines3 archive"
        if others:
            self.note += f"; not from {listing(others)}"


class PickleInArchive:
    """A pickle whose storages are records of the same archive.

    Args:
        records: The archive's records.
        name: The pickle.
        storages: The folder of its storages.

    Raises:
        CheckpointError: It is damaged, or a storage is missing or not of the declared size.
    """

    def __init__(self, records: Records, name: str, storages: str) -> None:
        self._records = records
        self._file = records.file
        self._storages = storages
        self._known: dict[str, TypedStorage] = {}
        data = records.read(name, "index")
        where = f"the pickle in {shown_path(self._file.path)}"
        found = unpickle(data, builders=BUILDERS, persistent=self._storage, where=where)
        self._file.note(found.globals)
        self.root = found.root
        """Its content, as inert records."""
        self.globals = found.globals
        """Every name in it."""

    def _storage(self, pid: object) -> object:
        """Resolves a persistent id: ("storage", type, key, location, elements)."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise MalformedError(UNEXPECTED_ID)
        _, kind, key, location, count = pid
        if type(key) is not str or type(location) is not str or type(count) is not int:
            raise MalformedError(UNEXPECTED_ID)
        dtype = storage_dtype(kind)
        if dtype is None:
            return PersistentId(pid)
        known = self._known.get(key)
        if known is None:
            storage = self._records.storage(f"{self._storages}/{key}")
            self._known[key] = known = TypedStorage(storage, dtype, location)
        if known.dtype != dtype or count * ITEMSIZE[dtype] != known.storage.nbytes:
            raise MalformedError(
                f"{safe_text(count)} elements of {dtype} declared for storage '{safe_text(known.storage.key)}', "
                f"which has {known.storage.nbytes:,} bytes of {known.dtype}"
            )
        return known


def pickled_in(records: Records) -> object:
    """Returns the object that was saved, as inert records."""
    return PickleInArchive(records, INDEX, "data").root


def declared_bytes(file: CheckpointFile) -> int:
    """Returns the size of the storages in the pickle at a file's start; 0 if the file starts with something else.

    For an archive whose end, and so its table of contents, is missing: torch writes the pickle first.
    """
    header = file.pread(0, min(_LOCAL.size, file.size))
    if len(header) < _LOCAL.size:
        return 0
    method, name_length, extra_length = _LOCAL.unpack(header)
    start = _LOCAL.size + name_length + extra_length
    if method or start > file.size or not file.pread(_LOCAL.size, name_length).endswith(INDEX.encode()):
        return 0
    sizes: dict[str, int] = {}

    def note(pid: object) -> object:
        if isinstance(pid, tuple) and len(pid) == 5 and type(pid[2]) is str and type(pid[4]) is int:
            sizes[pid[2]] = pid[4] * ITEMSIZE[storage_dtype(pid[1]) or "uint8"]
        return PersistentId(pid)

    try:
        unpickle(file.mapping, start, persistent=note)
    except CheckpointError:
        return 0  # the pickle itself is truncated
    return sum(sizes.values())
