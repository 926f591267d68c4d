"""The pickle opcodes that carry a plain value in the bytes that follow them.

Guarantees: each reader takes exactly the bytes its opcode declares, and refuses to read past the end; numbers written
as text are bounded in length, because turning text into a number takes quadratic time.
"""

from __future__ import annotations

import codecs
import mmap
import struct
from collections.abc import Callable

Data = bytes | mmap.mmap
Reader = Callable[[Data, int], tuple[object, int]]
"""Takes the data and the position after the opcode; returns the value and the position after it."""

_LONGEST_NUMBER = 4000
_LONGEST_LINE = 1 << 20
_NUMBERS = {name: struct.Struct(name) for name in ("<B", "<H", "<I", "<Q", "<i", ">d")}


class MalformedError(ValueError):
    """Something that no pickler writes, or that is cut off."""


def taken(data: Data, position: int, length: int) -> tuple[bytes, int]:
    """Returns this many bytes and the position after them."""
    end = position + length
    if length < 0 or end > len(data):
        raise MalformedError(f"{length:,} bytes are declared, {max(0, len(data) - position):,} are left")
    return data[position:end], end


def line(data: Data, position: int, longest: int = _LONGEST_LINE) -> tuple[bytes, int]:
    """Returns the bytes up to the end of the line and the position after it."""
    end = data.find(b"\n", position, position + longest + 1)
    if end < 0:
        raise MalformedError("a line has no end")
    return data[position:end], end + 1


def number(form: str) -> Reader:
    """Makes a reader of one fixed-size number."""
    unpack, width = _NUMBERS[form].unpack_from, _NUMBERS[form].size

    def read(data: Data, position: int) -> tuple[object, int]:
        return unpack(data, position)[0], position + width

    return read


def _constant(value: object) -> Reader:
    return lambda _data, position: (value, position)


def _counted(form: str, convert: Callable[[bytes], object]) -> Reader:
    unpack, width = _NUMBERS[form].unpack_from, _NUMBERS[form].size

    def read(data: Data, position: int) -> tuple[object, int]:
        raw, end = taken(data, position + width, unpack(data, position)[0])
        return convert(raw), end

    return read


def _as_line(convert: Callable[[bytes], object], longest: int = _LONGEST_LINE) -> Reader:
    def read(data: Data, position: int) -> tuple[object, int]:
        raw, end = line(data, position, longest)
        return convert(raw), end

    return read


def _text(raw: bytes) -> str:
    return str(raw, "utf-8", "surrogatepass")


def _old_text(raw: bytes) -> str | bytes:
    """A string of Python 2, which is text or bytes."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return raw


def _quoted(raw: bytes) -> str | bytes:
    raw = raw.strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in {b"'", b'"'}:
        raise MalformedError("a string has no quotes")
    unescaped, _ = codecs.escape_decode(raw[1:-1])
    return _old_text(unescaped)


def _integer(raw: bytes) -> int | bool:
    if raw in {b"00", b"01"}:
        return raw == b"01"
    return int(raw, 0)


def _long(raw: bytes) -> int:
    return int(raw.rstrip(b"L"), 0)


def _binary_integer(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


READERS: dict[int, Reader] = {
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord(")"): _constant(()),
    ord("I"): _as_line(_integer, _LONGEST_NUMBER),
    ord("L"): _as_line(_long, _LONGEST_NUMBER),
    ord("F"): _as_line(float, _LONGEST_NUMBER),
    ord("K"): number("<B"),
    ord("M"): number("<H"),
    ord("J"): number("<i"),
    ord("G"): number(">d"),
    0x8A: _counted("<B", _binary_integer),
    0x8B: _counted("<i", _binary_integer),
    ord("S"): _as_line(_quoted),
    ord("T"): _counted("<i", _old_text),
    ord("U"): _counted("<B", _old_text),
    ord("V"): _as_line(lambda raw: str(raw, "raw-unicode-escape")),
    ord("X"): _counted("<I", _text),
    0x8C: _counted("<B", _text),
    0x8D: _counted("<Q", _text),
    ord("B"): _counted("<I", bytes),
    ord("C"): _counted("<B", bytes),
    0x8E: _counted("<Q", bytes),
    0x96: _counted("<Q", bytearray),
}
"""Opcode → reader of the value it pushes."""
