"""A bounded reader of zip archives.

Guarantees: declarations are compared with the file's real size and with each other before they are used: members
neither overlap nor share a name, lie inside the file, and inflate to exactly their declared size. Nothing is extracted
to disk.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import shown_path
from ..text.lines import Fix
from ..text.wording import safe_text
from .limits import BEST_RATIO
from .signatures import ZIP_MEMBER

STORED, DEFLATED = 0, 8
_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_LONGEST_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFFFFFF
_NOT_HERE = (0xFFFF, _IN_ZIP64, _IN_ZIP64)
_SIZES_FOLLOW = 0x0008
_ENCRYPTED = 0x0001
_UTF8 = 0x0800
_CHUNK = 1 << 20
_WINDOW = 16 << 10
_CLOSE = 1 << 10
"""Deflating a few bytes can make them a little longer."""


@dataclass(slots=True)
class Member:
    """One file inside an archive."""

    name: str
    flags: int
    method: int
    crc32: int
    packed: int
    """Its size in the archive."""
    size: int
    """Its size once unpacked."""
    header: int
    """Offset of its local header."""
    limit: int = 0
    """Offset of the next member's header or the table of contents."""


class UnfinishedError(CheckpointError):
    """The end of an archive, with its table of contents, is missing."""


class Archive:
    """The table of contents of a zip file.

    Args:
        file: The opened file.
        start: The offset at which the archive begins, if it is inside another file.
        end: The offset at which it ends; None for the end of the file.

    Raises:
        CheckpointError: It is cut off, or its declarations contradict each other or the file.
    """

    def __init__(self, file: CheckpointFile, start: int = 0, end: int | None = None) -> None:
        self.file = file
        self._start, self._end = start, file.size if end is None else end
        self._path = shown_path(file.path)
        self._window, self._window_start = b"", 0
        count, size, start = self._find_directory()
        entries = list(self._entries(file.pread(start, size), count))
        self.members = self._unique(entries)
        self._check_places(entries, start)
        self.has_checksums = any(member.crc32 for member in entries if member.size)
        """False if every checksum is 0, because the writer computed none."""

    def locate(self, member: Member) -> int:
        """Returns the offset of a member's bytes after comparing its local header with the table of contents."""
        name = member.name.encode("utf-8" if member.flags & _UTF8 else "cp437")
        raw = self._header(member.header, _LOCAL.size + len(name))
        signature, _, flags, method, _, _, _, packed, size, name_length, extra_length = _LOCAL.unpack_from(raw)
        start: int = member.header + _LOCAL.size + name_length + extra_length
        agrees = signature == ZIP_MEMBER and method == member.method and raw[_LOCAL.size :] == name
        if agrees and name_length == len(name) and not flags & _SIZES_FOLLOW:
            agrees = packed in {member.packed, _IN_ZIP64} and size in {member.size, _IN_ZIP64}
        if not agrees or name_length != len(name):
            raise self.file.damaged(
                f"the header of '{safe_text(member.name)}' contradicts the archive's table of contents"
            )
        if start + member.packed > member.limit:
            raise self.file.damaged(f"'{safe_text(member.name)}' overlaps the member after it")
        return start

    def _header(self, offset: int, length: int) -> bytes:
        """Reads a local header; those of small members are close together, so one read serves many."""
        start = offset - self._window_start
        if start < 0 or start + length > len(self._window):
            self._window = self.file.pread(offset, max(length, min(_WINDOW, self._end - offset)))
            self._window_start, start = offset, 0
        return self._window[start : start + length]

    def read(self, name: str, most: int) -> bytes:
        """Reads one whole member.

        Args:
            name: Its full name; it must be there.
            most: The most bytes that it may declare.
        """
        member = self.members[name]
        if member.size > most:
            raise self.file.damaged(
                f"'{safe_text(name)}' declares {member.size:,} bytes; at most {most:,} were expected"
            )
        return b"".join(self.pieces(member))

    def pieces(self, member: Member) -> Iterator[bytes]:
        """Reads a member piece by piece."""
        start = self.locate(member)
        if member.method == DEFLATED:
            yield from self.inflate(member, start)
            return
        for offset in range(0, member.size, _CHUNK):
            yield self.file.pread(start + offset, min(_CHUNK, member.size - offset))

    def head(self, member: Member, most: int) -> bytes:
        """Reads the first bytes of a member."""
        start, most = self.locate(member), min(most, member.size)
        packed = self.file.pread(start, min(member.packed, most + _CLOSE))
        if member.method == STORED or not most:
            return packed[:most]
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most)
        except zlib.error as error:
            raise self.file.damaged(f"'{safe_text(member.name)}' cannot be unpacked ({error})") from error

    def inflate(self, member: Member, start: int) -> Iterator[bytes]:
        """Unpacks a deflated member piece by piece, never further than its declared size."""
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        end, offset, done, pending = start + member.packed, start, 0, b""
        while not unpacker.eof:
            if not pending and offset < end:
                pending = self.file.pread(offset, min(_CHUNK, end - offset))
                offset += len(pending)
            try:
                piece = unpacker.decompress(pending, min(_CHUNK, member.size - done + 1))
            except zlib.error as error:
                raise self.file.damaged(f"'{safe_text(member.name)}' cannot be unpacked ({error})") from error
            done += len(piece)
            idle = not piece and offset == end and not unpacker.unconsumed_tail and not unpacker.eof
            if done > member.size or idle:
                raise self._wrong_size(member)
            yield piece
            pending = unpacker.unconsumed_tail
        if done != member.size or offset != end or unpacker.unused_data:
            raise self._wrong_size(member)

    def _wrong_size(self, member: Member) -> CheckpointError:
        return self.file.damaged(f"'{safe_text(member.name)}' does not unpack to the {member.size:,} bytes it declares")

    def _find_directory(self) -> tuple[int, int, int]:
        """Number of entries, size and offset of the table of contents."""
        tail_start = max(self._start, self._end - _END.size - _LONGEST_COMMENT)
        tail = self.file.pread(tail_start, self._end - tail_start)
        place = self._last_record(tail)
        _, disk, _, _, count, size, start, _ = _END.unpack_from(tail, place)
        if disk not in {0, 0xFFFF}:
            raise self.file.damaged("it is one part of a zip archive on several disks")
        end = tail_start + place
        wide = self._find_directory64(end)
        if wide is not None:
            # Readers differ in which of the two they use, so both must agree.
            if any(n not in {w, limit} for n, w, limit in zip((count, size, start), wide, _NOT_HERE, strict=False)):
                raise self.file.damaged("the two halves of its table of contents contradict each other")
            count, size, start, end = wide
        elif _IN_ZIP64 in {size, start}:
            raise self.file.damaged("the second half of its table of contents is missing")
        start += self._start
        if start + size != end:
            raise self.file.damaged(
                f"its table of contents is declared at bytes {start:,} to {start + size:,}; it ends at {end:,}"
            )
        return count, size, start

    def _last_record(self, tail: bytes) -> int:
        """Position of the record that ends an archive: its comment must reach exactly to the end of the file."""
        place = first = tail.rfind(b"PK\x05\x06")
        while place >= 0:
            if place + _END.size <= len(tail) and place + _END.size + _END.unpack_from(tail, place)[7] == len(tail):
                return place
            place = tail.rfind(b"PK\x05\x06", 0, place + 3)
        if first >= 0 and first + _END.size <= len(tail):
            raise self.file.damaged("data follows the end of the zip archive")
        zeros = tail and not tail.strip(b"\0")
        there = "it ends in zero bytes" if zeros else f"{self._end - self._start:,} bytes are there"
        raise UnfinishedError(
            f"{self._path} is cut off: {there}, and the table of contents at the end of the zip file is missing",
            Fix(note="copy or download the file again, or wait: it may not be completely written yet"),
        )

    def _find_directory64(self, end: int) -> tuple[int, int, int, int] | None:
        """The same from the zip64 records, which large archives need."""
        place = end - _END64_LOCATOR.size
        locator = self.file.pread(place, _END64_LOCATOR.size) if place >= self._start else b""
        if not locator.startswith(b"PK\x06\x07"):
            return None
        start: int = self._start + _END64_LOCATOR.unpack(locator)[2]
        if start + _END64.size != place:
            raise self.file.damaged("the second half of its table of contents is not where it should be")
        fields = _END64.unpack(self.file.pread(start, _END64.size))
        if fields[0] != b"PK\x06\x06":
            raise self.file.damaged("the second half of its table of contents is not where it should be")
        return fields[7], fields[8], fields[9], start

    def _entries(self, directory: bytes, count: int) -> Iterator[Member]:
        position, found, end = 0, 0, len(directory)
        unpack, width = _ENTRY.unpack_from, _ENTRY.size
        try:
            while position < end:
                (signature, _, _, flags, method, _, _, crc32, packed, size, name_length, extra_length, comment_length,
                 _, _, _, header) = unpack(directory, position)  # fmt: skip
                if signature != b"PK\x01\x02":
                    break
                extra_at = position + width + name_length
                name = directory[position + width : extra_at].decode("utf-8" if flags & _UTF8 else "cp437")
                if _IN_ZIP64 in {packed, size, header}:
                    extra = directory[extra_at : extra_at + extra_length]
                    size, packed, header = _zip64_sizes(extra, size, packed, header)
                yield Member(name, flags, method, crc32, packed, size, self._start + header)
                position = extra_at + extra_length + comment_length
                found += 1
        except (struct.error, UnicodeDecodeError) as error:
            raise self.file.damaged("its table of contents cannot be read") from error
        if position != end or found != count:
            raise self.file.damaged(f"its table of contents declares {count:,} members; {found:,} can be read")

    def _unique(self, entries: list[Member]) -> dict[str, Member]:
        members = {member.name: member for member in entries}
        if len(members) != len(entries):
            seen: set[str] = set()
            twice = next(m.name for m in entries if m.name in seen or seen.add(m.name))  # type: ignore[func-returns-value]
            raise self.file.damaged(f"two members have the name '{safe_text(twice)}'")
        return members

    def _check_places(self, entries: list[Member], end: int) -> None:
        by_place = sorted(entries, key=lambda member: member.header)
        for member, following in zip_longest(by_place, by_place[1:]):
            member.limit = limit = end if following is None else following.header
            if member.header + _LOCAL.size + member.packed > limit:
                raise self.file.damaged(f"'{safe_text(member.name)}' overlaps the member after it")
            if member.flags & _ENCRYPTED or member.method not in {STORED, DEFLATED}:
                raise CheckpointError(
                    f"{self._path} holds '{safe_text(member.name)}' encrypted or packed by method {member.method}; "
                    "stored or deflated members were expected",
                    Fix(note="unzip it, and pack it again without encryption: zip -0 -r"),
                )
            honest = member.packed == member.size if member.method == STORED else _can_inflate(member)
            if not honest:
                raise self.file.damaged(
                    f"'{safe_text(member.name)}' declares {member.size:,} bytes, its {member.packed:,} cannot hold them"
                )


def _can_inflate(member: Member) -> bool:
    return member.size <= member.packed * BEST_RATIO


def _zip64_sizes(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            real = [next(wide, value) if value == _IN_ZIP64 else value for value in (size, packed, header)]
            return real[0], real[1], real[2]
        position += 4 + length
    return size, packed, header
