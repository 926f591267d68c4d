"""The pickle opcodes that carry something else than a value in the bytes that follow them.

Guarantees: names and memo indices are bounded in length; what is stored and fetched are inert records.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from .machine import LONGEST_NAME, Machine
from .records import Global, Reduced
from .values import MalformedError, line

_HIGHEST_PROTOCOL = 5
_LONGEST_INDEX = 20
_U4, _U8 = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from


def _protocol(machine: Machine, position: int) -> int:
    machine.protocol = machine.data[position]
    if machine.protocol > _HIGHEST_PROTOCOL:
        raise MalformedError(f"its protocol is {machine.protocol}; at most {_HIGHEST_PROTOCOL} is known")
    return position + 1


def _frame(machine: Machine, position: int) -> int:
    length = _U8(machine.data, position)[0]
    if position + 8 + length > len(machine.data):
        raise MalformedError("it ends in the middle")
    return position + 8


def _put_text(machine: Machine, position: int) -> int:
    raw, position = line(machine.data, position, _LONGEST_INDEX)
    machine.memo[int(raw)] = machine.stack[-1]
    return position


def _put(machine: Machine, position: int) -> int:
    machine.memo[machine.data[position]] = machine.stack[-1]
    return position + 1


def _get_text(machine: Machine, position: int) -> int:
    raw, position = line(machine.data, position, _LONGEST_INDEX)
    machine.stack.append(machine.memo[int(raw)])
    return position


def _long_get(machine: Machine, position: int) -> int:
    machine.stack.append(machine.memo[_U4(machine.data, position)[0]])
    return position + 4


def _global(machine: Machine, position: int) -> int:
    found, position = _named(machine, position)
    machine.stack.append(found)
    return position


def _instance(machine: Machine, position: int) -> int:
    found, position = _named(machine, position)
    items = machine.to_mark()
    machine.stack.append(Reduced(found, tuple(items)))
    return position


def _text_persistent_id(machine: Machine, position: int) -> int:
    raw, position = line(machine.data, position)
    machine.stack.append(machine.persistent(str(raw, "utf-8")))
    return position


def _extension(width: int) -> Callable[[Machine, int], int]:
    def push(machine: Machine, position: int) -> int:
        # The registry that gives these codes a meaning is a process's own; a file cannot rely on one.
        code = int.from_bytes(machine.data[position : position + width], "little")
        machine.stack.append(machine.find("copyreg", f"<extension {code}>"))
        return position + width

    return push


def _named(machine: Machine, position: int) -> tuple[Global, int]:
    module, position = line(machine.data, position, LONGEST_NAME)
    name, position = line(machine.data, position, LONGEST_NAME)
    return machine.find(str(module, "utf-8"), str(name, "utf-8")), position


OPERAND: dict[int, Callable[[Machine, int], int]] = {
    0x80: _protocol,
    0x95: _frame,
    ord("p"): _put_text,
    ord("q"): _put,
    ord("g"): _get_text,
    ord("j"): _long_get,
    ord("c"): _global,
    ord("i"): _instance,
    ord("P"): _text_persistent_id,
    0x82: _extension(1),
    0x83: _extension(2),
    0x84: _extension(4),
}
"""Opcode → what it does with the bytes that follow it; returns the position after them."""
