"""Checkpoints that are one zip archive.

Guarantees: a tensor's bytes are those of one record of the archive, which is unpacked or mapped only when the tensor is
asked for; a record that is read for the index has the checksum that the archive keeps for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from zlib_ng import zlib_ng

from ..errors import CheckpointError
from ..files.path import shown_path
from ..text.lines import Fix
from ..text.wording import counted, listing, safe_text
from .limits import LARGEST_DEFLATED_INDEX, LARGEST_SIDE_RECORD, MOST_FOLD
from .opened import OpenedFile
from .signatures import INDEX, torch_folder
from .tree import Container, Storage
from .zip import DEFLATED, Archive, Member

_ROOT_STEPS = 2
"""torch puts the index into one folder, named after the file."""


class Records:
    """The records in one folder of an archive.

    Args:
        archive: The archive's table of contents.
        folder: The folder, with its slash; empty for records at the top.
        check: `structure` compares no checksums.
    """

    def __init__(self, archive: Archive, folder: str, check: str) -> None:
        self.archive = archive
        self.file = archive.file
        self.folder = folder
        self._compares = check != "structure" and archive.has_checksums
        self._deflated: dict[int, Member] = {}
        self.big_endian = self._byte_order() == "big"

    def __contains__(self, name: str) -> bool:
        return self.folder + name in self.archive.members

    def names(self, folder: str) -> list[str]:
        """The records below a folder of this one."""
        whole = self.folder + folder
        return [name[len(self.folder) :] for name in self.archive.members if name.startswith(whole)]

    def within(self, name: str, check: str) -> Records:
        """The records of an archive of torch that is itself a record.

        Raises:
            CheckpointError: It is missing, not an archive of torch, or a part of it is deflated.
        """
        whole = self.storage(name)
        archive = Archive(self.file, whole.offset, whole.offset + whole.nbytes) if whole.packed is None else None
        if archive is None or any(member.method == DEFLATED for member in archive.members.values()):
            raise self.file.damaged(f"the file of torch.save inside it ({safe_text(name)}) is deflated")
        folder = torch_folder(archive.members)
        if folder is None:
            raise self.file.damaged(f"the record '{safe_text(name)}' has no {INDEX}")
        _refuse_several(archive)
        return Records(archive, folder, check)

    def size(self, name: str) -> int:
        """Size of a record in bytes; 0 if it is missing."""
        member = self.archive.members.get(self.folder + name)
        return 0 if member is None else member.size

    def read(self, name: str, noun: str) -> bytes:
        """Reads a record that belongs to the index.

        Args:
            name: Its name; it must be there.
            noun: What messages call it.

        Raises:
            CheckpointError: It declares too much, or does not match its checksum.
        """
        member = self.archive.members[self.folder + name]
        if member.method == DEFLATED and member.size > max(LARGEST_DEFLATED_INDEX, MOST_FOLD * member.packed):
            raise self._too_deflated(member, noun)
        data = self.archive.read(member.name, member.size)
        if self._compares and zlib_ng.crc32(data) != member.crc32:
            raise self._differs(name, noun)
        return data

    def pieces(self, name: str, noun: str) -> Iterator[bytes]:
        """Reads a record of the index piece by piece, so that memory stays flat; the arguments are those of `read`.

        Raises:
            CheckpointError: Its checksum differs, known at the end.
        """
        member = self.archive.members[self.folder + name]
        checksum = 0
        for piece in self.archive.pieces(member):
            checksum = zlib_ng.crc32(piece, checksum)
            yield piece
        if self._compares and checksum != member.crc32:
            raise self._differs(name, noun)

    def storage(self, name: str) -> Storage:
        """The bytes of a record in the file.

        Raises:
            CheckpointError: It is missing, or its header contradicts the archive's table of contents.
        """
        member = self.archive.members.get(self.folder + name)
        if member is None:
            raise self.file.damaged(f"the record '{safe_text(self.folder + name)}' is missing")
        return self._located(member, name)

    def with_checksum(self) -> list[Storage]:
        """Everything in the archive that has a checksum, whatever its folder."""
        if not self.archive.has_checksums:
            return []
        return [self._located(m, name.removeprefix(self.folder)) for name, m in self.archive.members.items()]

    def inflate(self, storage: Storage) -> Iterator[bytes]:
        """Unpacks a deflated storage piece by piece."""
        return self.archive.inflate(self._deflated[storage.offset], storage.offset)

    def _too_deflated(self, member: Member, noun: str) -> CheckpointError:
        return CheckpointError(
            f"{shown_path(self.file.path)} holds its {noun} ({safe_text(member.name)}) deflated from {member.size:,} "
            f"bytes to {member.packed:,}; at most {MOST_FOLD}-fold was expected",
            Fix(note="where you trust it, unzip it, and pack it again without deflating: zip -0 -r"),
        )

    def _differs(self, name: str, noun: str) -> CheckpointError:
        return self.file.damaged(f"its {noun} ({safe_text(name)}) does not match its checksum")

    def _located(self, member: Member, key: str) -> Storage:
        start, packed = self.archive.locate(member), None
        if member.method == DEFLATED:
            packed = member.packed
            self._deflated[start] = member
        checksum = member.crc32 if self.archive.has_checksums else None
        return Storage(key, start, member.size, checksum, packed, self.file, self.big_endian)

    def _byte_order(self) -> str:
        if "byteorder" not in self:
            return "little"
        order = self.archive.read(f"{self.folder}byteorder", LARGEST_SIDE_RECORD)
        if order not in {b"little", b"big"}:
            raise self.file.damaged(f"its byte order is {safe_text(order)}; little or big was expected")
        return order.decode()


def torch_records(archive: Archive, check: str) -> Records:
    """The records that torch put into an archive; the arguments are those of `Records`.

    Raises:
        CheckpointError: There is no index among them.
    """
    folder = torch_folder(archive.members)
    if folder is None:
        raise archive.file.damaged(f"it has no {INDEX}")
    _refuse_several(archive)
    return Records(archive, folder, check)


def _refuse_several(archive: Archive) -> None:
    """Refuses an archive with several indexes: readers would differ in the weights they load."""
    steps = {name: [step for step in name.split("/") if step not in {"", "."}] for name in archive.members}
    roots = [name for name, parts in steps.items() if len(parts) <= _ROOT_STEPS and parts[-1:] == [INDEX]]
    if len(roots) > 1:
        raise CheckpointError(
            f"{shown_path(archive.file.path)} holds {counted(len(roots), 'file')} of torch.save in one archive: "
            f"{listing(roots)}; the file does not say which one to use",
            Fix(note="do not load this file; ask whoever made it for one file each"),
        )


class ArchivedFile(OpenedFile):
    """A checkpoint that is one zip archive.

    Args:
        records: Its records.
        format: Its name in reports.
        root: Everything in it.
        check: `structure` compares no checksums, `full` all of them now, `crc` those of the tensors in use.

    Raises:
        CheckpointError: `full` found damaged records.
    """

    def __init__(self, records: Records, format: str, root: Container, check: str) -> None:
        super().__init__(records.file, format, root, check)
        self._records = records
        if check == "full":
            self.verify_storages(records.with_checksum(), mmap=False)

    def inflate(self, storage: Storage) -> Iterator[bytes]:
        """Unpacks a deflated storage piece by piece."""
        return self._records.inflate(storage)
