"""The pickle opcodes that work on the stack and the memo, and those followed by a name or an index.

Guarantees: every object an opcode makes is an inert record; calls, imports and attribute assignments are only recorded.
An operand that no pickler would have left on the stack is refused. Names and memo indices are limited in length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TypeGuard

from ..limits import LONGEST_INDEX, LONGEST_NAME
from ..tree import TensorEntry, Variable
from .records import Global, Machine, MalformedError, PickledDict, PickledSet, Reduced, line

_Step = Callable[[Machine], object]
_HIGHEST_PROTOCOL = 5
_U4, _U8 = struct.Struct("<I").unpack_from, struct.Struct("<Q").unpack_from


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.to_mark()


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _tuple1(machine: Machine) -> None:
    machine.stack[-1] = (machine.stack[-1],)


def _tuple3(machine: Machine) -> None:
    stack = machine.stack
    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]


def _new(make: Callable[[], object]) -> _Step:
    return lambda machine: machine.stack.append(make())


def _collected(make: Callable[[list[object]], object]) -> _Step:
    def push(machine: Machine) -> None:
        items = machine.to_mark()  # first: it changes the stack
        machine.stack.append(make(items))

    return push


def _append(machine: Machine) -> None:
    item = machine.stack.pop()
    _extend(machine.stack[-1], [item])


def _appends(machine: Machine) -> None:
    items = machine.to_mark()
    _extend(machine.stack[-1], items)


def _additems(machine: Machine) -> None:
    items = machine.to_mark()
    target = machine.stack[-1]
    if not isinstance(target, PickledSet):
        raise MalformedError("ADDITEMS on an object that is not a set")
    target.items.extend(items)


def _setitem(machine: Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _store(machine.stack[-1], [key, value])


def _setitems(machine: Machine) -> None:
    items = machine.to_mark()
    _store(machine.stack[-1], _even(items))


def _reduce(machine: Machine) -> None:
    stack = machine.stack
    args = stack.pop()
    function = stack[-1]
    if not isinstance(args, tuple):
        raise MalformedError("REDUCE with arguments that are not a tuple")
    if isinstance(function, Global) and function.builder is not None:
        stack[-1] = function.builder(function, args)
    else:
        stack[-1] = Reduced(function, args)


def _new_object(machine: Machine) -> None:
    _make(machine, machine.stack.pop(), PickledDict())


def _new_object_with_keywords(machine: Machine) -> None:
    keywords = machine.stack.pop()
    _make(machine, machine.stack.pop(), keywords)


def _object(machine: Machine) -> None:
    items = machine.to_mark()
    machine.stack.append(Reduced(_a_class(items[0]), tuple(items[1:])))


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, PickledDict):
        target.state = state
    elif isinstance(target, Reduced):
        if target.states is None:
            target.states = []
        target.states.append(state)
    elif isinstance(target, TensorEntry) and isinstance(target.details.pickled, Variable) and _is_of_variable(state):
        target.details.pickled.requires_grad = state[0]
    else:
        raise MalformedError("BUILD on a value that has no attributes")


def _is_of_variable(state: object) -> TypeGuard[tuple[bool, bool, object]]:
    """Whether a state is (requires_grad, volatile, hooks), as torch up to 0.3 wrote for parameters and variables."""
    return isinstance(state, tuple) and len(state) == 3 and type(state[0]) is bool and type(state[1]) is bool


def _binary_persistent_id(machine: Machine) -> None:
    machine.stack[-1] = machine.persistent(machine.stack[-1])


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.find(module, name))


def _next_buffer(_machine: Machine) -> None:
    raise MalformedError("NEXT_BUFFER: part of the data was written outside the file")


def _even(items: list[object]) -> list[object]:
    if len(items) % 2:
        raise MalformedError("key without a value")
    return items


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, Reduced):
        if target.items is None:
            target.items = []
        target = target.items
    if not isinstance(target, list):
        raise MalformedError("APPENDS on an object that is not a list")
    target.extend(items)


def _store(target: object, items: list[object]) -> None:
    if isinstance(target, Reduced):
        if target.flat is None:
            target.flat = []
        target.flat.extend(items)
    elif isinstance(target, PickledDict):
        target.flat.extend(items)
    else:
        raise MalformedError("SETITEMS on an object that is not a dict")


def _make(machine: Machine, args: object, keywords: object) -> None:
    if not isinstance(args, tuple):
        raise MalformedError("NEWOBJ with arguments that are not a tuple")
    if not isinstance(keywords, PickledDict):
        raise MalformedError("NEWOBJ_EX with keyword arguments that are not a dict")
    stack = machine.stack
    stack[-1] = Reduced(_a_class(stack[-1]), args, by_new=True, kwargs=keywords if keywords.flat else None)


def _a_class(found: object) -> Global | Reduced:
    """Nested classes, and those that dill and cloudpickle write out, are themselves results of calls."""
    if not isinstance(found, Global | Reduced):
        raise MalformedError("instance of an object that is not a class")
    return found


STACK: dict[int, _Step] = {
    ord("0"): _pop,
    ord("1"): Machine.to_mark,
    ord("2"): lambda machine: machine.stack.append(machine.stack[-1]),
    0x94: _memoize,
    0x85: _tuple1,
    0x87: _tuple3,
    ord("]"): _new(list),
    ord("}"): _new(PickledDict),
    0x8F: _new(lambda: PickledSet([], frozen=False)),
    ord("l"): _collected(list),
    ord("d"): _collected(lambda items: PickledDict(flat=_even(items))),
    0x91: _collected(lambda items: PickledSet(items, frozen=True)),
    ord("a"): _append,
    ord("e"): _appends,
    0x90: _additems,
    ord("s"): _setitem,
    ord("u"): _setitems,
    ord("R"): _reduce,
    0x81: _new_object,
    0x92: _new_object_with_keywords,
    ord("o"): _object,
    ord("b"): _build,
    ord("Q"): _binary_persistent_id,
    0x93: _stack_global,
    0x97: _next_buffer,
    0x98: lambda machine: machine.stack[-1],
}
"""Opcode → its effect on the stack."""


def _protocol(machine: Machine, position: int) -> int:
    machine.protocol = machine.data[position]
    if machine.protocol > _HIGHEST_PROTOCOL:
        raise MalformedError(f"unsupported protocol {machine.protocol} (expected at most {_HIGHEST_PROTOCOL})")
    return position + 1


def _frame(machine: Machine, position: int) -> int:
    length = _U8(machine.data, position)[0]
    if position + 8 + length > len(machine.data):
        raise MalformedError("unexpected end of data")
    return position + 8


def _put_text(machine: Machine, position: int) -> int:
    raw, position = line(machine.data, position, LONGEST_INDEX)
    machine.memo[int(raw)] = machine.stack[-1]
    return position


def _put(machine: Machine, position: int) -> int:
    machine.memo[machine.data[position]] = machine.stack[-1]
    return position + 1


def _get_text(machine: Machine, position: int) -> int:
    raw, position = line(machine.data, position, LONGEST_INDEX)
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
        # These codes only have a meaning in the registry of one process.
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
"""Opcode → its effect, given the position of its operand; returns the position after the operand."""
