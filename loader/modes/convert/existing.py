"""What stands where a conversion would write.

Guarantees: only files of the destination's own names are looked at, and only their headers; nothing is changed here.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from ...builder.embedded import Record, Source, read_record
from ...errors import CheckpointError, ConfigError
from ...files.file import CheckpointFile
from ...files.path import shown_path
from ...formats.find import Sources, inode
from ...formats.index import read_index
from ...parts.open import open_checkpoint
from ...schema import AUTO
from ...text.lines import Fix, typed
from ...text.wording import listing
from ...verify import golden
from .destination import Destination


def standing(place: Destination) -> list[Path]:
    """The files that are there already: the index first, so that taking them away in this order misleads nobody."""
    named = (place.index, place.single, *place.shards(), *map(golden.beside, (place.index, place.single)))
    return [path for path in named if os.path.lexists(path)]


def refuse_to_replace(
    place: Destination,
    record: Callable[[], Record],
    sources: Sources,
    inputs: Sources,
    recorded: Path | None,
) -> list[Path]:
    """Refuses a destination that holds anything but an earlier result of the same conversion.

    Args:
        place: Where to write.
        record: Makes what would be written; asked for only where something stands there.
        sources: The files that are to be converted.
        inputs: The files that the model's inputs are read from.
        recorded: The golden record that an earlier copy would be of; None where no copy would be written.

    Returns:
        The files of the earlier result.

    Raises:
        ConfigError: A file there is read in this job, is no converted one, or comes from something else.
    """
    there = standing(place)
    _refuse_to_lose(place, there, sources, inputs, recorded)
    if not there:
        return []
    now = record()
    judged = {path: _judged(path, place, there, now, recorded) for path in there}
    others = {path: told for path, told in judged.items() if told}
    if others:
        first = next(iter(others))
        raise ConfigError(
            f"{shown_path(first)} is there already, and {others[first]}; only the result of the same conversion is "
            "replaced",
            typed("rm", *map(str, there), note="if it is not needed any more, or another convert.path"),
        )
    return there


def _refuse_to_lose(
    place: Destination, there: Sequence[Path], sources: Sources, inputs: Sources, recorded: Path | None
) -> None:
    """Refuses a destination whose files, or their golden record, are what is being read."""
    weights = (place.index, place.single, *place.shards())
    for mine, what in (
        (sources.among(there), "what is being converted"),
        (inputs.among(there), "an input of its verification"),
        (
            [path for path in weights if recorded is not None and inode(path) == inode(recorded)],
            "the golden record of what is being converted",
        ),
    ):
        if mine:
            raise ConfigError(
                f"convert.path would replace {listing(mine, longest=400)}, which is {what}",
                Fix("convert.path=OTHER.safetensors"),
            )


def _judged(path: Path, place: Destination, there: Sequence[Path], record: Record, recorded: Path | None) -> str:
    """Says why a file is not of an earlier result of this conversion; empty where it is."""
    if path == place.index:
        return _other_index(path, there)
    for weights in (place.index, place.single):
        if path == golden.beside(weights):
            return _other_golden(path, weights in there, recorded)
    return _other(path, record)


def _other_golden(path: Path, weights_too: bool, recorded: Path | None) -> str:
    """Says why a golden record is not the one that belongs to the result; empty where it is."""
    if recorded is None:
        return "" if weights_too else "is the golden record of other weights"
    try:
        same = path.samefile(recorded) or filecmp.cmp(path, recorded, shallow=False)
    except OSError:
        same = False
    if same:
        return ""
    gone = "" if recorded.exists() else ", which is not there"
    return f"is another golden record than {shown_path(recorded)}{gone}"


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
