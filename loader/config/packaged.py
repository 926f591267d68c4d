"""Configs in packages, as `hydra.searchpath=[pkg://my_pkg.conf]` names them.

Guarantees: while Hydra looks for a config nothing is imported for its place: a config of another's, which may name
places, runs no code by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from ..files.path import package_folders


@contextmanager
def unimported() -> Iterator[None]:
    """Has Hydra, while it runs, take the files of a package from its folder."""
    names = _names_of_the_source()
    before = names["resources"]
    names["resources"] = SimpleNamespace(files=_files)
    try:
        yield
    finally:
        names["resources"] = before


def _names_of_the_source() -> dict[str, Any]:
    """The globals of the class that reads such configs; as a plugin its module is loaded a second time."""
    Plugins.instance()  # registers it
    return SourcesRegistry.instance().resolve("pkg").load_config.__globals__


def _files(package: str) -> Path:
    folders = package_folders(package)
    if not folders:
        raise ModuleNotFoundError(f"No package named '{package}'")  # which Hydra takes for an unavailable place
    return folders[0]
