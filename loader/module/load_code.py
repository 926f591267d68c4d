# ruff: noqa: SLF001  # torch's load hooks have no public form
"""The code of a model's own that runs while it is loaded.

Guarantees: names every such piece of code, and says which of it comes with torch and keeps to its own module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def load_code(module: nn.Module) -> Iterator[Callable[..., object]]:
    """The code beside torch's plain loading that runs while a module is loaded."""
    base = nn.Module._load_from_state_dict
    own = vars(module).get("_load_from_state_dict", type(module)._load_from_state_dict)
    if own is not base:
        yield own
    if type(module).set_extra_state is not nn.Module.set_extra_state:
        yield type(module).set_extra_state
    yield from module._load_state_dict_pre_hooks.values()
    yield from module._load_state_dict_post_hooks.values()


def is_torchs(code: Any) -> bool:
    """Whether code that runs on a load comes with torch: such code changes its own module alone."""
    code = getattr(code, "hook", code)  # torch wraps some
    code = code.func if isinstance(code, functools.partial) else code
    home = getattr(code, "__module__", None) or type(code).__module__
    return str(home).partition(".")[0] == "torch"
