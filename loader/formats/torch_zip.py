"""Files of `torch.save` since torch 1.6: a zip archive of one pickle and one record per storage.

Guarantees: every storage that the pickle refers to is a record of exactly the declared size and of one dtype; the
pickle is read inertly; no storage is read or unpacked before one of its tensors is asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from zlib_ng import zlib_ng

from loader.formats.base import ITEMSIZE, Container, Storage
from loader.formats.opened import OpenedFile
from loader.formats.path import shown_path
from loader.formats.pickle import unpickle
from loader.formats.records import PersistentId
from loader.formats.tensors import BUILDERS, TypedStorage, storage_dtype
from loader.formats.tree import build_tree
from loader.formats.zip import DEFLATED, STORED, Archive
from loader.wording import safe_text

FORMAT = "torch-zip"
_MOST_SIDE_BYTES = 1000
_MOST_INFLATED = 256 << 20
"""A deflated pickle may not declare more than this; torch itself stores it as it is."""


class TorchZip(OpenedFile):
    """A zip file written by `torch.save`.

    Args:
        archive: The archive's table of contents.
        check: `structure` leaves the checksums alone, `full` compares all of them now, `crc` those that are needed.

    Raises:
        CheckpointError: It is damaged, or not what torch writes.
    """

    def __init__(self, archive: Archive, check: str) -> None:
        self._archive = archive
        self._file = file = archive.file
        folder = torch_folder(archive.members)
        if folder is None:
            raise file.damaged("it holds no data.pkl")
        self._prefix = folder
        self._big_endian = self._byte_order() == "big"
        self._known: dict[str, TypedStorage] = {}
        root = self._index(check)
        super().__init__(file, FORMAT, root, check)
        if check == "full":
            records = (self._record(name) for name in archive.members)
            self.verify_storages([record for record in records if record.crc32 is not None], mmap=False)

    def inflate(self, storage: Storage) -> Iterator[bytes]:
        """Unpacks a deflated storage piece by piece."""
        return self._archive.inflate(self._archive.members[self._prefix + storage.key], storage.offset)

    def _index(self, check: str) -> Container:
        name = f"{self._prefix}data.pkl"
        member = self._archive.members[name]
        data = self._archive.read(name, member.size if member.method == STORED else _MOST_INFLATED)
        if check != "structure" and self._archive.has_checksums and zlib_ng.crc32(data) != member.crc32:
            raise self._file.damaged("its index (data.pkl) differs from what was written")
        where = f"the pickle in {shown_path(self._file.path)}"
        return build_tree(unpickle(data, builders=BUILDERS, persistent=self._storage, where=where).root)

    def _byte_order(self) -> str:
        name = f"{self._prefix}byteorder"
        if name not in self._archive.members:
            return "little"
        order = self._archive.read(name, _MOST_SIDE_BYTES)
        if order not in {b"little", b"big"}:
            raise self._file.damaged(f"its byte order is {safe_text(order)}; little or big was expected")
        return order.decode()

    def _storage(self, pid: object) -> object:
        """Finds what a persistent id refers to: ("storage", type, key, location, elements)."""
        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
            raise self._file.damaged("its pickle refers to something that is no storage")
        _, kind, key, location, count = pid
        if type(key) is not str or type(location) is not str or type(count) is not int:
            raise self._file.damaged("its pickle refers to a storage without a name or a size")
        dtype = storage_dtype(kind)
        if dtype is None:
            return PersistentId(pid)
        known = self._known.get(key)
        if known is None:
            storage = self._record(f"{self._prefix}data/{key}")
            self._known[key] = known = TypedStorage(storage, dtype, location)
        if known.dtype != dtype or count * ITEMSIZE[dtype] != known.storage.nbytes:
            raise self._file.damaged(
                f"its pickle declares {safe_text(count)} elements of {dtype} in '{safe_text(known.storage.key)}', "
                f"which holds {known.storage.nbytes:,} bytes of {known.dtype}"
            )
        return known

    def _record(self, name: str) -> Storage:
        archive = self._archive
        member = archive.members.get(name)
        if member is None:
            raise self._file.damaged(f"the record '{safe_text(name)}' is missing")
        return Storage(
            name[len(self._prefix) :],
            archive.locate(member),
            member.size,
            member.crc32 if archive.has_checksums else None,
            member.packed if member.method == DEFLATED else None,
            self._file,
            self._big_endian,
        )


def torch_folder(names: Collection[str]) -> str | None:
    """The folder inside an archive that holds `data.pkl`, with its slash; None where there is none."""
    first = next(iter(names), "")
    folder = first[: first.find("/") + 1]
    return folder if f"{folder}data.pkl" in names else None
