"""What stands where a conversion would write.

Guarantees: only files of the destination's own names are looked at, and only their headers; nothing is changed here.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from loader.config.schema import AUTO
from loader.conversion.destination import Destination
from loader.conversion.record import Record, Source, read_record
from loader.errors import CheckpointError, ConfigError
from loader.formats import open_checkpoint
from loader.formats.base import Checkpoint, TensorEntry
from loader.formats.file import CheckpointFile
from loader.formats.index import read_index
from loader.formats.path import shown_path
from loader.wording import listing


def standing(place: Destination) -> list[Path]:
    """The files that are there already: the index first, so that taking them away in this order misleads nobody."""
    return [path for path in (place.index, place.single, *place.shards()) if os.path.lexists(path)]


def refuse_to_replace(place: Destination, record: Record, sources: Sequence[Checkpoint]) -> list[Path]:
    """Refuses a destination that holds anything but an earlier result of the same conversion.

    Args:
        place: Where to write.
        record: What would be written.
        sources: The opened checkpoints that are to be converted.

    Returns:
        The files of the earlier result.

    Raises:
        ConfigError: A file there is one of the source's, is no converted one, or comes from something else.
    """
    there = standing(place)
    read = {_inode(path) for path in _files(sources)}
    if mine := [path for path in there if _inode(path) in read]:
        raise ConfigError(
            f"convert.path would replace {listing(mine, longest=400)}, which is what is being converted",
            "convert.path=OTHER.safetensors",
        )
    judged = {path: _other_index(path, there) if path == place.index else _other(path, record) for path in there}
    others = {path: told for path, told in judged.items() if told}
    if others:
        first = next(iter(others))
        raise ConfigError(
            f"{shown_path(first)} is there already, and {others[first]}; only the result of the same conversion is "
            "replaced",
            f"rm {shlex.join(map(str, there))}   # if it is not needed any more, or another convert.path",
        )
    return there


def _other(path: Path, record: Record) -> str:
    """Says why a file is not what this conversion wrote before; empty where it is."""
    try:
        with open_checkpoint(path) as found:
            earlier = read_record(found)
    except CheckpointError:
        return "is no file that a conversion wrote"
    if earlier is None:
        return "is no file that a conversion wrote"
    if earlier.dtype != record.dtype:
        return f"was converted with dtype={earlier.dtype or 'null'}"
    was = {part: source.file for part, source in earlier.sources.items()}
    if was != {part: source.file for part, source in record.sources.items()}:
        return f"was converted from {listing(was.values())}"
    same = all(_is_same(earlier.sources[part], source) for part, source in record.sources.items())
    return "" if same else f"was converted from another state, or another part, of {listing(was.values())}"


def _other_index(index: Path, there: Sequence[Path]) -> str:
    """Says why an index is not that of the shards beside it, which are judged by themselves; empty where it is."""
    try:
        with closing(CheckpointFile(index)) as file:
            named = {index.with_name(name) for name in read_index(file).values()}
    except CheckpointError:
        return "is no index that a conversion wrote"
    return "" if named <= {*there} else "names files that a conversion did not write"


def _is_same(earlier: Source, now: Source) -> bool:
    keys = now.key in (AUTO, earlier.key)
    return earlier.sha256 == now.sha256 and keys and (now.rules is None or earlier.rules == now.rules)


def _files(sources: Iterable[Checkpoint]) -> set[Path]:
    """Every file that a checkpoint is read from, with all that lie in its folder where it is one."""
    paths = set()
    for source in sources:
        paths |= {source.path, *(source.path.iterdir() if source.path.is_dir() else ())}
        for _, container in source.root.walk():
            entries = (entry for entry in container.children.values() if isinstance(entry, TensorEntry))
            paths |= {s.file.path for entry in entries for s in entry.storages() if s.file is not None}
    return paths


def _inode(path: Path) -> tuple[int, int] | Path:
    try:
        found = path.stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino
