"""Opens remote files: whole ones by way of the cache, or their headers alone.

Guarantees: without a digest a file from the cache is used only after the server said that it is unchanged; with one
that is in the cache the network is not used at all. When a header cannot be read alone, the log says that the file is
downloaded.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..errors import CheckpointError
from ..files.file import CheckpointFile
from ..files.path import CopyPath, natural
from ..formats.find import candidates
from ..formats.index import is_index_name, read_index
from ..formats.several import joint_digest
from ..text.lines import Fix
from .cache import Cache
from .download import fetch
from .headers import try_header
from .transport import Transport, Unreachable, patiently
from .urls import WEB, Url, changed_meanwhile, no_checkpoint_in

log = logging.getLogger(__name__)

INSTALL = Fix("pip install 'hydra-loader[remote]'")


class Source:
    """One remote checkpoint: the way to its files, opened when it is first needed, and where they are kept.

    Args:
        url: Where it is.
        cache: Where downloads are kept.
    """

    def __init__(self, url: Url, cache: Cache) -> None:
        self._url, self._cache = url, cache
        self._transport: Transport | None = None
        self._pinned: dict[Path, str] = {}

    @property
    def transport(self) -> Transport:
        """The way to the files."""
        if self._transport is None:
            self._transport = connect(self._url)
        return self._transport

    def find(self) -> Url:
        """The URL itself, or where it is that of a folder, of the one checkpoint in it."""
        if self.transport.last_held(self._url) is not None:
            return self._url
        names = patiently(self._url, lambda: self.transport.names(self._url))
        if names is None:
            return self._url
        chosen = self._url.below(choose(self._url, names))
        log.info("%s: %s is the checkpoint in it", self._url.shown, chosen.name)
        return chosen

    def whole(self, url: Url, path: Path, sha256: str | None = None) -> CheckpointFile:
        """Opens a file after it was downloaded, or found in the cache.

        Args:
            url: The file.
            path: Its place in the cache.
            sha256: The digest that it must have.
        """
        expected = self._pinned.get(path, sha256)
        if expected is None:
            held = self._held(url, path)
            if held is not None:
                return held
            found = fetch(url, self.transport, self._cache, None)
            return self._copy(url, path, found.digest, seen=found.seen)
        copy = self._intact(url, path, expected) or self._held_with(url, path, expected)
        if copy is not None:
            log.info("%s: taken from the cache by its sha256, without the network", url.shown)
            return copy
        fetch(url, self.transport, self._cache, expected)
        copy = self._intact(url, path, expected)
        if copy is None:
            raise changed_meanwhile(url)
        return copy

    def _intact(self, url: Url, path: Path, digest: str) -> CheckpointFile | None:
        """Opens the content with a digest, if it is in the cache: the digest is that of the opened file."""
        if not self._cache.has(digest):
            return None
        copy = self._copy(url, path, digest, seen=False)
        if copy.sha256() == digest:
            return copy
        copy.close()
        self._cache.drop(digest)
        return None

    def _held(self, url: Url, path: Path) -> RemoteCopy | None:
        """Opens the copy that another program keeps of the current version; without the network, of the last one."""
        last = self.transport.last_held(url)
        if last is None:
            return None
        try:
            version = self.transport.look(url)
            found = self.transport.held(url, version.tag)
        except Unreachable as error:
            log.warning("%s %s; its latest copy on this machine is used", url.shown, error.how)
            found = last
        else:
            if found is None or found.stat().st_size != version.size:
                return None
        log.info("%s: taken from %s", url.shown, found)
        return self._named(found, path, url, None)

    def _held_with(self, url: Url, path: Path, digest: str) -> RemoteCopy | None:
        """Opens the copy with a digest that another program keeps."""
        for found in (self.transport.held(url, digest), self.transport.last_held(url)):
            if found is not None:
                copy = self._named(found, path, url, None)
                if copy.sha256() == digest:
                    return copy
                copy.close()
        return None

    def _copy(self, url: Url, path: Path, digest: str, *, seen: bool) -> RemoteCopy:
        self._cache.put(path, digest)
        return self._named(self._cache.blob(digest), path, url, digest if seen else None)

    def _named(self, blob: Path, path: Path, url: Url, digest: str | None) -> RemoteCopy:
        blob, path = CopyPath.of(blob, url.shown), CopyPath.of(path, url.shown)
        return RemoteCopy(blob, path, url, self, digest)

    def pin(self, url: Url, sha256: str) -> None:
        """Takes the index of a URL and its shards from the cache alone, if all of them together have this digest."""
        for place in (self.place(url), self.transport.last_held(url)):
            digests = {} if place is None else _digests(place)
            if joint_digest(digests) == sha256:
                log.info("%s: taken from the cache by the sha256 of all its files, without the network", url.shown)
                folder = self.place(url).parent
                self._pinned = {folder / name: digest for name, digest in digests.items()}
                return

    def header(self, url: Url, path: Path) -> CheckpointFile:
        """Opens a file for its header alone where that can be, else as `whole` does."""
        path = CopyPath.of(path, url.shown)
        opened = self._held(url, path) or try_header(url, path, self.transport, partial(self._header_beside, url, path))
        if opened is not None:
            return opened
        log.info("%s: its header cannot be read alone, so all of it is downloaded", url.shown)
        return self.whole(url, path)

    def place(self, url: Url) -> Path:
        """Where a file belongs in the cache."""
        return self._cache.place(url)

    def close(self) -> None:
        """Ends the connections; what is opened later opens new ones."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _header_beside(self, url: Url, path: Path, name: str) -> CheckpointFile:
        return self.header(url.beside(name), path.parent / name)


class RemoteCopy(CheckpointFile):
    """A downloaded file: a file like any other, whose neighbours are still to be downloaded.

    Args:
        blob: Where its content is: nothing but this is ever opened.
        path: What it is called by, with its own name; who else writes there changes nothing.
        url: Where it is from.
        source: Downloads its neighbours.
        digest: Its digest, where its bytes went through it just now.
    """

    remote = True

    def __init__(self, blob: Path, path: Path, url: Url, source: Source, digest: str | None) -> None:
        super().__init__(blob)
        self.path, self.blob = path, blob
        self._url, self._source, self._seen = url, source, digest

    def beside(self, name: str) -> CheckpointFile:
        """Downloads another file of the same remote folder, and opens it."""
        return self._source.whole(self._url.beside(name), self.path.parent / name)

    def sha256(self) -> str:
        """Its digest, computed once."""
        if self._seen is None:
            self._seen = super().sha256()
        return self._seen

    def close(self) -> None:
        """Closes the file and the connections."""
        super().close()
        self._source.close()


def connect(url: Url) -> Transport:
    """Finds the way to a URL.

    Raises:
        CheckpointError: The package for it is not installed.
    """
    try:
        if url.scheme in WEB:
            from .web import WebTransport  # noqa: PLC0415  # only URLs need fsspec and aiohttp

            return WebTransport()
        if url.scheme == "hf":
            from .storage import HubTransport  # noqa: PLC0415  # only URLs need fsspec

            return HubTransport(url.scheme)
        from .storage import StorageTransport  # noqa: PLC0415  # only URLs need fsspec

        return StorageTransport(url.scheme)
    except ImportError as error:
        raise CheckpointError(
            f"reading {url.scheme}:// needs a package that is not installed ({error})", INSTALL
        ) from error


def _digests(path: Path) -> dict[str, str]:
    """The digests of an index and its shards, in the order of their joint one; none where not all of them are there."""
    found: dict[str, str] = {}
    with contextlib.suppress(CheckpointError), contextlib.closing(CheckpointFile(path)) as index:
        for name in (path.name, *sorted(set(read_index(index).values()), key=natural)):
            with contextlib.closing(CheckpointFile(path.parent / name)) as file:
                found[name] = file.sha256()
    return found


def is_set(url: Url) -> bool:
    """Whether `checkpoint.sha256` is the digest of several files, which only all of them together have."""
    return is_index_name(url.name)


def choose(url: Url, names: Sequence[str]) -> str:
    """Finds the name of the one checkpoint among a folder's files.

    Raises:
        CheckpointError: There is none, or there are several.
    """
    found = candidates(names, lambda _: names)  # what an index lists is known once it is downloaded
    if len(found) != 1:
        raise no_checkpoint_in(url, found)
    return found[0]
