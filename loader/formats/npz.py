"""NumPy's `.npz`: a zip archive of arrays, as `numpy.savez` and `numpy.savez_compressed` write it.

Guarantees: of every array the header alone is read for the index; a record's checksum covers its header too.
"""

from __future__ import annotations

from dataclasses import replace

from .archives.archived import ArchivedFile, Records
from .archives.zip import Archive
from .limits import LONGEST_NPY_HEADER
from .names import NPZ as FORMAT
from .npy import Header, entry_of, read_header, refuse_unreadable
from .tree import Container, Node

_ENDING = ".npy"


def is_npz(archive: Archive) -> bool:
    """Whether an archive holds arrays and nothing else."""
    return bool(archive.members) and all(name.endswith(_ENDING) for name in archive.members)


class Npz(ArchivedFile):
    """An archive of arrays.

    Args:
        archive: The archive's table of contents.
        check: `structure` leaves the checksums alone, `full` compares all of them now, `crc` those that are needed.

    Raises:
        CheckpointError: It is damaged, or holds arrays of something that torch does not have.
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
        super().__init__(records, FORMAT, Container("dict", FORMAT, children), check)
