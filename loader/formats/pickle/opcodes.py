"""The pickle opcodes that work on the stack and the memo.

Guarantees: every object an opcode makes is an inert record; whatever would call, import or set attributes only notes
what was asked for. An opcode that meets something else than a pickler would have left there is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeGuard

from ..tree import TensorEntry
from .machine import Machine
from .records import Global, PickledDict, PickledSet, Reduced
from .values import MalformedError


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.to_mark()


def _pop_mark(machine: Machine) -> None:
    machine.to_mark()


def _dup(machine: Machine) -> None:
    machine.stack.append(machine.stack[-1])


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.stack[-1]


def _tuple1(machine: Machine) -> None:
    machine.stack[-1] = (machine.stack[-1],)


def _tuple3(machine: Machine) -> None:
    stack = machine.stack
    stack[-3:] = [(stack[-3], stack[-2], stack[-1])]


def _empty_list(machine: Machine) -> None:
    machine.stack.append([])


def _empty_dict(machine: Machine) -> None:
    machine.stack.append(PickledDict())


def _empty_set(machine: Machine) -> None:
    machine.stack.append(PickledSet([], frozen=False))


def _list(machine: Machine) -> None:
    items = machine.to_mark()
    machine.stack.append(items)


def _dict(machine: Machine) -> None:
    items = machine.to_mark()
    machine.stack.append(PickledDict(flat=_even(items)))


def _frozenset(machine: Machine) -> None:
    items = machine.to_mark()
    machine.stack.append(PickledSet(items, frozen=True))


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
        raise MalformedError("it adds to what is no set")
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
        raise MalformedError("it calls something with arguments that are no tuple")
    if isinstance(function, Global) and function.builder is not None:
        stack[-1] = function.builder(function, args)
    else:
        stack[-1] = Reduced(function, args)


def _new_object(machine: Machine) -> None:
    args = machine.stack.pop()
    _make(machine, args, PickledDict())


def _new_object_with_keywords(machine: Machine) -> None:
    keywords, args = machine.stack.pop(), machine.stack.pop()
    _make(machine, args, keywords)


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
    elif isinstance(target, TensorEntry) and isinstance(target.details, dict) and _is_of_variable(state):
        target.details["requires_grad"] = state[0]
    else:
        raise MalformedError("it gives attributes to what is no object")


def _is_of_variable(state: object) -> TypeGuard[tuple[bool, bool, object]]:
    """Whether a state is (requires_grad, volatile, hooks), as torch up to 0.3 gave to parameters and variables."""
    return isinstance(state, tuple) and len(state) == 3 and type(state[0]) is bool and type(state[1]) is bool


def _binary_persistent_id(machine: Machine) -> None:
    machine.stack[-1] = machine.persistent(machine.stack[-1])


def _stack_global(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.stack.append(machine.find(module, name))


def _next_buffer(_machine: Machine) -> None:
    raise MalformedError("part of it was written outside the file")


def _readonly_buffer(machine: Machine) -> None:
    if not machine.stack:
        raise IndexError


def _even(items: list[object]) -> list[object]:
    if len(items) % 2:
        raise MalformedError("a key has no value")
    return items


def _extend(target: object, items: list[object]) -> None:
    if isinstance(target, Reduced):
        if target.items is None:
            target.items = []
        target = target.items
    if not isinstance(target, list):
        raise MalformedError("it appends to what is no list")
    target.extend(items)


def _store(target: object, items: list[object]) -> None:
    if isinstance(target, Reduced):
        if target.flat is None:
            target.flat = []
        target.flat.extend(items)
    elif isinstance(target, PickledDict):
        target.flat.extend(items)
    else:
        raise MalformedError("it puts keys into what is no dict")


def _make(machine: Machine, args: object, keywords: object) -> None:
    if not isinstance(args, tuple) or not isinstance(keywords, PickledDict):
        raise MalformedError("it makes an object with arguments that are none")
    stack = machine.stack
    stack[-1] = Reduced(_a_class(stack[-1]), args, by_new=True, kwargs=keywords if keywords.flat else None)


def _a_class(found: object) -> Global | Reduced:
    """Classes inside classes, and those that dill and cloudpickle write out, are themselves results of calls."""
    if not isinstance(found, Global | Reduced):
        raise MalformedError("it makes an object of what is no class")
    return found


STACK: dict[int, Callable[[Machine], None]] = {
    ord("0"): _pop,
    ord("1"): _pop_mark,
    ord("2"): _dup,
    0x94: _memoize,
    0x85: _tuple1,
    0x87: _tuple3,
    ord("]"): _empty_list,
    ord("}"): _empty_dict,
    0x8F: _empty_set,
    ord("l"): _list,
    ord("d"): _dict,
    0x91: _frozenset,
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
    0x98: _readonly_buffer,
}
"""Opcode → what it does with the stack."""
