"""Imports everything that a job's process needs, in the server that jobs are forked from.

Guarantees: afterwards, a job that loads imports nothing more of the loader, Hydra or torch, and makes no schema of
Hydra's settings. The garbage collector ignores the objects made here, so that a job's collections neither search them
nor copy the pages that they share. What a job leaves behind becomes the server's, without a word on its end.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import walk_packages

from .. import formats
from ..runtime import PACKAGE, importing
from .child import hydra_schema
from .processes import adopt_silently

_REST = (
    "hydra._internal.logging_config",
    *(f"{PACKAGE}.{name}" for name in ("cli.main", "job", "builder.pickled", "pipeline")),
    "numpy.random",
    "zlib_ng.zlib_ng",
)

adopt_silently()

with importing():
    for _name in (*_REST, *(found.name for found in walk_packages(formats.__path__, f"{formats.__name__}."))):
        if find_spec(_name) is not None:  # the oldest Hydra that is supported lacks one
            import_module(_name)
    hydra_schema()
