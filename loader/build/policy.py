"""What a config may call.

Guarantees: a `_target_` is judged by its name before anything is imported, and what the name led to is judged again by
the name under which it was defined, so that `torch.serialization.os.system` is known for what it is. Without a list of
trusted patterns everything is admitted but what is known to be dangerous; with one, only what it names, and of the
dangerous only what it names exactly. No environment variable changes that.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fnmatch import fnmatchcase
from types import ModuleType

from loader.build.dangerous import LOOKUPS, PLAIN_DATA, is_torch_constant, why_dangerous
from loader.wording import safe_text

_UNNAMED = "trusted_targets does not name it"


class Policy:
    """The rule for one config.

    Args:
        trusted: Patterns (`my_pkg.*`) and exact names; None for everything that is not known to be dangerous.
    """

    def __init__(self, trusted: Sequence[str] | None) -> None:
        self.trusted = None if trusted is None else tuple(trusted)

    def objection(self, name: str) -> str:
        """Says why a name may not be imported and called; an empty string if it may."""
        if reason := why_dangerous(name):
            return "" if self._names(name) else f"it {reason}"
        return "" if self._admits(name) else _UNNAMED

    def objection_to(self, found: object, name: str) -> str:
        """Says why what a name led to may not be used; an empty string if it may.

        Args:
            found: The object.
            name: The name under which the config asked for it, which `objection` has admitted.
        """
        real, is_value = identity(found, name)
        if is_value or name in PLAIN_DATA or name in LOOKUPS:
            return ""
        if real in LOOKUPS:
            return f"it is really {real}; write that, so that its path is seen"
        if reason := why_dangerous(real):
            meant = self._names(real) or (self._names(name) and why_dangerous(name))
            return "" if meant else f"it is really {safe_text(real)}, which {reason}"
        if self._names(name) or self._admits(real):
            return ""
        return f"it is really {safe_text(real)}, which trusted_targets does not name"

    def _names(self, name: str) -> bool:
        return self.trusted is not None and name in self.trusted

    def _admits(self, name: str) -> bool:
        if self.trusted is None or name in PLAIN_DATA or name in LOOKUPS or is_torch_constant(name):
            return True
        return any(fnmatchcase(name, pattern) for pattern in self.trusted)


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
    inner = getattr(found, "__func__", found)
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
