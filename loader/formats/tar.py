"""Tar archives, and what is inside archives that are refused.

Guarantees: nothing is extracted; every member of a tar archive that is read lies inside the file, is named once, and
its header has the checksum that it declares; members that need more than a name and a size (links, sparse files, long
names) are refused. To look inside a refused archive, at most a first piece of bounded size is unpacked; members are
offered only where their names are plain paths below a folder.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..files.file import CheckpointFile
from ..files.path import called, path_override
from ..text.lines import Fix, typed
from ..text.wording import listing, safe_text
from . import signatures
from .index import fault_of_name
from .limits import LARGEST_TAR_EXTENSION, MOST_TAR_MEMBERS, MOST_UNPACKED, MOST_XZ_MEMORY
from .signatures import ENDINGS

_CHECKSUM = slice(148, 156)
_FILES = {b"0", b"\0"}
_EXTENSIONS = {b"x", b"g"}
_OVERRIDES = (b" path=", b" size=", b" linkpath=", b" GNU.sparse")
"""What an extended header must not change: only the header itself is believed."""


@dataclass(frozen=True, slots=True)
class TarMember:
    """A plain file inside an archive."""

    start: int
    """Offset of its first byte."""
    size: int

    @property
    def end(self) -> int:
        """The position after its last byte."""
        return self.start + self.size


def tar_members(file: CheckpointFile) -> dict[str, TarMember]:
    """Lists the plain files of an archive by name.

    Raises:
        CheckpointError: It is cut off, damaged, or holds anything but plain files.
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
            raise file.damaged(
                f"its member '{safe_text(name)}' is not a plain file, is a duplicate, or is one too many"
            )
        else:
            members[name] = member
        position = member.start + -(-member.size // _BLOCK) * _BLOCK
    raise file.ends_early(position + _BLOCK)


def _read_header(file: CheckpointFile, header: bytes, start: int) -> tuple[str, bytes, TarMember]:
    name = header[:100].partition(b"\0")[0].decode("utf-8", "replace")
    declared, size = _octal(header[_CHECKSUM]), _octal(header[124:136])
    total = sum(header) - sum(header[_CHECKSUM]) + 8 * ord(" ")
    if declared != total or size is None:
        raise file.damaged(f"the header of its member '{safe_text(name)}' does not match its checksum")
    return name, header[156:157], TarMember(start, size)


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None


def _check_extension(file: CheckpointFile, member: TarMember) -> None:
    if member.size > LARGEST_TAR_EXTENSION:
        raise file.damaged(
            f"an extended header declares {member.size:,} bytes; at most {LARGEST_TAR_EXTENSION:,} are allowed"
        )
    notes = file.pread(member.start, member.size)
    if any(override in notes for override in _OVERRIDES):
        raise file.damaged("an extended header changes the name or size of a member")


_BLOCK = 512
_SIGNATURES = (
    signatures.is_zip,
    signatures.is_torch_legacy,
    signatures.is_safetensors,
    signatures.is_gguf,
    signatures.is_npy,
)
_PLAIN_FILES = frozenset({b"0", b"\0"})


@dataclass(frozen=True, slots=True)
class Contents:
    """The checkpoints inside an archive."""

    names: Sequence[str]
    command: Fix
    """The command that extracts the first of them into the working folder."""

    @property
    def listed(self) -> str:
        """Continues the sentence that names the archive."""
        return f"; it holds {listing(self.names)}"

    @property
    def fixes(self) -> list[Fix]:
        """The lines to type."""
        more = "or another of them" if len(self.names) > 1 else ""
        return [Fix(self.command.line, "unpack it"), path_override(Path(self.names[0]), note=more)]


def contents(file: CheckpointFile, head: bytes) -> Contents | None:
    """Looks for checkpoints inside an archive; None if it finds none.

    Args:
        file: The archive: a tar archive, or something packed by gzip, bzip2 or xz.
        head: Its first bytes.
    """
    path = called(file.path)
    if head.startswith(signatures.TAR_MAGIC, signatures.TAR_MAGIC_AT):
        return _found(_names_in_tar(file.pread, file.size), "tar", "-xf", path)
    for magic, program, unpack in _PACKERS:
        if head.startswith(magic):
            piece = unpack(file.pread(0, min(MOST_UNPACKED, file.size)))
            if piece.startswith(signatures.TAR_MAGIC, signatures.TAR_MAGIC_AT):
                return _found(_names_in_tar(partial(_slice, piece), len(piece)), "tar", "-xf", path)
            if any(begins(piece) for begins in _SIGNATURES if piece):
                name = file.path.stem if file.path.suffix else f"{file.path.name}.unpacked"
                return Contents([name], Fix(f"{typed(program, '-dc', path).line} > {typed(name).line}"))
    return None


def in_zip(path: Path, names: Sequence[str]) -> Contents | None:
    """The same for a zip archive with these members."""
    return _found(names, "unzip", called(path))


def _found(names: Sequence[str], *command: str) -> Contents | None:
    offered = [name for name in names if name.endswith(ENDINGS) and not fault_of_name(name) and name[0] != "-"]
    line = typed(*command, offered[0]) if offered else Fix()
    return Contents(offered, line) if line else None


def _names_in_tar(read: Callable[[int, int], bytes], size: int) -> list[str]:
    return list(_headers(read, size))


def _slice(piece: bytes, at: int, length: int) -> bytes:
    return piece[at : at + length]


def _headers(read: Callable[[int, int], bytes], size: int) -> Iterator[str]:
    position = 0
    for _ in range(MOST_TAR_MEMBERS):
        header = read(position, _BLOCK) if position + _BLOCK <= size else b""
        digits = header[124:136].strip(b" \0")
        if len(header) < _BLOCK or not digits or digits.strip(b"01234567"):
            return
        if header[156:157] in _PLAIN_FILES:
            folder = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
            parts = (folder, header[:100].partition(b"\0")[0])
            yield "/".join(part.decode("utf-8", "replace") for part in parts if part).removeprefix("./")
        position += _BLOCK + -(-int(digits, 8) // _BLOCK) * _BLOCK


def _gunzip(raw: bytes) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(raw, MOST_UNPACKED)
    except zlib.error:
        return b""


def _bunzip2(raw: bytes) -> bytes:
    try:
        return bz2.BZ2Decompressor().decompress(raw, MOST_UNPACKED)
    except OSError:
        return b""


def _unxz(raw: bytes) -> bytes:
    try:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_XZ_MEMORY).decompress(raw, MOST_UNPACKED)
    except lzma.LZMAError:
        return b""


_PACKERS: Sequence[tuple[bytes, str, Callable[[bytes], bytes]]] = (
    (b"\x1f\x8b", "gzip", _gunzip),
    (b"BZh", "bzip2", _bunzip2),
    (b"\xfd7zXZ\x00", "xz", _unxz),
)
"""Signature, the program that unpacks it, and the function that unpacks its beginning."""
