"""Checkpoints in several files: those with an index, and what folders share with them.

Guarantees: each file keeps every promise of its own format; problems of several files are reported at once; a tensor
that lies in several files is read from all of them, piece by piece. Opening a sharded checkpoint reads the index and
each shard's own header, no tensor; the tree is what the shards hold, and an index that says otherwise is refused.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

from ..errors import CheckpointError
from ..files.file import CheckpointFile, read_ahead
from ..files.path import cached_repository, leads_out, natural, shown_path
from ..text.lines import Fix, typed
from ..text.wording import counted, listing, phrases, safe_text
from . import signatures
from .index import read_index
from .opened import Checkpoint, OpenedFile
from .sniff import recognise
from .tree import Container, Node, Storage, TensorEntry

_T = TypeVar("_T")
_Result = TypeVar("_Result")


class SeveralFiles(Checkpoint):
    """A checkpoint whose tensors lie in several files.

    Args:
        path: The folder, or the index.
        format: Its name in reports.
        root: The contents of all files.
        members: The files with tensors, by name below the folder, in natural order.
        indexes: The index files by name; they come first in the digest.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        root: Container,
        members: Mapping[str, OpenedFile],
        indexes: Mapping[str, CheckpointFile],
    ) -> None:
        files = (*indexes.values(), *(member.file for member in members.values()))
        super().__init__(path, format, root, sum(file.size for file in files))
        self._files = files
        self._indexes = indexes
        self._members = members
        self._by_file = {id(member.file): name for name, member in members.items()}

    def verify(self, entries: Iterable[TensorEntry], *, mmap: bool = True) -> None:
        """Compares the checksums of the bytes that these tensors need, in all files; every damaged one is named."""
        each(self._by_member(entries), lambda work: work[0].verify(work[1], mmap=mmap))

    def will_need(self, entries: Sequence[TensorEntry]) -> None:
        """Makes the system read ahead in all files, one after the other."""
        read_ahead((member.file, member.ranges(own)) for member, own in self._by_member(entries).values())

    def check_unchanged(self) -> None:
        """Raises CheckpointError if an index or another file changed since it was opened."""
        for file in self._indexes.values():
            file.check_unchanged()
        each(self._members, lambda member: member.check_unchanged())

    def digest(self) -> str:
        """The digest of `digest_of`."""
        return digest_of({**self._indexes, **{name: member.file for name, member in self._members.items()}})

    @property
    def files(self) -> Sequence[CheckpointFile]:
        """The indexes and the other files."""
        return self._files

    def close(self) -> None:
        """Closes all files."""
        for file in self._indexes.values():
            file.close()
        for member in self._members.values():
            member.close()

    def inflate(self, storage: Storage) -> Iterator[bytes]:
        """Unpacks a deflated storage piece by piece, in its file."""
        return self._members[self._by_file[id(storage.file)]].inflate(storage)

    def _by_member(self, entries: Iterable[TensorEntry]) -> dict[str, tuple[OpenedFile, list[TensorEntry]]]:
        found: dict[str, list[TensorEntry]] = {}
        for entry in map(self.located, entries):
            # A tensor without bytes in a file (saved on meta, or inside a pickle) belongs to no member.
            for name in {self._by_file[id(s.file)]: None for s in entry.storages() if s.file is not None}:
                found.setdefault(name, []).append(entry)
        return {name: (member, found[name]) for name, member in self._members.items() if name in found}


def digest_of(files: Mapping[str, CheckpointFile]) -> str:
    """Digest of several files: that of the output of `sha256sum NAME…` in their folder."""
    return joint_digest({name: file.sha256() for name, file in files.items()})


def joint_digest(digests: Mapping[str, str]) -> str:
    """The same for files whose own digests are known."""
    lines = (f"{digest}  {name}\n" for name, digest in digests.items())
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def opened(path: Path, stack: ExitStack) -> CheckpointFile:
    """Opens a file, which the stack closes."""
    file = CheckpointFile(path)
    stack.callback(file.close)
    return file


def each(items: Mapping[str, _T], work: Callable[[_T], _Result], noun: str = "shard") -> dict[str, _Result]:
    """Applies a function to every file; the refusals of several are reported together."""
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
        messages = phrases(error.message for error in refused)
        raise CheckpointError(
            f"{len(refused):,} of {counted(len(items), noun)} are refused: {messages}", *refused[0].fixes
        )
    return done


def refuse_links(links: Mapping[str, Path], owner: str) -> None:
    """Raises CheckpointError if links of a checkpoint lead outside its folder.

    Args:
        links: The real path of each such file, by name.
        owner: The file that names them, for the message.
    """
    if links:
        targets = phrases(f"{safe_text(name)} → {shown_path(real)}" for name, real in links.items())
        raise CheckpointError(
            f"{counted(len(links), 'shard')} of {owner} would be read from outside its folder: {targets}",
            Fix(note="copy the shards into the folder, or move the index to where they are"),
        )


def refuse_missing(index: Path, paths: Mapping[str, Path], fix: Callable[[list[str]], Fix]) -> None:
    """Raises CheckpointError if files that an index names are missing; all are named.

    Args:
        index: The index.
        paths: The path of each file, by name.
        fix: Returns the fix for the missing names.
    """
    missing = [name for name, path in paths.items() if not os.path.exists(path) and not _is_circle(path)]  # noqa: PTH110  # False for an invalid path
    if missing:
        raise CheckpointError(
            f"{len(missing):,} of the {counted(len(paths), 'shard')} of {shown_path(index)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: {listing(missing)}",
            fix(missing),
        )


def _is_circle(path: Path) -> bool:
    """Whether a path is a link that leads to itself, which opening it reports."""
    try:
        path.stat()
    except OSError as error:
        return error.errno == errno.ELOOP
    except ValueError:
        return False  # an invalid path
    return False


_FORMAT_OF_SHARD: Mapping[str, str] = {
    signatures.SAFETENSORS: signatures.SAFETENSORS_SHARDED,
    signatures.TORCH_ZIP: signatures.TORCH_SHARDED,
    signatures.TORCH_LEGACY: signatures.TORCH_SHARDED,
}
_AGAIN = Fix(note="download the index and all its shards again, from one and the same revision")


class Shards:
    """The files of a sharded checkpoint, opened and recognized; none of their headers is read yet.

    Args:
        index: The opened index.
        stack: Closes the shards when it unwinds.

    Raises:
        CheckpointError: The index is refused, or a shard is missing, outside the folder or not a checkpoint.
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
        """Digest of the output of `sha256sum INDEX SHARD…` in the index's folder, shards in natural order."""
        return digest_of({self.index.path.name: self.index, **self.files})

    def _opened(self, name: str, stack: ExitStack) -> CheckpointFile:
        file = self.index.sibling(name)
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
            shares = [f"{format} has {listing(names)}" for format, names in by_format.items()]
            raise CheckpointError(
                f"{shown_path(self.index.path)} names shards of different formats: {phrases(shares)}", _AGAIN
            )
        return next(iter(by_format))


def _download(folder: Path, missing: list[str]) -> Fix:
    repository = cached_repository(folder)
    if repository:
        return typed("hf", "download", repository)
    names = [*missing[:5], "--local-dir", str(folder)]
    return typed("hf", "download", "ORGANIZATION/MODEL", *names, note="or copy them")


def _merged(index: Path, places: Mapping[str, str], shards: Mapping[str, OpenedFile], format: str) -> Container:
    """One tree over all shards, which must be what the index says."""
    root = Container("dict", format)
    holders: dict[str, list[str]] = {}
    for name, shard in shards.items():
        children: Mapping[str, Node] = shard.root.children
        root.children.update(children)
        root.metadata.update(shard.root.metadata)
        for key in children:
            holders.setdefault(key, []).append(name)
    faults = list(_contradictions(places, holders))
    if faults:
        raise CheckpointError(f"{shown_path(index)} and its shards contradict each other: {'; '.join(faults)}", _AGAIN)
    root.record = _notes([shard.root.record for shard in shards.values()])
    return root


def _notes(records: Sequence[object]) -> dict[str, object]:
    """The notes that are the same in the headers of all shards."""
    notes = [record if isinstance(record, dict) else {} for record in records]
    return {name: text for name, text in notes[0].items() if all(other.get(name) == text for other in notes)}


def _contradictions(places: Mapping[str, str], holders: Mapping[str, list[str]]) -> Iterator[str]:
    """What an index says wrongly: `places` is the shard of each key there, `holders` the shards that really hold it."""
    missing = [
        f"{safe_text(key)} (said to be in {safe_text(shard)}; "
        f"{'it is in ' + listing(holders[key]) if key in holders else 'no shard has it'})"
        for key, shard in places.items()
        if shard not in holders.get(key, ())
    ]
    if missing:
        yield f"{counted(len(missing), 'tensor is', 'tensors are')} not where the index says: {phrases(missing)}"
    named = {key: f"{safe_text(key)} (in {listing(names)})" for key, names in holders.items()}
    doubled = [named[key] for key, names in holders.items() if len(names) > 1]
    if doubled:
        yield f"{counted(len(doubled), 'name appears', 'names appear')} in more than one shard: {phrases(doubled)}"
    unlisted = [named[key] for key in holders if key not in places]
    if unlisted:
        yield f"the index does not list {counted(len(unlisted), 'name')} that the shards hold: {phrases(unlisted)}"
