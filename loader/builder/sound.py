"""Whether what a constructor made can be walked like a module.

Guarantees: the tables in which torch keeps parameters, buffers and children hold these and nothing else, and no value
stands where torch's walks have a method; so whatever goes through the model afterwards is not led astray by a name that
an argument brought along.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from ..text.wording import listing, safe_text

_TABLES: Final = {"_parameters": Tensor, "_buffers": Tensor, "_modules": nn.Module}
_WALKS: Final = frozenset(
    (
        *("modules", "named_modules", "children", "named_children", "train", "eval", "state_dict", "_apply"),
        *("_load_from_state_dict", "_save_to_state_dict"),
    )
)
"""What torch and the loader call on every module."""
_OF_THE_ROOT: Final = frozenset(("parameters", "named_parameters", "buffers", "named_buffers", "_named_members"))
"""What is called on the model alone: a module inside it may have a list of its own that is called `buffers`."""


def unsound(module: nn.Module) -> str:
    """Says what keeps a module from being walked; an empty string where nothing does."""
    return next((fault for name, part in _parts(module) if (fault := _fault(name, part))), "")


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module inside, each once, by torch's own tables and without a call of its own."""
    seen: set[int] = set()
    pending = [("", module)]
    while pending:
        name, part = pending.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield name, part
        children = vars(part).get("_modules")
        if isinstance(children, dict):
            pending += [(f"{name}.{key}".lstrip("."), child) for key, child in children.items() if child is not None]


def _fault(name: str, part: nn.Module) -> str:
    own = vars(part)
    where = f"in its {safe_text(name)} " if name else ""
    for table, kind in _TABLES.items():
        if not _is_kept_elsewhere(part, table) and not _holds(own.get(table), kind):
            return f"{where}{table} is not what nn.Module.__init__ makes of it"
    called = _WALKS if name else _WALKS | _OF_THE_ROOT
    hidden = sorted(key for key in called & own.keys() if not _is_function(own[key]))
    return f"{where}a value stands in the place of {listing(hidden)}" if hidden else ""


def _is_kept_elsewhere(part: nn.Module, table: str) -> bool:
    """TorchScript's modules, and those that wrap one of C++, have tables of their own kind."""
    return isinstance(part, torch.jit.ScriptModule) or hasattr(type(part), table)


def _holds(table: Any, kind: type) -> bool:
    return isinstance(table, dict) and all(value is None or isinstance(value, kind) for value in table.values())


def _is_function(value: object) -> bool:
    return inspect.isroutine(value) or isinstance(value, partial)
