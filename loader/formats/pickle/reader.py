"""A pickle reader that runs nothing: the loop over the opcodes, and those that carry a plain value.

Guarantees: interprets every opcode of protocols 0 to 5, imports nothing, calls nothing that the file names, and never
hashes or compares an object that the file describes. A pickle has no loops and every opcode takes at least one byte,
so time and memory are proportional to the input's length. Values take exactly the bytes that they declare, never
beyond the end; the length of decimal numbers is limited, because parsing them takes quadratic time.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import CheckpointError
from ...text.lines import Fix
from ...text.wording import safe_text
from ..limits import LONGEST_DECIMAL, LONGEST_LINE
from .opcodes import OPERAND, STACK
from .records import Builder, Data, Global, Machine, MalformedError, PersistentId, line

_TRUNCATED = "unexpected end of data"
_U4 = struct.Struct("<I").unpack_from


@dataclass(slots=True)
class Unpickled:
    """The content of a pickle."""

    root: object
    end: int
    """The position after the pickle."""
    globals: list[Global]
    """Every name in it, once each."""


def unpickle(
    data: Data,
    start: int = 0,
    *,
    builders: Mapping[str, Builder] | None = None,
    persistent: Callable[[object], object] = PersistentId,
    where: str = "the pickle",
) -> Unpickled:
    """Reads one pickle as inert records.

    Args:
        data: Bytes, or a mapped file.
        start: Where the pickle begins.
        builders: Makers of known objects, by ``module.qualname``.
        persistent: Resolves references to objects outside the pickle.
        where: What is being read, for messages.

    Raises:
        CheckpointError: It is truncated, or cannot have been written by a pickler.
    """
    machine = Machine(data, builders or {}, persistent)
    try:
        root, end = _run(machine, start)
    except MalformedError as error:
        raise CheckpointError(f"{where} is damaged: {error}", Fix(note="copy or download the file again")) from error
    return Unpickled(root, end, list(machine.globals.values()))


def _run(  # noqa: C901, PLR0912, PLR0915  # one loop over millions of opcodes; a call for each would take twice as long
    machine: Machine, position: int
) -> tuple[object, int]:
    """Executes opcodes up to STOP; those that make up tensors come first and inline, because there are millions."""
    data, stack, memo, below, u4 = machine.data, machine.stack, machine.memo, machine.below, _U4
    size = len(data)
    try:
        while True:
            code = data[position]
            position += 1
            if code == 0x72:  # LONG_BINPUT
                memo[u4(data, position)[0]] = stack[-1]
                position += 4
            elif code == 0x4B:  # BININT1
                stack.append(data[position])
                position += 1
            elif code == 0x68:  # BINGET
                stack.append(memo[data[position]])
                position += 1
            elif code == 0x28:  # MARK
                below.append(stack)
                machine.stack = stack = []
            elif code == 0x74:  # TUPLE
                items = tuple(stack)
                machine.stack = stack = below.pop()
                stack.append(items)
            elif code == 0x86:  # TUPLE2
                second = stack.pop()
                stack[-1] = (stack[-1], second)
            elif code == 0x58:  # BINUNICODE
                end = position + 4 + u4(data, position)[0]
                if end > size:
                    raise MalformedError(_TRUNCATED)
                stack.append(str(data[position + 4 : end], "utf-8", "surrogatepass"))
                position = end
            elif code in STACK:
                STACK[code](machine)
                stack = machine.stack
            elif code in READERS:
                value, position = READERS[code](data, position)
                stack.append(value)
            elif code == 0x2E:  # STOP
                return stack.pop(), position
            elif code in OPERAND:
                position = OPERAND[code](machine, position)
                stack = machine.stack
            else:
                raise MalformedError(f"invalid opcode {code:#x}")
    except CheckpointError as error:
        error.locate(key=machine.pending_key())  # a builder's own refusal
        raise
    except KeyError as error:
        raise MalformedError(f"at byte {position:,}: reference to a memo entry that was never stored") from error
    except (IndexError, struct.error) as error:
        cut = isinstance(error, struct.error) or position >= size
        raise MalformedError(f"at byte {position:,}: {_TRUNCATED if cut else 'the stack is empty'}") from error
    except ValueError as error:
        raise MalformedError(f"at byte {position:,}: {safe_text(error, 300)}") from error


Reader = Callable[[Data, int], tuple[object, int]]
"""Takes the data and the position after the opcode; returns the value and the position after it."""

_NUMBERS = {name: struct.Struct(name) for name in ("<B", "<H", "<I", "<Q", "<i", ">d")}


def taken(data: Data, position: int, length: int) -> tuple[bytes, int]:
    """Returns this many bytes, and the position after them."""
    end = position + length
    if length < 0 or end > len(data):
        raise MalformedError(f"{length:,} bytes declared, {max(0, len(data) - position):,} left")
    return data[position:end], end


def number(form: str) -> Reader:
    """Returns a reader of one fixed-size number."""
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


def _as_line(convert: Callable[[bytes], object], longest: int = LONGEST_LINE) -> Reader:
    def read(data: Data, position: int) -> tuple[object, int]:
        raw, end = line(data, position, longest)
        return convert(raw), end

    return read


def _text(raw: bytes) -> str:
    return str(raw, "utf-8", "surrogatepass")


def _old_text(raw: bytes) -> str | bytes:
    """Decodes a string of Python 2, which may be text or bytes."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return raw


def _quoted(raw: bytes) -> str | bytes:
    raw = raw.strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in {b"'", b'"'}:
        raise MalformedError("string without quotes")
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
    ord("I"): _as_line(_integer, LONGEST_DECIMAL),
    ord("L"): _as_line(_long, LONGEST_DECIMAL),
    ord("F"): _as_line(float, LONGEST_DECIMAL),
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
