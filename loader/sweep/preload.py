"""What a job's process needs, imported by the server that jobs are forked from.

Guarantees: after it a job that loads imports nothing of the loader, of Hydra or of torch any more, and makes no schema
of Hydra's settings; the collector leaves alone what is there by then, so that a job's collections neither look through
it nor copy the pages it shares.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

from .. import formats
from ..runtime import PACKAGE, importing
from .child import hydra_schema

_REST = (
    "hydra._internal.logging_config",
    *(f"{PACKAGE}.{name}" for name in ("cli.main", "job", "builder.pickled", "pipeline")),
    "numpy.random",
    "zlib_ng.zlib_ng",
)

with importing():
    for _name in (*_REST, *(found.name for found in walk_packages(formats.__path__, f"{formats.__name__}."))):
        import_module(_name)
    hydra_schema()
