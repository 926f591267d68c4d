"""Rebuilds live objects from a file's inert records, if the user has admitted the globals they need.

Guarantees: exactly the admitted globals of the selected part of the file are imported and called; an alias must be
admitted under the object's own name as well. Nothing is admitted by prefix, and after a failure nothing else is tried.
Packed weights of torch's quantized modules are made by torch's own functions from tensors whose types and shapes were
checked; script objects of other classes are refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Generator
from functools import partial
from typing import Any

import torch

from ...errors import CheckpointError
from ...text.lines import Fix
from ...text.wording import safe_text
from ..limits import MOST_KEY_PARTS
from ..tree import Pickled, TensorEntry
from .globals import DECLARED, SCRIPT_OBJECT, WITHOUT, constant, data_maker, refuse_unadmitted, resolve
from .records import Global, PickledDict, PickledSet, Reduced
from .tree import PLAIN, type_of

_CLASSES = "__torch__.torch.classes."
Read = Callable[[TensorEntry], torch.Tensor]
Steps = Generator[object, Any, Any]
"""Yields the records it needs, receives the objects made of them, and returns its own object."""


def revive(record: object, allow: Collection[str], read: Read) -> Any:
    """Rebuilds one part of a file's objects.

    Args:
        record: A container's or leaf's record, or a tensor's entry.
        allow: The globals that may be imported and called, as ``module.qualname``.
        read: Reads a tensor.

    Raises:
        CheckpointError: A global is not admitted or cannot be imported, or the admitted code raises.
    """
    refuse_unadmitted(record, allow)
    return _Reviver(allow, read).run(record)


class _Reviver:
    """Makes objects from records, each once, without recursion."""

    def __init__(self, allow: Collection[str], read: Read) -> None:
        self.allow = allow
        self.read = read
        self.made: dict[int, Any] = {}
        self.active: set[int] = set()

    def run(self, record: object) -> Any:
        running: list[Steps] = []
        value = self.begin(record, running)
        while running:
            try:
                wanted = running[-1].send(value)
            except StopIteration as done:
                running.pop()
                value = done.value
            else:
                value = self.begin(wanted, running)
        return value

    def begin(self, record: object, running: list[Steps]) -> Any:
        """Returns an object that exists already; otherwise starts making it and returns None."""
        if isinstance(record, PLAIN):
            return record
        if id(record) in self.made:
            return self.made[id(record)]
        if isinstance(record, Global):
            return resolve(record, self.allow)
        running.append(self.steps(record))
        return None

    def steps(self, record: object) -> Steps:
        makers: tuple[tuple[type, Callable[[Any], Steps]], ...] = (
            (Reduced, self.make_object),
            (list, self.make_list),
            (tuple, self.make_tuple),
            (PickledDict, self.make_dict),
            (PickledSet, self.make_set),
            (TensorEntry, self.make_tensor),
        )
        for kind, make in makers:
            if isinstance(record, kind):
                return make(record)
        raise CheckpointError(f"a {type_of(record)} of this file cannot be rebuilt outside of a tensor", DECLARED)

    def make_list(self, record: list[object]) -> Steps:
        made: list[Any] = []
        self.made[id(record)] = made  # before its items: one of them may refer to it
        for item in record:
            made += [(yield item)]
        return made

    def make_tuple(self, record: tuple[object, ...]) -> Steps:
        items = []
        for item in record:
            items += [(yield item)]
        return self.made.setdefault(id(record), tuple(items))

    def make_dict(self, record: PickledDict) -> Steps:
        made: dict[Any, Any] = OrderedDict() if record.type == "collections.OrderedDict" else {}
        self.made[id(record)] = made
        yield from self.fill(made, record.flat)
        if record.state is not None:
            _guarded(record.type, _set_state, made, (yield record.state))
        return made

    def make_set(self, record: PickledSet) -> Steps:
        items = []
        for item in record.items:
            _check_key(item)
            items += [(yield item)]
        kind = "frozenset" if record.frozen else "set"
        made = _guarded(kind, frozenset if record.frozen else set, items)
        return self.made.setdefault(id(record), made)

    def fill(self, made: Any, flat: list[object]) -> Steps:
        for index in range(0, len(flat), 2):
            _check_key(flat[index])
            key = yield flat[index]
            _guarded("a dict", made.__setitem__, key, (yield flat[index + 1]))
        return made

    def make_object(self, record: Reduced) -> Steps:
        function = record.function
        if not isinstance(function, Global) or id(record) in self.active:
            raise CheckpointError("an object of this file is made by another object, or by itself", DECLARED)
        self.active.add(id(record))
        if function.full_name == SCRIPT_OBJECT:
            return (yield from self.make_packed(record))
        args = yield record.args
        kwargs = (yield record.kwargs) or {}
        name = function.full_name
        made = _guarded(name, self.callee(function, by_new=record.by_new), *args, **kwargs)
        self.made[id(record)] = made
        if record.items is not None:
            _guarded(name, _append, made, (yield record.items))
        if record.flat is not None:
            yield from self.fill(made, record.flat)
        for state in record.states or ():
            _guarded(name, _set_state, made, (yield state))
        return made

    def make_packed(self, record: Reduced) -> Steps:
        state = yield record.state
        content, name = state if isinstance(state, tuple) and len(state) == 2 else (None, "")
        return self.made.setdefault(id(record), _guarded(SCRIPT_OBJECT, packed, name, content))

    def callee(self, function: Global, *, by_new: bool) -> Callable[..., Any]:
        maker = data_maker(function)
        if maker is not None:
            return maker
        target: Callable[..., Any] = resolve(function, self.allow)
        if constant(function) is not None and not (by_new and target is object):
            raise CheckpointError(f"this file calls {safe_text(function.full_name)}, which no pickler does", DECLARED)
        if not by_new:
            return target
        if not isinstance(target, type):
            raise CheckpointError(f"this file uses {safe_text(function.full_name)} as a class, but it is not", DECLARED)
        return partial(target.__new__, target)

    def make_tensor(self, record: TensorEntry) -> Steps:
        made = self.read(record)
        pickled = record.details.pickled or Pickled()
        subclass = pickled.subclass
        if isinstance(subclass, Global):
            made = made.as_subclass(resolve(subclass, self.allow))
        if pickled.parameter:
            made = torch.nn.Parameter(made, bool(pickled.requires_grad))
        elif pickled.requires_grad:
            made.requires_grad_()
        self.made[id(record)] = made
        attributes = pickled.attributes
        if attributes is not None:
            _guarded("a tensor", _add_attributes, made, (yield attributes))
        return made


def _guarded(name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return call(*args, **kwargs)
    except CheckpointError:
        raise
    except Exception as error:  # the admitted code may raise anything
        raise CheckpointError(
            f"rebuilding {safe_text(name)} raised {type(error).__name__}: {safe_text(error, 200)}",
            Fix(note="the class may have changed since the file was written"),
            DECLARED,
        ) from error


def _append(made: Any, items: list[Any]) -> None:
    if hasattr(made, "extend"):
        made.extend(items)
        return
    for item in items:
        made.append(item)


def _set_state(made: Any, state: Any) -> None:
    """Sets state as pickle does: by `__setstate__` if there is one, otherwise as attributes and slots."""
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    if attributes:
        vars(made).update(attributes)
    for name, value in (slots or {}).items():
        setattr(made, name, value)


def _add_attributes(made: torch.Tensor, state: Any) -> None:
    """Sets a tensor's extra attributes, and refuses those that would hide torch's own."""
    attributes, slots = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    for name, value in {**(attributes or {}), **(slots or {})}.items():
        if hasattr(type(made), name) or name.startswith("__"):
            raise CheckpointError(f"a tensor of this file hides torch's own attribute '{safe_text(name)}'", DECLARED)
        setattr(made, name, value)


def _check_key(record: object) -> None:
    """Refuses keys that would take long to hash."""
    pending, parts = [record], 0
    while pending:
        current = pending.pop()
        parts += 1
        if parts > MOST_KEY_PARTS:
            raise CheckpointError("a dict of this file has a key of more than a thousand parts", DECLARED)
        if isinstance(current, tuple):
            pending.extend(current)
        elif isinstance(current, Reduced):
            pending.append(current.args)
        elif isinstance(current, PickledSet):
            pending.extend(current.items)
        elif isinstance(current, list | bytearray | PickledDict):
            raise CheckpointError(f"a dict of this file has a key that is a {type_of(current)}", DECLARED)


def packed(name: object, content: Any) -> Any:
    """Makes the script object of a quantized module's weights.

    Args:
        name: Its class, as the file names it.
        content: Its state in the file.

    Raises:
        CheckpointError: The class is unknown, or the state does not fit it.
    """
    if name == f"{_CLASSES}quantized.LinearPackedParamsBase" and _is_linear(content):
        weight, bias = content
        pack = torch.ops.quantized.linear_prepack if weight.is_quantized else torch.ops.quantized.linear_prepack_fp16
        return pack(weight, bias)
    if name == f"{_CLASSES}rnn.CellParamsBase" and isinstance(content, tuple) and len(content) == 5:
        kind, biases, doubles, flags, layers = content
        if _is_pair(layers, _is_packed) and doubles == []:
            if kind == "quantized_fp16" and biases == [] == flags:
                return torch.ops.quantized.make_quantized_cell_params_fp16(*layers)
            if kind == "quantized_dynamic" and _is_pair(biases, _is_vector) and flags in ([0], [1]):
                make = torch.ops.quantized.make_quantized_cell_params_dynamic
                return make(*layers, *biases, bool(flags[0]))
    raise CheckpointError(
        f"this file holds a script object of the class {safe_text(name)} that torch's quantized modules do not make",
        WITHOUT,
    )


def _is_linear(content: Any) -> bool:
    if not isinstance(content, tuple) or len(content) != 2 or not isinstance(content[0], torch.Tensor):
        return False
    weight, bias = content
    typed = weight.dtype == (torch.qint8 if weight.is_quantized else torch.float32)
    return typed and weight.dim() == 2 and (bias is None or _is_vector(bias, weight.shape[0]))


def _is_vector(value: object, length: int | None = None) -> bool:
    plain = isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.dim() == 1
    return plain and (length is None or value.shape[0] == length)  # type: ignore[attr-defined]


def _is_packed(value: object) -> bool:
    return isinstance(value, torch.ScriptObject)


def _is_pair(values: object, fits: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and len(values) == 2 and all(map(fits, values))
