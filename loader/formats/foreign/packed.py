"""What lies inside an archive that is not read as it is, and how to take it out.

Guarantees: nothing is unpacked to disk, and of packed bytes no more than a first piece of bounded size; members are
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

from ...files.file import CheckpointFile
from ...files.path import called, path_override
from ...text.lines import typed
from ...text.wording import listing
from .. import signatures
from ..index import fault_of_name
from ..limits import MOST_TAR_MEMBERS, MOST_UNPACKED, MOST_XZ_MEMORY
from ..names import ENDINGS

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
    command: str
    """What takes the first of them out, into the working folder."""

    @property
    def told(self) -> str:
        """Goes on after the sentence that says what the archive is."""
        return f"; it holds {listing(self.names)}"

    @property
    def hint(self) -> str:
        """The lines to type."""
        more = "   # or another of them" if len(self.names) > 1 else ""
        return f"{self.command}   # unpack it\n{path_override(Path(self.names[0]))}{more}"


def contents(file: CheckpointFile, head: bytes) -> Contents | None:
    """Looks for checkpoints inside an archive; None where none is seen.

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
                return Contents([name], f"{typed(program, '-dc', path)} > {typed(name)}")
    return None


def in_zip(path: Path, names: Sequence[str]) -> Contents | None:
    """The same for a zip archive with these members."""
    return _found(names, "unzip", called(path))


def _found(names: Sequence[str], *command: str) -> Contents | None:
    offered = [name for name in names if name.endswith(ENDINGS) and not fault_of_name(name) and name[0] != "-"]
    line = typed(*command, offered[0]) if offered else ""
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
"""How it begins, the program that unpacks it, and what unpacks its beginning here."""
