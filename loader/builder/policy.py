"""What a config may call.

Guarantees: a `_target_` is judged by its name before anything is imported, and what the name led to is judged again by
the name under which it was defined, so that `torch.serialization.os.system` is known for what it is. Without a list of
trusted patterns everything is admitted but what is known to be dangerous. With one, a pattern admits public classes
and plain values; functions, methods and whatever is private or dangerous have to be named exactly. A config out of a
file is held to `OfAFile`. No environment variable changes that.
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

from ..runtime import NAMES
from ..schema import OF_A_FILE
from ..text.wording import matches, safe_text
from ..trust.dangerous import LOOKUPS, is_torch_constant, why_dangerous
from ..trust.needed import PLAIN_DATA, VALUES_OF_A_FILE

_EXAMPLES = frozenset(f"{name}.{home}" for name in NAMES for home in ("examples", "examples.models"))
_UNNAMED = "trusted_targets does not name it"
_TORCH_ATOMS = (torch.dtype, torch.layout, torch.memory_format, torch.device, torch.Size)
_ATOMS = frozenset((bool, int, float, complex, str, bytes, type(None), *_TORCH_ATOMS))


class Policy:
    """The rule for one config.

    Args:
        trusted: Patterns (`my_pkg.*`) and exact names; None for everything that is not known to be dangerous.
    """

    partials = True
    """Whether `_partial_` may be used."""

    def __init__(self, trusted: Sequence[str] | None) -> None:
        self.trusted = None if trusted is None else tuple(trusted)
        self.patterns: Sequence[str] = self.trusted or ()
        """What a longer list begins with, where one is proposed."""

    def objection(self, name: str) -> str:
        """Says why a name may not be imported and called; an empty string if it may."""
        if self._names(name):
            return ""
        if reason := why_dangerous(name):
            return f"it {reason}"
        if self.trusted is None or _is_plain(name):
            return ""
        if not self._matches(name):
            return _UNNAMED
        return "it is private, and a pattern in trusted_targets admits public names only" if _is_private(name) else ""

    def objection_to(self, found: object, name: str) -> str:
        """Says why what a name led to may not be used; an empty string if it may.

        Args:
            found: The object.
            name: The name under which the config asked for it, which `objection` has admitted.
        """
        real, is_value = identity(found, name)
        if _is_plain(name):
            return ""
        if real in LOOKUPS:
            return f"it is really {real}; write that, so that its path is seen"
        if is_value and self._names(name):
            return ""
        if is_value and (reason := why_dangerous(home := _by_its_module(name))):
            return f"it is really {safe_text(home)}, which {reason}"
        if is_value and self.trusted is None:
            return ""
        if not is_value and (reason := why_dangerous(real)):
            meant = self._names(real) or (self._names(name) and why_dangerous(name))
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
            return "it is not a class, and a pattern in trusted_targets admits classes only"
        if not self._matches(real):
            return f"it is really {safe_text(real)}, which trusted_targets does not name"
        if _is_private(found.__qualname__):
            return f"it is really {safe_text(real)}, which is private, and a pattern admits public names only"
        return ""

    def _names(self, name: str) -> bool:
        return self.trusted is not None and name in self.trusted

    def _matches(self, name: str) -> bool:
        return matches(name, self.trusted or ())


class OfAFile(Policy):
    """The rule for a config out of a file, unless the user trusts more.

    Admits torch's documented modules, the example models and plain values; nothing is imported to find them.
    """

    partials = False

    def __init__(self) -> None:
        super().__init__(())
        self.patterns = OF_A_FILE

    def objection(self, name: str) -> str:
        """As every policy's; a name that passes has been found, among what is imported already."""
        if name in VALUES_OF_A_FILE or name in LOOKUPS or is_torch_constant(name):
            return ""
        if reason := why_dangerous(name):
            return f"it {reason}"
        return "" if documented_module(name) else "a config out of a file may name torch.nn's public modules alone"

    def objection_to(self, found: object, name: str) -> str:
        """As every policy's."""
        if name in VALUES_OF_A_FILE or is_torch_constant(name) or documented_module(name) is found:
            return ""
        return "it is not what torch has under this name"


def policy_of(trusted: Sequence[str] | None, *, of_a_file: bool) -> Policy:
    """Returns the policy for a config of the user's, or for one out of a file where nothing is said to be trusted."""
    return OfAFile() if of_a_file and trusted is None else Policy(trusted)


def documented_module(name: str) -> type[nn.Module] | None:
    """The module class of torch or of the examples that a public name stands for, among what is imported already."""
    home, _, last = name.rpartition(".")
    if _is_private(name):
        return None
    origins: tuple[str, ...]
    if home in _EXAMPLES:
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
    """The name under which what a name leads to was defined, if that is imported already; else the name itself."""
    first, *rest = name.split(".")
    found: object = sys.modules.get(first)
    for part in rest:
        found = inspect.getattr_static(found, part, None)  # runs nothing, and so imports nothing
    return name if found is None else identity(found, name)[0]


def is_plain_value(found: object, deep: int = 4) -> bool:
    """Whether an object is data and holds nothing else: numbers, text, dtypes, and containers of these."""
    if type(found) is dict:
        found = [*found.keys(), *found.values()]
    if isinstance(found, (list, tuple, set, frozenset)) and type(found).__module__ == "builtins":
        return deep > 0 and all(is_plain_value(item, deep - 1) for item in found)
    if isinstance(found, enum.Enum):
        return not callable(found) and is_plain_value(found.value, deep - 1)
    return type(found) in _ATOMS


def identity(found: object, name: str) -> tuple[str, bool]:
    """Returns the dotted name under which an object was defined, and whether it is a mere value of such a class.

    Args:
        found: The object; what `functools.partial` and bound methods wrap is looked for inside them.
        name: What to fall back to for the few builtin functions that do not know their module.
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
    """Returns the module of the class that a builtin method belongs to, or nothing."""
    kind = getattr(builtin, "__objclass__", None) or type(getattr(builtin, "__self__", None))
    return "" if kind is type(None) else str(kind.__module__)


def _by_its_module(name: str) -> str:
    """A name that was found, from the last module on that it goes through: `torch.nn.….sys.path` is `sys.path`."""
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
