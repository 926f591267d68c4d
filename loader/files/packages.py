"""The folders of a package on Python's path, by its dotted name.

Guarantees: nothing is imported, neither the package nor what it lies in, so that naming a file in one runs no code.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path


def package_folders(package: str) -> list[Path]:
    """Lists where a package's files are; empty where there is no such package.

    Args:
        package: Its dotted name.
    """
    top, *below = package.split(".")
    if not all(map(str.isidentifier, (top, *below))):
        return []
    try:
        spec = importlib.util.find_spec(top)  # it imports the parents of a dotted name; this one has none
    except (ImportError, ValueError):
        return []
    locations = spec.submodule_search_locations if spec is not None else None
    return [folder for place in locations or () if (folder := Path(place, *below)).is_dir()]
