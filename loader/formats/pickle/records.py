"""The inert records that a pickle is read into, and the stack machine that makes them.

Guarantees: a record only remembers what the pickle said; a name in the pickle is kept and never looked up. Records are
never hashed or compared by content, and creating one imports and calls nothing.
"""

from __future__ import annotations

import _compat_pickle  # the standard library's own table of Python 2 names; it has no public home
import mmap
from collections.abc import Callable, Iterator, Mapping

from ..limits import LONGEST_LINE, LONGEST_NAME, MOST_OUTER_CLASSES

Data = bytes | mmap.mmap
Builder = Callable[["Global", tuple[object, ...]], object]
"""Makes a known object (a tensor, an OrderedDict) from a global and the arguments that the pickle calls it with."""


class Global:
    """A name in a pickle: a class, a function or a constant. It is never looked up."""

    __slots__ = ("builder", "module", "name")

    def __init__(self, module: str, name: str, builder: Builder | None = None) -> None:
        self.module = module
        self.name = name
        self.builder = builder

    @property
    def full_name(self) -> str:
        """``module.qualname``."""
        return f"{self.module}.{self.name}"


class PickledDict:
    """A dict or a subclass of it, as alternating keys and values: a file's keys are never hashed."""

    __slots__ = ("flat", "state", "type")

    def __init__(self, type_name: str = "dict", flat: list[object] | None = None) -> None:
        self.type = type_name
        self.flat: list[object] = [] if flat is None else flat
        self.state: object = None
        """The state that BUILD attached to it, such as an OrderedDict's attributes."""

    def pairs(self) -> Iterator[tuple[object, object]]:
        """Returns the keys and values, in the file's order."""
        return zip(self.flat[::2], self.flat[1::2], strict=True)

    def get(self, key: str) -> object:
        """Returns the last value under a text key; None if the key is absent."""
        found = None
        for name, value in self.pairs():
            if type(name) is str and name == key:
                found = value
        return found


class PickledSet:
    """A set or frozenset, as a list."""

    __slots__ = ("frozen", "items")

    def __init__(self, items: list[object], *, frozen: bool) -> None:
        self.items = items
        self.frozen = frozen


class Reduced:
    """An object that a pickle makes by a call: the callee, its arguments, and what would be added to the result."""

    __slots__ = ("args", "by_new", "flat", "function", "items", "kwargs", "states")

    def __init__(self, function: object, args: object, *, by_new: bool = False, kwargs: object = None) -> None:
        self.function = function
        self.args = args
        self.by_new = by_new
        """Whether the class's `__new__` is called (NEWOBJ) instead of the function itself (REDUCE)."""
        self.kwargs = kwargs
        self.flat: list[object] | None = None
        """Alternating keys and values that are set in it, for a subclass of dict."""
        self.items: list[object] | None = None
        """Items that are appended to it, for a subclass of list."""
        self.states: list[object] | None = None
        """The states that BUILD gives it, in order; normally one."""

    @property
    def type(self) -> str:
        """The class or function as the file names it; for a class made by a call, that call."""
        name, maker = dotted(self.function), self.function
        if not name and isinstance(maker, Reduced) and (name := dotted(maker.function)):
            name = f"{name}(…)"
        return name or "object"

    @property
    def state(self) -> object:
        """Its attributes as the pickle gives them; None if there are none."""
        return self.states[-1] if self.states else None


def dotted(function: object) -> str:
    """Returns the full name of a callee, nested classes included; empty if the file does not give one.

    Until protocol 4 picklers write the class ``Outer.Inner`` as the call ``getattr(Outer, "Inner")``.
    """
    names: list[str] = []
    while isinstance(function, Reduced) and len(names) < MOST_OUTER_CLASSES:
        args, getter = function.args, function.function
        attribute = isinstance(getter, Global) and getter.full_name == "builtins.getattr"
        if not attribute or not isinstance(args, tuple) or len(args) != 2 or type(args[1]) is not str:
            return ""
        names.append(args[1])
        function = args[0]
    return ".".join((function.full_name, *reversed(names))) if isinstance(function, Global) else ""


class PersistentId:
    """An unresolved reference to something outside the pickle."""

    __slots__ = ("pid",)

    def __init__(self, pid: object) -> None:
        self.pid = pid


class MalformedError(ValueError):
    """The pickle is truncated, or contains something that no pickler writes."""


def line(data: Data, position: int, longest: int = LONGEST_LINE) -> tuple[bytes, int]:
    """Returns the bytes up to the end of the line, and the position after it."""
    end = data.find(b"\n", position, position + longest + 1)
    if end < 0:
        raise MalformedError("unterminated line")
    return data[position:end], end + 1


class Machine:
    """The stack machine that a pickle drives."""

    def __init__(self, data: Data, builders: Mapping[str, Builder], persistent: Callable[[object], object]) -> None:
        self.data = data
        self.builders = builders
        self.persistent = persistent
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        """The stacks that MARK set aside, innermost last."""
        self.memo: dict[int, object] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.protocol = 0

    def to_mark(self) -> list[object]:
        """Pops everything pushed since the last MARK; the stack below it becomes current again."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pending_key(self) -> str:
        """Returns the string that was pushed last: in a mapping, the key of the value that is being made."""
        frames = (self.stack, *reversed(self.below))
        return next((item for frame in frames for item in reversed(frame) if type(item) is str), "")

    def find(self, module: object, name: object) -> Global:
        """Returns the record of a name, always the same one."""
        if type(module) is not str or type(name) is not str or len(module) + len(name) > LONGEST_NAME:
            raise MalformedError(f"invalid global name (expected two strings of at most {LONGEST_NAME:,} characters)")
        if self.protocol < 3:
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        known = self.globals.get((module, name))
        if known is None:
            known = Global(module, name, self.builders.get(f"{module}.{name}"))
            self.globals[module, name] = known
        return known
