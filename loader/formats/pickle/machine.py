"""The stack machine that a pickle drives.

Guarantees: it holds inert records alone; a name that the pickle mentions is remembered and never looked up.
"""

from __future__ import annotations

import _compat_pickle  # the standard library's own table of Python 2 names; it has no public home
from collections.abc import Callable, Mapping

from .records import Builder, Global
from .values import Data, MalformedError

LONGEST_NAME = 1000


class Machine:
    """The stack machine that a pickle drives."""

    def __init__(self, data: Data, builders: Mapping[str, Builder], persistent: Callable[[object], object]) -> None:
        self.data = data
        self.builders = builders
        self.persistent = persistent
        self.stack: list[object] = []
        self.below: list[list[object]] = []
        """The stacks set aside by MARK, innermost last."""
        self.memo: dict[int, object] = {}
        self.globals: dict[tuple[str, str], Global] = {}
        self.protocol = 0

    def to_mark(self) -> list[object]:
        """Takes what was pushed since the last MARK; the stack below it comes back into use."""
        items = self.stack
        self.stack = self.below.pop()
        return items

    def pending_key(self) -> str:
        """Returns the text that was pushed last: in a mapping, the key of the value that is being made."""
        frames = (self.stack, *reversed(self.below))
        return next((item for frame in frames for item in reversed(frame) if type(item) is str), "")

    def find(self, module: object, name: object) -> Global:
        """The record of a name; the same one each time."""
        if type(module) is not str or type(name) is not str or len(module) + len(name) > LONGEST_NAME:
            raise MalformedError("it names a class by something that is no name")
        if self.protocol < 3:
            module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
            module = _compat_pickle.IMPORT_MAPPING.get(module, module)
        known = self.globals.get((module, name))
        if known is None:
            known = Global(module, name, self.builders.get(f"{module}.{name}"))
            self.globals[module, name] = known
        return known
