"""Decides what a config may call.

Guarantees: a `_target_` is judged by its name before anything is imported, and the object it led to is judged again by
the name under which it was defined, so that `torch.serialization.os.system` is recognized. Without a list of trusted
patterns everything is allowed but the known-dangerous names. With one, a pattern allows public classes and plain
values; functions, methods, and private or dangerous names must be listed exactly. A config from a file is judged by
`OfAFile`. No environment variable changes that.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..runtime import config_name
from ..schema import OF_A_FILE
from ..text.wording import matches, safe_text
from ..trust import LOOKUPS, is_torch_constant, reads_data, why_dangerous
from ..trust.needed import DATA, PLAIN_DATA, VALUES_OF_A_FILE
from .locate import EXAMPLES

_UNNAMED = "trusted_targets does not name it"
_TORCH_ATOMS = (torch.dtype, torch.layout, torch.memory_format, torch.device, torch.Size)
_ATOMS = frozenset((bool, int, float, complex, str, bytes, type(None), *_TORCH_ATOMS))


class Policy:
    """The policy for one config.

    Args:
        trusted: Patterns (`my_pkg.*`) and exact names; None allows everything that is not known to be dangerous.
    """

    partials = True
    """Whether `_partial_` is allowed."""

    def __init__(self, trusted: Sequence[str] | None) -> None:
        self.trusted = None if trusted is None else tuple(trusted)
        self.patterns: Sequence[str] = self.trusted or ()
        """The beginning of any longer list that a message proposes."""

    def why_dangerous(self, name: str) -> str:
        """Returns why a name is known to be dangerous, as the end of a sentence; empty if it is not."""
        return why_dangerous(name)

    def may_be_listed(self, name: str) -> bool:
        """Returns whether a message may say how to admit a name by listing it."""
        return not self.why_dangerous(name)

    def objection(self, name: str) -> str:
        """Returns why a name may not be imported and called; empty if it may."""
        if self._names(name):
            return ""
        if reason := self.why_dangerous(name):
            return f"it {reason}"
        if self.trusted is None or _is_plain(name):
            return ""
        if not self._matches(name):
            return _UNNAMED
        return "it is private, and a pattern in trusted_targets allows public names only" if _is_private(name) else ""

    def objection_to(self, found: object, name: str) -> str:
        """Returns why the object that a name led to may not be used; empty if it may.

        Args:
            found: The object.
            name: Its name in the config, to which `objection` has none.
        """
        real, is_value = identity(found, name)
        if _is_plain(name):
            return ""
        if real in LOOKUPS:
            return f"it is really {real}; write that name, so that its path is checked"
        if is_value and self._names(name):
            return ""
        if is_value and (reason := self.why_dangerous(home := _by_its_module(name))):
            return f"it is really {safe_text(home)}, which {reason}"
        if is_value and self.trusted is None:
            return ""
        if not is_value and (reason := self.why_dangerous(real)):
            meant = self._names(real) or (self._names(name) and self.why_dangerous(name))
            return "" if meant else f"it is really {safe_text(real)}, which {reason}"
        if self.trusted is None or self._names(name) or self._names(real):
            return ""
        return self._objection_by_pattern(found, name, real)

    def _objection_by_pattern(self, found: object, name: str, real: str) -> str:
        if is_plain_value(found):
            home = _by_its_module(name)
            elsewhere = f"it is really {safe_text(home)}, which trusted_targets does not name"
            return "" if self._matches(home) else elsewhere
        if not isinstance(found, type):
            return "it is not a class, and a pattern in trusted_targets allows classes only"
        if not self._matches(real):
            return f"it is really {safe_text(real)}, which trusted_targets does not name"
        if _is_private(found.__qualname__):
            return f"it is really {safe_text(real)}, which is private, and a pattern allows public names only"
        return ""

    def _names(self, name: str) -> bool:
        return self.trusted is not None and name in self.trusted

    def _matches(self, name: str) -> bool:
        return any(matches(one, self.trusted or ()) for one in (name, config_name(name)))


class OfData(Policy):
    """The policy for the data and the metrics of an evaluation, which need torch's data sets and loaders too.

    Args:
        trusted: As in `Policy`.
        used: The names that a list must hold to admit what the job uses already, for messages.
    """

    def __init__(self, trusted: Sequence[str] | None, used: Sequence[str] = ()) -> None:
        super().__init__(trusted)
        self.patterns = self.patterns or used

    def may_be_listed(self, name: str) -> bool:
        """As in `Policy`; known data sets of other packages may."""
        return super().may_be_listed(name) or reads_data(name)

    def why_dangerous(self, name: str) -> str:
        """As in `Policy`."""
        return "" if name in DATA else super().why_dangerous(name)


class OfAFile(Policy):
    """The policy for a config from a file, unless the user trusts more.

    Allows torch's documented modules, the example models and plain values; nothing is imported to find them.
    """

    partials = False

    def __init__(self) -> None:
        super().__init__(())
        self.patterns = OF_A_FILE

    def objection(self, name: str) -> str:
        """As in `Policy`; a name that passes is already imported."""
        if name in VALUES_OF_A_FILE or name in LOOKUPS or is_torch_constant(name):
            return ""
        if reason := why_dangerous(name):
            return f"it {reason}"
        return "" if documented_module(name) else "a config from a file may name only torch.nn's public modules"

    def objection_to(self, found: object, name: str) -> str:
        """As in `Policy`."""
        if name in VALUES_OF_A_FILE or is_torch_constant(name) or documented_module(name) is found:
            return ""
        return "it is not torch's own object of this name"


def policy_of(trusted: Sequence[str] | None, *, of_a_file: bool) -> Policy:
    """Returns the policy for the user's own config, or for one from a file if no trusted patterns are given."""
    return OfAFile() if of_a_file and trusted is None else Policy(trusted)


def documented_module(name: str) -> type[nn.Module] | None:
    """Returns the public module class of torch or of the examples with this name, if it is already imported."""
    home, _, last = name.rpartition(".")
    if _is_private(name):
        return None
    origins: tuple[str, ...]
    if home in EXAMPLES:
        from ..examples import models  # noqa: PLC0415  # most configs name none of them

        home, origins = models.__name__, (models.__name__,)
    elif home == "torch.nn" or home.startswith("torch.nn."):
        origins = ("torch.nn.modules", "torch.nn.parallel.data_parallel")
    else:
        return None
    found = vars(sys.modules.get(home, ModuleType(home))).get(last)
    is_module = isinstance(found, type) and issubclass(found, nn.Module)
    return found if is_module and f"{found.__module__}.".startswith(tuple(f"{o}." for o in origins)) else None


def defined_as(name: str) -> str:
    """Returns the name under which a name's object was defined, if it is already imported; else the name itself."""
    first, *rest = name.split(".")
    found: object = sys.modules.get(first)
    for part in rest:
        found = inspect.getattr_static(found, part, None)  # runs nothing, and so imports nothing
    return name if found is None else identity(found, name)[0]


def is_plain_value(found: object, deep: int = 4) -> bool:
    """Returns whether an object is pure data: numbers, text, dtypes, and containers of these."""
    if type(found) is dict:
        found = [*found.keys(), *found.values()]
    if isinstance(found, (list, tuple, set, frozenset)) and type(found).__module__ == "builtins":
        return deep > 0 and all(is_plain_value(item, deep - 1) for item in found)
    if isinstance(found, enum.Enum):
        return not callable(found) and is_plain_value(found.value, deep - 1)
    return type(found) in _ATOMS


def identity(found: object, name: str) -> tuple[str, bool]:
    """Returns the dotted name under which an object, or its class, was defined, and whether it is such an instance.

    Args:
        found: The object; `functools.partial` and bound methods are unwrapped.
        name: The fallback for the few builtin functions that do not know their module.
    """
    while isinstance(found, functools.partial):
        found = found.func
    if isinstance(found, ModuleType):
        return found.__name__, False
    inner: Any = getattr(found, "__func__", found)
    qualname = getattr(inner, "__qualname__", None)
    if not isinstance(qualname, str):
        kind = type(found)
        return f"{kind.__module__}.{kind.__qualname__}", not callable(found)
    module = getattr(inner, "__module__", None) or _home(inner)
    return (f"{module}.{qualname}" if module else name), False


def _home(builtin: object) -> str:
    """Returns the module of the class that a builtin method belongs to; empty if there is none."""
    kind = getattr(builtin, "__objclass__", None) or type(getattr(builtin, "__self__", None))
    return "" if kind is type(None) else str(kind.__module__)


def _by_its_module(name: str) -> str:
    """The name from the last module that it passes through: `torch.nn.….sys.path` is `sys.path`."""
    parts = name.split(".")
    depth = next((d for d in range(len(parts) - 1, 0, -1) if ".".join(parts[:d]) in sys.modules), 1)
    found: object = sys.modules.get(".".join(parts[:depth]))
    home = ""
    while isinstance(found, ModuleType) and depth < len(parts):
        home = ".".join((found.__name__, *parts[depth:]))
        found, depth = getattr(found, parts[depth], None), depth + 1
    return home or name


def _is_plain(name: str) -> bool:
    return name in PLAIN_DATA or name in LOOKUPS or is_torch_constant(name)


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))
