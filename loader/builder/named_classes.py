"""Arguments of a model for which its file names a class.

Guarantees: only text of the file is read; nothing that it names is imported or built here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from ..errors import ConfigError
from ..formats.tree import Container
from ..text.lines import Fix, line

_OPEN = re.compile(r"\+model\.(\w+)=…")
_PLACES = ("hyper_parameters", "hparams", "model_args", "args", "config", "cfg")


def with_classes(error: ConfigError, roots: Iterable[Container]) -> ConfigError:
    """A refusal of missing arguments, with the classes of the modules that a file keeps under their names."""
    named = dict(_modules(roots))
    fixes = [
        Fix(_OPEN.sub(lambda found: named.get(found.group(1), found.group()), fix.line), fix.note)
        for fix in error.fixes
    ]
    return ConfigError(error.message, *fixes) if (*fixes,) != error.fixes else error


def _modules(roots: Iterable[Container]) -> Iterator[tuple[str, str]]:
    for root in roots:
        for place in _PLACES:
            held = root.children.get(place)
            for name, child in held.children.items() if isinstance(held, Container) else ():
                if isinstance(child, Container) and child.kind == "module":
                    told = line(f"model.{name}._target_", child.type, "+")
                    yield from [(name, told.line)] if told else []
