"""Several files as one checkpoint: whether the settings say how they are combined.

Guarantees: a list of files without `combine` is refused, and so is anything that does not belong to each of the files.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

from ..errors import Problems
from ..schema import MEAN, CheckpointConfig
from ..text.lines import line, override, quoted, typed
from ..text.wording import counted, listing, safe_text
from .globs import expand_glob, is_glob

_PLAIN = re.compile(r"[\w./=@+:~-]+")
"""A path that needs no quotes among the values of a sweep."""


def inherited(root: CheckpointConfig, path: Any) -> CheckpointConfig:
    """Returns the settings that a part takes from the root: a digest and weights belong to the files that they name.

    Args:
        root: The settings of `checkpoint`.
        path: The part's own path, or None.
    """
    if path is None:
        return root
    return dataclasses.replace(root, sha256=None, combine=root.combine if isinstance(path, list) else None)


def with_files(config: dict[str, Any]) -> dict[str, Any]:
    """Returns a config in which the files of a ``glob(...)`` stand in its place, in the lists of files.

    Raises:
        ConfigError: No file matches.
    """
    parts = config.get("parts")
    places = {name: config.get(name) for name in ("checkpoint", "compare")}
    of_parts = {f"parts.{name}": own for name, own in parts.items()} if isinstance(parts, dict) else {}
    made = {
        where: {**own, "path": [path for item in own["path"] for path in _files_of(f"{where}.path", item)]}
        for where, own in {**places, **of_parts}.items()
        if isinstance(own, dict) and isinstance(own.get("path"), list) and any(map(_is_call, own["path"]))
    }
    inside = {name.removeprefix("parts."): own for name, own in made.items() if name in of_parts}
    return {
        **config,
        **{name: own for name, own in made.items() if name not in of_parts},
        **({"parts": {**parts, **inside}} if isinstance(parts, dict) and inside else {}),
    }


def _is_call(item: Any) -> bool:
    return isinstance(item, str) and is_glob(item)


def _files_of(where: str, item: Any) -> list[Any]:
    return list(expand_glob(where, item)) if _is_call(item) else [item]


def add_uncombined(settings: CheckpointConfig, where: str, problems: Problems) -> None:
    """Adds what is wrong with a list of files, or with the way to combine them."""
    path, how = settings.path, settings.combine
    place = f"{where}.combine"
    if isinstance(path, str):
        if how is not None and path:  # one that is missing or invalid is refused as such
            listed = line(f"{where}.path", [path, "FILE"])
            alone = line(place, None, note="takes the one file")
            problems.add(f"'{place}' needs a list of files, and '{where}.path' is one", listed, alone)
        if isinstance(settings.sha256, list):
            problems.add(f"'{where}.sha256' is a list, and '{where}.path' is one file", line(f"{where}.sha256", None))
        return
    files = counted(len(path), "file")
    if not path:
        problems.add(f"'{where}.path' lists no files", line(f"{where}.path", "FILE"))
        return
    weights = override(place, [round(1 / len(path), 3)] * len(path))
    if how is None:
        problems.add(
            f"'{where}.path' lists {files} ({listing(path)}), and '{place}' does not say how they become one; expected "
            f"mean or {counted(len(path), 'weight')}",
            line(place, MEAN),
            typed("-m", f"{where}.path={','.join(map(_swept, path))}", note="one job for each, if that is meant"),
        )
    elif isinstance(how, str):
        if how != MEAN:
            expected = f"expected mean or a list of {counted(len(path), 'weight')}"
            problems.add(f"'{place}' is '{safe_text(how)}', {expected}", line(place, MEAN), typed(weights))
    elif len(how) != len(path):
        given = counted(len(how), "weight")
        problems.add(f"'{place}' has {given} for the {files} of '{where}.path'", typed(weights))
    elif not all(map(math.isfinite, how)) or not any(how):
        fault = "has no weight other than 0" if not any(how) else "has a weight that is not a finite number"
        problems.add(f"'{place}' {fault}: {listing(map(str, how))}", typed(weights))
    _add_digests(settings, path, where, problems)


def _swept(path: str) -> str:
    """Writes a path as one value of a sweep."""
    return path if _PLAIN.fullmatch(path) else quoted(path)


def _add_digests(settings: CheckpointConfig, path: list[str], where: str, problems: Problems) -> None:
    digests = settings.sha256
    if digests is None or (isinstance(digests, list) and len(digests) == len(path)):
        return
    given = "one digest" if isinstance(digests, str) else counted(len(digests), "digest")
    problems.add(
        f"'{where}.sha256' has {given} for the {counted(len(path), 'file')} of '{where}.path'",
        line(f"{where}.sha256", None, note="or a list of one digest for each file, in their order"),
    )
