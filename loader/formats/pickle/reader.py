"""A pickle reader that runs nothing.

Guarantees: it interprets every opcode of protocols 0 to 5 over bytes, imports nothing, calls nothing that the file
names, and never hashes or compares an object that the file describes. There are no loops in a pickle and every opcode
takes at least a byte, so time and memory are proportional to the input's length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ...errors import CheckpointError
from ...text.wording import safe_text
from .machine import Machine
from .opcodes import STACK
from .operands import OPERAND
from .records import Builder, Global, PersistentId
from .values import READERS, Data, MalformedError

_U4 = struct.Struct("<I").unpack_from


@dataclass(slots=True)
class Unpickled:
    """What a pickle holds."""

    root: object
    end: int
    """The position after it."""
    globals: list[Global]
    """Everything it names, once each."""


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
        builders: By ``module.qualname``: what makes a recognised object out of the arguments it is called with.
        persistent: Resolves what the pickle keeps outside itself.
        where: What is being read, for messages.

    Raises:
        CheckpointError: It is cut off, or no pickler can have written it.
    """
    machine = Machine(data, builders or {}, persistent)
    try:
        root, end = _run(machine, start)
    except MalformedError as error:
        raise CheckpointError(f"{where} is damaged: {error}", "copy or download the file again") from error
    return Unpickled(root, end, list(machine.globals.values()))


def _run(  # noqa: C901, PLR0912, PLR0915  # one loop over millions of opcodes; a call for each would take twice as long
    machine: Machine, position: int
) -> tuple[object, int]:
    """Executes up to STOP; the opcodes that make up tensors come first and in line, because there are millions."""
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
                    raise MalformedError("it ends in the middle")
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
                raise MalformedError(f"no pickle has the opcode {code:#x}")
    except CheckpointError as error:
        error.locate(key=machine.pending_key())  # what a builder refuses, in its own words
        raise
    except KeyError as error:
        raise MalformedError(f"at byte {position:,} it asks for an object that it never stored") from error
    except (IndexError, struct.error) as error:
        cut = isinstance(error, struct.error) or position >= size
        what = "it ends in the middle" if cut else "it takes an object where none is"
        raise MalformedError(f"at byte {position:,} {what}") from error
    except ValueError as error:
        raise MalformedError(f"at byte {position:,} {safe_text(error)}") from error
