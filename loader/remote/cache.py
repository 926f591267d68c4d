"""Where downloads are kept.

    blobs/DIGEST          a file by the sha256 of its content, read-only
    urls/KEY.json         which digest a URL had, and how to tell that it still has
    files/FOLDER/NAME     the same file (a hard link) under its own name, shards beside their index
    partial/KEY           a download that is not complete, with its version beside it

Guarantees: a blob appears as a whole or not at all, and only under the digest of what is in it; processes that want
the same URL wait for each other; nothing in here holds credentials. All of it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loader.errors import CheckpointError
from loader.formats.path import shown_path
from loader.remote.transport import Version
from loader.remote.urls import Url
from loader.whole import write_whole
from loader.wording import size

log = logging.getLogger(__name__)

VARIABLE = "LOADER_CACHE"
_PRIVATE = 0o700
_READ_ONLY = 0o444
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def cache_folder() -> Path:
    """``$LOADER_CACHE``, else ``hydra-loader`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "hydra-loader"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of a URL."""

    digest: str
    version: Version


class Cache:
    """The downloads on this machine.

    Args:
        root: Their folder; made when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob(self, digest: str) -> Path:
        """Where the content with a digest is, or would be."""
        return self.root / "blobs" / digest

    def holds(self, digest: str) -> bool:
        """Whether the content with a digest is here; content that was damaged since is deleted."""
        path = self.blob(digest)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            intact = hashlib.file_digest(file, "sha256").hexdigest() == digest
        if not intact:
            log.warning("%s was damaged, and is deleted", path)
            path.unlink(missing_ok=True)
        return intact

    def entry(self, url: Url) -> Entry | None:
        """What a URL held when it was downloaded, if that is still here."""
        noted = _read_json(self._note(url))
        digest, length, tag = noted.get("sha256"), noted.get("size"), noted.get("tag")
        if not isinstance(digest, str) or not _is_digest(digest) or not isinstance(length, int):
            return None
        with contextlib.suppress(OSError):
            if self.blob(digest).stat().st_size == length:
                return Entry(digest, Version(length, str(tag or "")))
        return None

    def place(self, url: Url) -> Path:
        """Where the file of a URL is to be found under its own name."""
        return self.root / "files" / url.folder_key / url.name

    def put(self, path: Path, digest: str) -> Path:
        """Puts a blob at a place."""
        blob = self.blob(digest)
        with self.writing():
            with contextlib.suppress(OSError):
                if path.samefile(blob):
                    return path
            path.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            draft = path.with_name(f".{os.getpid()}.{digest[:16]}")
            draft.unlink(missing_ok=True)
            try:
                draft.hardlink_to(blob)
            except OSError as error:
                log.info("%s: copied, as no hard link can be made (%s)", path, error.strerror)
                shutil.copyfile(blob, draft)
            draft.replace(path)
        return path

    def partial(self, url: Url) -> Path:
        """The download of a URL that is not complete."""
        return self.root / "partial" / url.key

    def partial_tag(self, url: Url) -> str:
        """The version that the incomplete download is of; empty where there is none, or it cannot be told."""
        return str(_read_json(self._partial_note(url)).get("tag") or "") if self.partial(url).is_file() else ""

    def note_partial(self, url: Url, version: Version) -> None:
        """Says which version an incomplete download is of."""
        _write_json(self._partial_note(url), {"url": url.shown, "tag": version.tag, "size": version.size})

    def drop_partial(self, url: Url) -> None:
        """Forgets an incomplete download."""
        self.partial(url).unlink(missing_ok=True)
        self._partial_note(url).unlink(missing_ok=True)

    def keep(self, url: Url, digest: str, version: Version) -> None:
        """Makes a complete download a blob, and notes that the URL holds it."""
        partial, blob = self.partial(url), self.blob(digest)
        with self.writing():
            length = partial.stat().st_size
            _sync(partial)
            partial.chmod(_READ_ONLY)
            blob.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            partial.replace(blob)
            self._partial_note(url).unlink(missing_ok=True)
            _write_json(self._note(url), {"url": url.shown, "sha256": digest, "size": length, "tag": version.tag})

    @contextmanager
    def lock(self, url: Url) -> Iterator[None]:
        """Keeps other processes and threads from the same URL meanwhile."""
        with self.writing():
            self.root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            path = self.root / "locks" / url.key
            path.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            with self.writing():
                _wait_for(descriptor, url)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turns what goes wrong with the disk into sentences."""
        try:
            yield
        except OSError as error:
            raise self._not_writable(error) from error

    def refuse_too_large(self, url: Url, needed: int) -> None:
        """Raises CheckpointError where a download would not fit on the disk."""
        with self.writing():
            self.root.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
            free = shutil.disk_usage(self.root).free
        if needed > free:
            raise CheckpointError(
                f"{url.shown} needs {size(needed)} more in the cache {shown_path(self.root)}, "
                f"where {size(free)} are free",
                f"{VARIABLE}=FOLDER   # on a larger disk, or delete what is not needed from the cache",
            )

    def _not_writable(self, error: OSError) -> CheckpointError:
        where = shown_path(self.root)
        if error.errno in _FULL:
            return CheckpointError(
                f"the disk is full: the cache {where} takes no more ({error.strerror})",
                f"{VARIABLE}=FOLDER   # on a larger disk, or delete what is not needed from the cache",
            )
        return CheckpointError(
            f"the cache {where} cannot be written to: {error.strerror}",
            f"{VARIABLE}=FOLDER   # one that this user may write to",
        )

    def _note(self, url: Url) -> Path:
        return self.root / "urls" / f"{url.key}.json"

    def _partial_note(self, url: Url) -> Path:
        return self.root / "partial" / f"{url.key}.json"


def _sync(path: Path) -> None:
    """A file that is called by its digest must not turn out empty after the power failed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, url: Url) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        log.info("%s: another process is downloading it; waiting", url.shown)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _read_json(path: Path) -> dict[str, Any]:
    """A note; one that is not there or not whole says nothing, and what it would have said is found out anew."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=_PRIVATE)
    write_whole(path, f"{json.dumps(content)}\n".encode())
