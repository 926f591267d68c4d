"""Arguments of a model for which its file names a class.

Guarantees: only text of the file is read; nothing that it names is imported or built here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..errors import ConfigError
from ..formats.tree import Container
from ..text.lines import line

_OPEN = re.compile(r"\+model\.(\w+)=…")
_PLACES = ("hyper_parameters", "hparams", "model_args", "args", "config", "cfg")


def with_classes(error: ConfigError, roots: Iterable[Container]) -> ConfigError:
    """A refusal of missing arguments, with the classes of the modules that a file keeps under their names."""
    named = dict(_modules(roots))
    hint = _OPEN.sub(lambda found: named.get(found.group(1), found.group()), error.hint)
    return ConfigError(error.message, hint) if hint != error.hint else error


def _modules(roots: Iterable[Container]) -> Iterator[tuple[str, str]]:
    for root in roots:
        for place in _PLACES:
            held = root.children.get(place)
            for name, child in held.children.items() if isinstance(held, Container) else ():
                told = line(f"model.{name}._target_", child.type, "+") if isinstance(child, Container) else ""
                if told and isinstance(child, Container) and child.kind == "module":
                    yield name, told
