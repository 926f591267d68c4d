"""Where a conversion writes, and what exists there already.

Guarantees: all problems of the place are reported at once, before a checkpoint is opened; of existing files only those
with the destination's own names are read, and only their headers; nothing is created or changed here.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ...builder.record import Record, Source, read_record
from ...errors import CheckpointError, ConfigError
from ...files.file import CheckpointFile
from ...files.path import shown_path
from ...formats.find import Sources, inode
from ...formats.index import read_index
from ...formats.signatures import GOLDEN
from ...parts.open import open_checkpoint
from ...schema import AUTO, ConvertConfig
from ...text import lines
from ...text.lines import Fix, override, typed
from ...text.wording import bytes_of, listing, safe_text
from ...verify import golden

ENDING = ".safetensors"
_IN_A_FOLDER = "model"
"""What a file in a folder is called, as Hugging Face's libraries do."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A checkpoint to be written, as one file or several."""

    folder: Path
    stem: str
    """The common start of its files' names."""
    shard_size: int
    """The most bytes of tensors in one file, unless a single tensor is larger."""
    shown_folder: str
    """The folder as the user wrote it, for the line to type next; empty for the current one."""

    @property
    def single(self) -> Path:
        """The file, where one is enough."""
        return self.folder / f"{self.stem}{ENDING}"

    @property
    def index(self) -> Path:
        """The index, where there are several files."""
        return self.folder / f"{self.stem}{ENDING}.index.json"

    def shard(self, number: int, count: int) -> Path:
        """One of several files, counted from 1."""
        return self.folder / f"{self.stem}-{number:05}-of-{count:05}{ENDING}"

    def shards(self) -> list[Path]:
        """Files that stand there already under the name of a shard of this checkpoint, whatever the number of shards.

        Where the file system takes small and capital letters for the same, they may be listed otherwise than asked for.
        """
        name = re.compile(rf"{re.escape(self.stem)}-(\d+)-of-(\d+){re.escape(ENDING)}", re.DOTALL | re.IGNORECASE)
        found = (name.fullmatch(path.name) for path in self.folder.iterdir())
        ours = {self.folder / f"{self.stem}-{shard[1]}-of-{shard[2]}{ENDING}" for shard in found if shard}
        return sorted(path for path in ours if os.path.lexists(path))

    def typed(self, path: Path) -> str:
        """A file of the checkpoint, written as the user wrote the folder."""
        return str(Path(self.shown_folder) / path.name)


def destination(settings: ConvertConfig) -> Destination:
    """Finds out where a conversion is to write.

    Args:
        settings: The `convert` section. A path that ends in a slash, or that is a folder, takes `model.safetensors`.

    Raises:
        ConfigError: The path or the shard size is invalid; all problems are reported.
    """
    problems: list[tuple[str, Fix]] = []
    size = _bytes(settings.shard_size, problems)
    typed = settings.path or ""
    if not typed or "\0" in typed or "://" in typed:
        problem = f"is {shown_path(typed)}, expected a file on this machine" if typed else "is required in mode=convert"
        problems.append((f"'convert.path' {problem}", Fix("convert.path=model.safetensors")))
        raise _refusal(problems)
    path = Path(os.path.abspath(os.path.expanduser(typed)))  # noqa: PTH100, PTH111  # pathlib raises on an unknown user
    inside = typed.endswith(("/", os.sep)) or os.path.isdir(path)  # noqa: PTH112  # False for a name that is too long
    folder = path if inside else path.parent
    stem = _IN_A_FOLDER if inside else path.name.removesuffix(ENDING)
    if not inside and (stem == path.name or not stem):
        fixed = f"{path.name.partition('.')[0] or _IN_A_FOLDER}{ENDING}"
        problem = f"'convert.path' is {shown_path(typed)}, expected a file called *{ENDING}, or a folder"
        problems.append((problem, lines.line("convert.path", str(Path(typed).parent / fixed))))
    elif path.name.lower().endswith(GOLDEN):
        problem = f"'convert.path' is {shown_path(typed)}, the name of another file's golden record"
        better = f"{path.name[: -len(GOLDEN)] or _IN_A_FOLDER}-converted{ENDING}"
        problems.append((problem, lines.line("convert.path", str(Path(typed).parent / better))))
    problems += _unusable(folder)
    if problems:
        raise _refusal(problems)
    return Destination(folder, stem, size, typed if inside else str(Path(typed).parent))


def _bytes(text: str, problems: list[tuple[str, Fix]]) -> int:
    size = bytes_of(text) or 0
    if size < 1:
        problem = (
            f"'convert.shard_size' is '{safe_text(text)}', expected a size such as 5GB, 500MB or a number of bytes"
        )
        problems.append((problem, Fix("convert.shard_size=5GB")))
    return size


def _unusable(folder: Path) -> list[tuple[str, Fix]]:
    shown = shown_path(folder)
    if not os.path.exists(folder):  # noqa: PTH110  # False for a name that is too long
        return [(f"the folder to write to, {shown}, does not exist", lines.typed("mkdir", "-p", str(folder)))]
    if not folder.is_dir():
        return [(f"convert.path leads through {shown}, which is not a folder", Fix("convert.path=model.safetensors"))]
    if not os.access(folder, os.W_OK | os.X_OK):
        return [
            (
                f"this user may not write to the folder {shown}",
                lines.typed("chmod", "u+wx", str(folder), note="or another one"),
            )
        ]
    return []


def _refusal(problems: list[tuple[str, Fix]]) -> ConfigError:
    return ConfigError("; ".join(problem for problem, _ in problems), *(fix for _, fix in problems))


def standing(place: Destination) -> list[Path]:
    """The files that are there already: the index first, so that taking them away in this order misleads nobody."""
    named = (place.index, place.single, *place.shards(), *map(golden.record_of, (place.index, place.single)))
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
        record: Makes what would be written; asked for only if something exists there.
        sources: The files that are to be converted.
        inputs: The files that the model's inputs are read from.
        recorded: The golden record that an earlier copy would be of; None where no copy would be written.

    Returns:
        The files of the earlier result.

    Raises:
        ConfigError: A file there is read in this job, was not written by a conversion, or comes from other weights.
    """
    there = standing(place)
    _refuse_to_lose(place, there, sources, inputs, recorded)
    if not there:
        return []
    now = record()
    judged = {path: _judged(path, place, there, now, recorded) for path in there}
    others = {path: problem for path, problem in judged.items() if problem}
    if others:
        first = next(iter(others))
        raise ConfigError(
            f"{shown_path(first)} already exists, and {others[first]}; only the result of the same conversion is "
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
        (sources.among(there), "the source of the conversion"),
        (inputs.among(there), "an input of its verification"),
        (
            [path for path in weights if recorded is not None and inode(path) == inode(recorded)],
            "the golden record of the source",
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
        if path == golden.record_of(weights):
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
    gone = "" if recorded.exists() else ", which does not exist"
    return f"differs from {shown_path(recorded)}{gone}"


def _other(path: Path, record: Record) -> str:
    """Says why a file was not written by this conversion before; empty if it was."""
    try:
        with open_checkpoint(path) as found:
            earlier = read_record(found)
    except CheckpointError:
        return "was not written by a conversion"
    if earlier is None:
        return "was not written by a conversion"
    if earlier.dtype != record.dtype:
        return f"was converted with {override('dtype', earlier.dtype) or 'another dtype'}"
    if earlier.names != record.names:
        return f"was converted with convert.names={earlier.names}"
    was = {part: source.file for part, source in earlier.sources.items()}
    if was != {part: source.file for part, source in record.sources.items()}:
        return f"was converted from {listing(was.values())}"
    same = all(_is_same(earlier.sources[part], source) for part, source in record.sources.items())
    return "" if same else f"was converted from another state, or another part, of {listing(was.values())}"


def _other_index(index: Path, there: Sequence[Path]) -> str:
    """Says why an index does not belong to the shards next to it, which are judged separately; empty if it does."""
    try:
        with closing(CheckpointFile(index)) as file:
            named = {index.with_name(name) for name in read_index(file).values()}
    except CheckpointError:
        return "is not an index that a conversion wrote"
    return "" if named <= {*there} else "names files that a conversion did not write"


def _is_same(earlier: Source, now: Source) -> bool:
    keys = now.key in (AUTO, earlier.key)
    return earlier.sha256 == now.sha256 and keys and (now.rules is None or earlier.rules == now.rules)
