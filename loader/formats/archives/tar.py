"""A bounded reader of tar archives that hold plain files.

Guarantees: nothing is extracted; every member lies inside the file, is named once, and its header has the checksum
that it declares. Members that need more than a name and a size (links, sparse files, long names) are refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...files.file import CheckpointFile
from ...text.wording import safe_text
from ..limits import LARGEST_TAR_EXTENSION, MOST_TAR_MEMBERS

_BLOCK = 512
_CHECKSUM = slice(148, 156)
_FILES = {b"0", b"\0"}
_EXTENSIONS = {b"x", b"g"}
_OVERRIDES = (b" path=", b" size=", b" linkpath=", b" GNU.sparse")
"""What an extension must not say of the member that follows it: the header itself is what is believed."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A plain file inside an archive."""

    start: int
    """Where its first byte stands."""
    size: int

    @property
    def end(self) -> int:
        """The position after its last byte."""
        return self.start + self.size


def tar_members(file: CheckpointFile) -> dict[str, TarMember]:
    """Lists the plain files of an archive by name.

    Raises:
        CheckpointError: It is cut off, damaged, or holds something else than plain files.
    """
    members: dict[str, TarMember] = {}
    position = 0
    while position + _BLOCK <= file.size:
        header = file.pread(position, _BLOCK)
        if not header.strip(b"\0"):
            return members
        name, kind, member = _read_header(file, header, position + _BLOCK)
        if member.end > file.size:
            raise file.ends_early(member.end)
        if kind in _EXTENSIONS:
            _check_extension(file, member)
        elif kind not in _FILES or name in members or len(members) >= MOST_TAR_MEMBERS:
            raise file.damaged(f"'{safe_text(name)}' in it is no plain file, stands there twice, or is one too many")
        else:
            members[name] = member
        position = member.start + -(-member.size // _BLOCK) * _BLOCK
    raise file.ends_early(position + _BLOCK)


def _read_header(file: CheckpointFile, header: bytes, start: int) -> tuple[str, bytes, TarMember]:
    name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
    declared, size = _octal(header[_CHECKSUM]), _octal(header[124:136])
    total = sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")
    if declared != total or size is None:
        raise file.damaged(f"the header of '{safe_text(name)}' in it differs from what was written")
    return name, header[156:157], TarMember(start, size)


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _check_extension(file: CheckpointFile, member: TarMember) -> None:
    if member.size > LARGEST_TAR_EXTENSION:
        raise file.damaged(f"an extension in it declares {member.size:,} bytes; {LARGEST_TAR_EXTENSION:,} are allowed")
    notes = file.pread(member.start, member.size)
    if any(override in notes for override in _OVERRIDES):
        raise file.damaged("an extension in it gives a member another name or size than its header")
