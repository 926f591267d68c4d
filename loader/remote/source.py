"""Opens remote files: complete ones from the cache, or their headers only.

Guarantees: without a digest, a cached file is used only after the server confirmed that it is unchanged; with the
digest of a cached file, the network is not used at all. Files in the cache of the Hub's own library count as cached;
without network access the latest of them is used, and the log says so, as it does when a file is downloaded because its
header cannot be read separately.
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
from .transport import Transport, Unreachable, with_retries
from .urls import WEB, Url, changed_meanwhile, no_checkpoint_in

log = logging.getLogger(__name__)

INSTALL = Fix("pip install 'hydra-loader[remote]'")


class Source:
    """One remote checkpoint: a connection, opened when first needed, and the cache.

    Args:
        url: The URL of the checkpoint.
        cache: The cache of downloads.
    """

    def __init__(self, url: Url, cache: Cache) -> None:
        self._url, self._cache = url, cache
        self._transport: Transport | None = None
        self._pinned: dict[Path, str] = {}

    @property
    def transport(self) -> Transport:
        """The connection to the files."""
        if self._transport is None:
            self._transport = connect(self._url)
        return self._transport

    def find(self) -> Url:
        """The URL of the checkpoint: this one, or that of the one checkpoint in the folder."""
        if self.transport.latest_copy(self._url) is not None:
            return self._url
        names = with_retries(self._url, lambda: self.transport.names(self._url))
        if names is None:
            return self._url
        chosen = self._url.below(choose(self._url, names))
        log.info("%s: %s is the checkpoint in it", self._url.shown, chosen.name)
        return chosen

    def download(self, url: Url, path: Path, sha256: str | None = None) -> CheckpointFile:
        """Opens a file from the cache, downloaded if necessary.

        Args:
            url: The file.
            path: Its path in the cache.
            sha256: The required digest.
        """
        expected = self._pinned.get(path, sha256)
        if expected is None:
            held = self._copied_elsewhere(url, path)
            if held is not None:
                return held
            found = fetch(url, self.transport, self._cache, None)
            return self._copy(url, path, found.digest, seen=found.seen)
        copy = self._intact(url, path, expected) or self._copied_elsewhere_with(url, path, expected)
        if copy is not None:
            log.info("%s: taken from the cache by its sha256, without network access", url.shown)
            return copy
        fetch(url, self.transport, self._cache, expected)
        copy = self._intact(url, path, expected)
        if copy is None:
            raise changed_meanwhile(url)
        return copy

    def _intact(self, url: Url, path: Path, digest: str) -> CheckpointFile | None:
        """Opens the cached content with a digest, which is computed from the opened file."""
        if not self._cache.has(digest):
            return None
        copy = self._copy(url, path, digest, seen=False)
        if copy.sha256() == digest:
            return copy
        copy.close()
        self._cache.drop(digest)
        return None

    def _copied_elsewhere(self, url: Url, path: Path) -> RemoteCopy | None:
        """Opens the current version from another program's cache; without network access, the latest one there."""
        last = self.transport.latest_copy(url)
        if last is None:
            return None
        try:
            version = self.transport.look(url)
            found = self.transport.version_copy(url, version.tag)
        except Unreachable as error:
            log.warning("%s %s; its latest copy on this machine is used", url.shown, error.how)
            found = last
        else:
            if found is None or found.stat().st_size != version.size:
                return None
        log.info("%s: taken from %s", url.shown, found)
        return self._named(found, path, url, None)

    def _copied_elsewhere_with(self, url: Url, path: Path, digest: str) -> RemoteCopy | None:
        """Opens the file with a digest from another program's cache."""
        for found in (self.transport.version_copy(url, digest), self.transport.latest_copy(url)):
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
        """Uses only cached files for an index and its shards, if all of them together have this digest."""
        digests = _digests(self.place(url))
        if joint_digest(digests) != sha256:
            latest = self.transport.latest_copy(url)
            digests = {} if latest is None else _digests(latest)
        if joint_digest(digests) == sha256:
            log.info("%s: taken from the cache by the sha256 of all its files, without network access", url.shown)
            folder = self.place(url).parent
            self._pinned = {folder / name: digest for name, digest in digests.items()}

    def header(self, url: Url, path: Path) -> CheckpointFile:
        """Opens a file for its header only if possible, else completely."""
        path = CopyPath.of(path, url.shown)
        opened = self._copied_elsewhere(url, path) or try_header(
            url, path, self.transport, partial(self._sibling_header, url, path)
        )
        if opened is not None:
            return opened
        log.info("%s: its header cannot be read separately, so the whole file is downloaded", url.shown)
        return self.download(url, path)

    def place(self, url: Url) -> Path:
        """The path of a file in the cache."""
        return self._cache.place(url)

    def close(self) -> None:
        """Closes the connections; later requests open new ones."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _sibling_header(self, url: Url, path: Path, name: str) -> CheckpointFile:
        return self.header(url.sibling(name), path.parent / name)


class RemoteCopy(CheckpointFile):
    """A downloaded file, whose neighbors may have to be downloaded.

    Args:
        blob: Its content: the only path that is opened.
        path: Its path in the cache, under its own name.
        url: Its URL.
        source: Downloads its neighbors.
        digest: Its digest, if computed during the download.
    """

    remote = True

    def __init__(self, blob: Path, path: Path, url: Url, source: Source, digest: str | None) -> None:
        super().__init__(blob)
        self.path, self.blob = path, blob
        self._url, self._source, self._seen = url, source, digest

    def sibling(self, name: str) -> CheckpointFile:
        """Opens another file of the same remote folder, downloaded if necessary."""
        return self._source.download(self._url.sibling(name), self.path.parent / name)

    def sha256(self) -> str:
        """The digest, computed once."""
        if self._seen is None:
            self._seen = super().sha256()
        return self._seen

    def close(self) -> None:
        """Closes the file and the connections."""
        super().close()
        self._source.close()


def connect(url: Url) -> Transport:
    """Returns the transport for a URL's protocol.

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
    """The digests of an index and its shards, in the order of the joint digest; empty if one is missing."""
    found: dict[str, str] = {}
    with contextlib.suppress(CheckpointError), contextlib.closing(CheckpointFile(path)) as index:
        for name in (path.name, *sorted(set(read_index(index).values()), key=natural)):
            with contextlib.closing(CheckpointFile(path.parent / name)) as file:
                found[name] = file.sha256()
    return found


def is_set(url: Url) -> bool:
    """Whether `checkpoint.sha256` is the joint digest of several files."""
    return is_index_name(url.name)


def choose(url: Url, names: Sequence[str]) -> str:
    """Returns the name of the one checkpoint among a folder's files.

    Raises:
        CheckpointError: There is none, or more than one.
    """
    found = candidates(names, lambda _: names)  # the shards of an index are known once it is downloaded
    if len(found) != 1:
        raise no_checkpoint_in(url, found)
    return found[0]
