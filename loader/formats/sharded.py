"""Checkpoints in several files with an index: sharded safetensors, and sharded files of `torch.save`.

Guarantees: opening one reads the index and each shard's own header, no tensor; the tree is what the shards hold, and
an index that says otherwise is refused, with everything that it gets wrong told at once; nothing outside the index's
folder is opened; each shard keeps every promise of its own format.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from loader.errors import CheckpointError
from loader.formats import safetensors, torch_legacy, torch_zip
from loader.formats.base import Container, Node, TensorEntry
from loader.formats.confine import cached_repository, leads_out
from loader.formats.file import CheckpointFile
from loader.formats.index import read_index
from loader.formats.opened import OpenedFile
from loader.formats.path import shown_path
from loader.formats.sniff import recognise
from loader.wording import counted, listing, phrases, safe_text

if TYPE_CHECKING:
    import torch

SAFETENSORS_SHARDED = "safetensors-sharded"
TORCH_SHARDED = "torch-sharded"
FORMATS = (SAFETENSORS_SHARDED, TORCH_SHARDED)
_FORMAT_OF_SHARD: Mapping[str, str] = {
    safetensors.FORMAT: SAFETENSORS_SHARDED,
    torch_zip.FORMAT: TORCH_SHARDED,
    torch_legacy.FORMAT: TORCH_SHARDED,
}
_AGAIN = "download the index and all its shards again, from one and the same revision"
_DIGITS = re.compile(r"([0-9]+)")
_T = TypeVar("_T")
_Result = TypeVar("_Result")


class Shards:
    """The files of a sharded checkpoint, opened and recognised; none of their headers is read yet.

    Args:
        index: The opened index.
        stack: Closes the shards when it unwinds.

    Raises:
        CheckpointError: The index is refused, or a shard is missing, leads out of the folder or is no checkpoint.
    """

    def __init__(self, index: CheckpointFile, stack: ExitStack) -> None:
        self.index = index
        self.places = read_index(index)
        folder = index.path.parent
        paths = {name: folder / name for name in sorted(set(self.places.values()), key=natural)}
        _refuse_links(index.path, paths)
        _refuse_missing(index.path, paths)
        self.files = _each(paths, lambda path: _opened(path, stack))
        self.recognised = _each(self.files, recognise)
        self.format = self._format()

    def open(self, check: str) -> ShardedCheckpoint:
        """Reads the headers of all shards; takes `checkpoint.check`."""
        shards = _each(self.recognised, lambda found: found.open(check))
        root = _merged(self.index.path, self.places, shards, self.format)
        return ShardedCheckpoint(self.index, self.format, root, shards)

    def sha256(self) -> str:
        """As `ShardedCheckpoint.sha256`."""
        return _digest(self.index, self.files)

    def _format(self) -> str:
        by_format: dict[str, list[str]] = {}
        for name, found in self.recognised.items():
            by_format.setdefault(_FORMAT_OF_SHARD[found.format], []).append(name)
        if len(by_format) > 1:
            told = [f"{format} has {listing(names)}" for format, names in by_format.items()]
            raise CheckpointError(
                f"{shown_path(self.index.path)} names shards of different formats: {phrases(told)}", _AGAIN
            )
        return next(iter(by_format))


class ShardedCheckpoint:
    """An index and its shards as one checkpoint.

    Args:
        index: The opened index.
        format: What its shards were recognised as.
        root: What all of them hold.
        shards: By name, in natural order.
    """

    def __init__(self, index: CheckpointFile, format: str, root: Container, shards: Mapping[str, OpenedFile]) -> None:
        self.path = index.path
        self.format = format
        self.root = root
        self.nbytes = index.size + sum(shard.nbytes for shard in shards.values())
        self._index = index
        self._shards = shards
        self._by_file = {id(shard.file): shard for shard in shards.values()}
        self._first = next(iter(shards.values()))
        self._digest: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def read(self, entry: TensorEntry, *, mmap: bool = True) -> torch.Tensor:
        """One tensor on the CPU, as its shard's reader gives it."""
        return self._shard_of(entry).read(entry, mmap=mmap)

    def verify(self, entries: Iterable[TensorEntry], *, mmap: bool = True) -> None:
        """Compares the checksums of the bytes that these tensors need.

        Raises:
            CheckpointError: Some bytes are not what was written; all damaged shards are named.
        """
        _each(self._by_shard(entries), lambda work: work[0].verify(work[1], mmap=mmap))

    def release(self, entry: TensorEntry) -> None:
        """Says that a mapped tensor is not looked at any more, and was not written to."""
        self._shard_of(entry).release(entry)

    def will_need(self, entries: Sequence[TensorEntry]) -> None:
        """Tells the system which bytes come next, so that it reads ahead."""
        for shard, own in self._by_shard(entries).values():
            shard.will_need(own)

    def check_unchanged(self) -> None:
        """Raises CheckpointError where the index or a shard changed since it was opened."""
        self._index.check_unchanged()
        _each(self._shards, lambda shard: shard.check_unchanged())

    def sha256(self) -> str:
        """Digest of all files, computed once.

        It is the digest of the text that `sha256sum INDEX SHARD…` prints in the index's folder: the index first, then
        the shards in natural order (2 before 10).
        """
        if self._digest is None:
            self._digest = _digest(self._index, {name: shard.file for name, shard in self._shards.items()})
        return self._digest

    def close(self) -> None:
        """Closes all files; tensors that were handed out stay valid."""
        self._index.close()
        for shard in self._shards.values():
            shard.close()

    def _shard_of(self, entry: TensorEntry) -> OpenedFile:
        # A tensor without bytes in a file (saved on meta, or kept in a pickle) is read alike by every shard.
        for storage in entry.storages():
            if storage.file is not None:
                return self._by_file[id(storage.file)]
        return self._first

    def _by_shard(self, entries: Iterable[TensorEntry]) -> dict[str, tuple[OpenedFile, list[TensorEntry]]]:
        sorted_out: dict[int, list[TensorEntry]] = {}
        for entry in entries:
            sorted_out.setdefault(id(self._shard_of(entry)), []).append(entry)
        return {name: (shard, sorted_out[id(shard)]) for name, shard in self._shards.items() if id(shard) in sorted_out}


def natural(name: str) -> list[tuple[int, str]]:
    """What to sort names by so that they stand as people count: 2 before 10."""
    pieces = _DIGITS.split(name)
    keys = [(0, piece) for piece in pieces]
    keys[1::2] = [(len(number), number) for number in (piece.lstrip("0") for piece in pieces[1::2])]
    return [*keys, (0, name)]


def _opened(path: Path, stack: ExitStack) -> CheckpointFile:
    file = CheckpointFile(path)
    stack.callback(file.close)
    return file


def _each(items: Mapping[str, _T], work: Callable[[_T], _Result]) -> dict[str, _Result]:
    """Does the same with every shard; what is wrong with several of them is told at once."""
    done: dict[str, _Result] = {}
    refused: list[CheckpointError] = []
    for name, item in items.items():
        try:
            done[name] = work(item)
        except CheckpointError as error:
            refused.append(error)
    if len(refused) == 1:
        raise refused[0]
    if refused:
        told = phrases(error.message for error in refused)
        raise CheckpointError(
            f"{len(refused):,} of {counted(len(items), 'shard')} are refused: {told}", refused[0].hint
        )
    return done


def _refuse_links(index: Path, paths: Mapping[str, Path]) -> None:
    folder = index.parent
    told = [
        f"{safe_text(name)} → {shown_path(real)}" for name, path in paths.items() if (real := leads_out(path, folder))
    ]
    if told:
        raise CheckpointError(
            f"{counted(len(told), 'shard')} of {shown_path(index)} would be read from outside its folder: "
            f"{phrases(told)}",
            "copy the shards into the folder, or move the index to where they are",
        )


def _refuse_missing(index: Path, paths: Mapping[str, Path]) -> None:
    missing = [name for name, path in paths.items() if not os.path.exists(path)]  # noqa: PTH110  # False for what is no path
    if not missing:
        return
    folder = shlex.quote(shown_path(index.parent))
    named = " ".join(shlex.quote(safe_text(name)) for name in missing[:5])
    repository = cached_repository(index.parent)
    hint = (
        f"hf download {shlex.quote(repository)}"
        if repository
        else f"hf download ORGANISATION/MODEL {named} --local-dir {folder}   # or copy them"
    )
    raise CheckpointError(
        f"{len(missing):,} of the {counted(len(paths), 'shard')} of {shown_path(index)} "
        f"{'is' if len(missing) == 1 else 'are'} not there: {listing(missing)}",
        hint,
    )


def _merged(index: Path, places: Mapping[str, str], shards: Mapping[str, OpenedFile], format: str) -> Container:
    """One tree over all shards, once it is known to be what the index says."""
    root = Container("dict", format)
    holders: dict[str, list[str]] = {}
    for name, shard in shards.items():
        children: Mapping[str, Node] = shard.root.children
        root.children.update(children)
        root.metadata.update(shard.root.metadata)
        for key in children:
            holders.setdefault(key, []).append(name)
    told = [*_lacking(places, holders), *_twice(holders), *_unlisted(places, holders)]
    if told:
        raise CheckpointError(f"{shown_path(index)} and its shards contradict each other: {'; '.join(told)}", _AGAIN)
    return root


def _lacking(places: Mapping[str, str], holders: Mapping[str, list[str]]) -> list[str]:
    lies = [key for key, shard in places.items() if shard not in holders.get(key, ())]
    if not lies:
        return []
    told = phrases(
        f"{safe_text(key)} (said to be in {safe_text(places[key])}; "
        f"{'it is in ' + listing(holders[key]) if key in holders else 'no shard has it'})"
        for key in lies
    )
    return [f"{counted(len(lies), 'tensor is', 'tensors are')} not where the index says: {told}"]


def _twice(holders: Mapping[str, list[str]]) -> list[str]:
    doubled = [key for key, names in holders.items() if len(names) > 1]
    if not doubled:
        return []
    told = phrases(f"{safe_text(key)} (in {listing(holders[key])})" for key in doubled)
    return [f"{counted(len(doubled), 'name stands', 'names stand')} in more than one shard: {told}"]


def _unlisted(places: Mapping[str, str], holders: Mapping[str, list[str]]) -> list[str]:
    unlisted = [key for key in holders if key not in places]
    if not unlisted:
        return []
    told = phrases(f"{safe_text(key)} (in {listing(holders[key])})" for key in unlisted)
    return [f"the index does not list {counted(len(unlisted), 'name')} that the shards hold: {told}"]


def _digest(index: CheckpointFile, files: Mapping[str, CheckpointFile]) -> str:
    digest = hashlib.sha256()
    for name, file in {index.path.name: index, **files}.items():
        digest.update(f"{file.sha256()}  {name}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
