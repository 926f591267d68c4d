"""What a path is, and which file of a folder is the checkpoint.

Guarantees: content decides for files, and the names that a tool always writes for folders. Of a folder that holds one
checkpoint among other files, the names that Hugging Face's libraries write come first, safetensors before pickles;
otherwise there must be exactly one: several are listed, each with the line to type. Nothing outside the folder is
taken from it.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import called, is_url, leads_out, path_override, shown_path
from ..text.lines import Fix, typed
from ..text.wording import counted, listing
from . import sniff
from .index import is_index, is_index_name, read_index
from .opened import Checkpoint, Found, OpenedFile
from .several import Shards, opened
from .signatures import ENDINGS, GOLDEN


@dataclass(frozen=True, slots=True)
class OneFile:
    """A checkpoint that is one file, recognized."""

    file: CheckpointFile
    recognised: sniff.Recognised

    @property
    def format(self) -> str:
        """Its name in reports."""
        return self.recognised.format

    def open(self, check: str) -> OpenedFile:
        """Reads its index; takes `checkpoint.check`."""
        return self.recognised.open(check)

    def sha256(self) -> str:
        """The file's digest."""
        return self.file.sha256()


def find(path: Path, stack: ExitStack, format: str = "auto") -> Found:
    """Recognizes what a path is.

    Args:
        path: Absolute; it exists.
        stack: Closes the files that were opened for it when it unwinds.
        format: `checkpoint.format`, for `sniff.recognise`.

    Raises:
        CheckpointError: It cannot be opened, or its format is unsupported.
    """
    if path.is_dir():
        return _in_folder(path, stack, format)
    if path.name == DCP_METADATA or path.suffix == DCP_ENDING:
        return _in_folder(path.parent, stack, format)  # always a part of a checkpoint
    return find_in(opened(path, stack), stack, format)


def _in_folder(path: Path, stack: ExitStack, format: str) -> Found:
    names = listed(path)
    for module, _, name in (kind.partition(":") for kind in sniff.FOLDERS.values()):
        found: Found | None = getattr(import_module(f".{module}", __package__), name)(path, names, stack)
        if found is not None:
            return found
    return find_in(opened(choose(path), stack), stack, format)


def find_in(file: CheckpointFile, stack: ExitStack, format: str = "auto") -> Found:
    """Recognizes an opened file, as `find` does."""
    return Shards(file, stack) if is_index(file) else OneFile(file, sniff.recognise(file, format))


log = logging.getLogger(__name__)

DCP_METADATA, DCP_ENDING = ".metadata", ".distcp"
"""The names of torch.distributed.checkpoint's files."""
PREFERRED = (
    ("model.safetensors.index.json", "model.safetensors"),
    ("pytorch_model.bin.index.json", "pytorch_model.bin"),
    ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors"),
    ("diffusion_pytorch_model.bin.index.json", "diffusion_pytorch_model.bin"),
    ("adapter_model.safetensors",),
    ("adapter_model.bin",),
)
"""Names that transformers, diffusers and PEFT give to a model's weights, in order of preference."""
_SHARD = re.compile(r".*-\d+-of-\d+\.\w+", re.DOTALL)
_MOST_SHOWN = 20


def choose(folder: Path) -> Path:
    """Finds the one checkpoint of a folder.

    Args:
        folder: Absolute.

    Returns:
        The checkpoint file, or the index of its shards.

    Raises:
        CheckpointError: There is none, there are several, or it leads out of the folder.
    """
    names = _files(folder)
    found = candidates(names, lambda index: _shards(folder / index))
    if not found:
        raise _none(folder, names)
    if len(found) > 1:
        raise _several(folder, found)
    chosen = folder / found[0]
    outside = leads_out(chosen, folder)
    if outside is not None:
        raise CheckpointError(
            f"{shown_path(chosen)} is a link that leads out of its folder, to {shown_path(outside)}",
            path_override(outside, note="if that file is meant"),
        )
    log.info("%s: %s is the checkpoint in it", shown_path(folder), found[0])
    return chosen


def candidates(names: Sequence[str], shards: Callable[[str], Collection[str]]) -> list[str]:
    """The files of a folder that may be its one checkpoint.

    Args:
        names: The files in it.
        shards: The files that an index lists.
    """
    known = next((found for pair in PREFERRED if (found := [name for name in pair if name in names])), None)
    if known is not None:
        return known
    indexes = [name for name in names if is_index_name(name)]
    left_out = {*indexes, *(shard for index in indexes for shard in shards(index))}
    others = [name for name in names if name.endswith(ENDINGS) and not name.endswith(GOLDEN) and not is_shard(name)]
    return [*indexes, *(name for name in others if name not in left_out)]


def has_preferred(names: Sequence[str]) -> bool:
    """Whether Hugging Face's libraries give one of these names to a model's weights."""
    return any(name in names for pair in PREFERRED for name in pair)


def is_shard(name: str) -> bool:
    """Whether a name is a shard's."""
    return _SHARD.fullmatch(name) is not None


def listed(folder: Path) -> list[str]:
    """The names in a folder, sorted.

    Raises:
        CheckpointError: It may not be listed.
    """
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208  # the names alone
    except OSError as error:
        raise CheckpointError(
            f"the folder {shown_path(folder)} cannot be listed: {error.strerror}",
            typed("chmod", "u+rx", called(folder), note="or ask its owner"),
        ) from error


def _files(folder: Path) -> list[str]:
    """Files with the name of a checkpoint."""
    return [
        name
        for name in listed(folder)
        if (is_index_name(name) or name.endswith(ENDINGS)) and name[0] != "." and not (folder / name).is_dir()
    ]


def _shards(index: Path) -> set[str]:
    if leads_out(index, index.parent) is not None:
        return set()
    file = CheckpointFile(index)
    try:
        return set(read_index(file).values()) if is_index(file) else set()
    finally:
        file.close()


def _none(folder: Path, names: Sequence[str]) -> CheckpointError:
    shards = [name for name in names if is_shard(name)]
    if shards:
        return CheckpointError(
            f"{shown_path(folder)} holds {counted(len(shards), 'shard')} ({listing(shards)}) and no index of them "
            "(*.index.json)",
            Fix(note="download the index too; it is next to the shards at their source"),
        )
    from .foreign import name_folder  # noqa: PLC0415  # for a refusal only

    entries = listed(folder)
    foreign = name_folder(folder, entries)
    if foreign is not None:
        path = shown_path(folder)
        return CheckpointError(f"{path} is {foreign.what}", *foreign.advice(file=path))
    below = [entry for entry in entries if _holds_checkpoint(folder / entry)]
    if below:
        return CheckpointError(
            f"{shown_path(folder)} holds no checkpoint itself; {counted(len(below), 'folder')} in it "
            f"{'does' if len(below) == 1 else 'do'}: {listing(below, _MOST_SHOWN)}",
            *_lines(folder, below),
        )
    return CheckpointError(
        f"{shown_path(folder)} is a folder without a checkpoint; model.safetensors, pytorch_model.bin, the index of "
        f"either (*.index.json), or one file called {', '.join(f'*{ending}' for ending in ENDINGS)} was expected",
        Fix("checkpoint.path=FILE"),
    )


def _several(folder: Path, candidates: Sequence[str]) -> CheckpointError:
    return CheckpointError(
        f"{shown_path(folder)} is a folder with {len(candidates):,} checkpoints; one was expected: "
        f"{listing(candidates, _MOST_SHOWN)}",
        *_lines(folder, candidates),
    )


def _lines(folder: Path, names: Sequence[str]) -> list[Fix]:
    lines = [path_override(folder / name) for name in names[:_MOST_SHOWN]]
    more = len(names) - len(lines)
    return [*lines, *([Fix(note=f"… and {more:,} more")] if more else [])]


def _holds_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a file with the name of a checkpoint; False for links and unreadable folders."""
    if folder.is_symlink() or not folder.is_dir() or not os.access(folder, os.R_OK):
        return False
    return any(name == DCP_METADATA or name.endswith((*ENDINGS, DCP_ENDING)) for name in listed(folder))


class Sources:
    """The files that a job reads, which nothing it writes may replace.

    Args:
        checkpoints: The opened ones.
        inputs: The config of the inputs that the model is run on.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], inputs: Any = None) -> None:
        self._read = {inode(path) for path in (*_read_files(checkpoints), *_paths(inputs))}

    def among(self, paths: Iterable[Path]) -> list[Path]:
        """The paths that lead to such a file."""
        return [path for path in paths if inode(path) in self._read]


def inode(path: Path) -> tuple[int, int] | Path:
    """An identity shared by all names of a file; the path itself if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino


def _read_files(checkpoints: Iterable[Checkpoint]) -> Iterator[Path]:
    """Every file that a checkpoint is read from; all files of a folder that is read as a whole."""
    for checkpoint in checkpoints:
        yield checkpoint.path
        for place in checkpoint.places:
            yield place
            yield from place.iterdir() if place.is_dir() else ()
        yield from (file.path for file in checkpoint.files)


def _paths(inputs: Any) -> Iterator[Path]:
    """The files named by input specs, at any depth."""
    if isinstance(inputs, Mapping):
        path = inputs.get("path")
        if isinstance(path, str) and not is_url(path):
            yield Path(os.path.expanduser(path))  # noqa: PTH111  # pathlib raises on an unknown user
        yield from (found for value in inputs.values() for found in _paths(value))
    elif isinstance(inputs, Sequence) and not isinstance(inputs, str):
        yield from (found for value in inputs for found in _paths(value))
