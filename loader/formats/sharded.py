"""Checkpoints in several files with an index: sharded safetensors, and sharded files of `torch.save`.

Guarantees: opening one reads the index and each shard's own header, no tensor; the tree is what the shards hold, and
an index that says otherwise is refused, with everything that it gets wrong told at once; nothing outside the index's
folder is opened; each shard keeps every promise of its own format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import cached_repository, leads_out, shown_path
from ..text.lines import typed
from ..text.wording import counted, listing, phrases, safe_text
from . import names
from .index import read_index
from .opened import OpenedFile
from .several import SeveralFiles, digest_of, each, natural, refuse_links, refuse_missing
from .sniff import recognise
from .tree import Container, Node

_FORMAT_OF_SHARD: Mapping[str, str] = {
    names.SAFETENSORS: names.SAFETENSORS_SHARDED,
    names.TORCH_ZIP: names.TORCH_SHARDED,
    names.TORCH_LEGACY: names.TORCH_SHARDED,
}
_AGAIN = "download the index and all its shards again, from one and the same revision"


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
        outside = {name: real for name, path in paths.items() if (real := leads_out(path, folder))}
        refuse_links(outside, shown_path(index.path))
        if not index.remote:
            refuse_missing(index.path, paths, lambda missing: _download(folder, missing))
        self.files = each({name: name for name in paths}, lambda name: self._opened(name, stack))
        self.recognised = each(self.files, recognise)
        self.format = self._format()

    def open(self, check: str) -> SeveralFiles:
        """Reads the headers of all shards; takes `checkpoint.check`."""
        shards = each(self.recognised, lambda found: found.open(check))
        path = self.index.path
        root = _merged(path, self.places, shards, self.format)
        return SeveralFiles(path, self.format, root, shards, {path.name: self.index})

    def sha256(self) -> str:
        """Digest of the index and all shards.

        It is the digest of the text that `sha256sum INDEX SHARD…` prints in the index's folder: the index first, then
        the shards in natural order (2 before 10).
        """
        return digest_of({self.index.path.name: self.index, **self.files})

    def _opened(self, name: str, stack: ExitStack) -> CheckpointFile:
        file = self.index.beside(name)
        stack.callback(file.close)
        return file

    def _format(self) -> str:
        strange = [f"{name} ({f.format})" for name, f in self.recognised.items() if f.format not in _FORMAT_OF_SHARD]
        if strange:
            raise CheckpointError(
                f"{shown_path(self.index.path)} names shards of a format that no library splits: {listing(strange)}",
                _AGAIN,
            )
        by_format: dict[str, list[str]] = {}
        for name, found in self.recognised.items():
            by_format.setdefault(_FORMAT_OF_SHARD[found.format], []).append(name)
        if len(by_format) > 1:
            told = [f"{format} has {listing(names)}" for format, names in by_format.items()]
            raise CheckpointError(
                f"{shown_path(self.index.path)} names shards of different formats: {phrases(told)}", _AGAIN
            )
        return next(iter(by_format))


def _download(folder: Path, missing: list[str]) -> str:
    repository = cached_repository(folder)
    if repository:
        return typed("hf", "download", repository)
    names = [*missing[:5], "--local-dir", str(folder)]
    return typed("hf", "download", "ORGANISATION/MODEL", *names, note="or copy them")


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
    root.record = _notes([shard.root.record for shard in shards.values()])
    return root


def _notes(records: Sequence[object]) -> dict[str, object]:
    """The notes in the shards' headers that all of them agree on."""
    notes = [record if isinstance(record, dict) else {} for record in records]
    return {name: text for name, text in notes[0].items() if all(other.get(name) == text for other in notes)}


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
