"""Where downloads are kept.

    blobs/DIGEST          a file by the sha256 of its content, read-only
    urls/KEY.json         which digest a URL had, and how to tell that it still has
    files/FOLDER/NAME     the same file (a hard link) under its own name, shards next to their index
    partial/KEY           a download that is not complete, with its version next to it

Guarantees: a blob appears as a whole or not at all, and only under the digest of what is in it; processes that want
the same URL wait for each other; nothing in here holds credentials; no link in here is followed; whatever is wrong with
the folder is a `CheckpointError`. All of it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..errors import CheckpointError
from ..files.descriptors import SAFE_FLAGS
from ..files.path import shown_path
from ..files.write import wait_for_lock, write_whole
from ..text.lines import Fix
from ..text.wording import size
from .transport import Version
from .urls import Url

log = logging.getLogger(__name__)

VARIABLE = "LOADER_CACHE"
_FLAGS = SAFE_FLAGS | getattr(os, "O_NOFOLLOW", 0)
_FOLDER, _FILE, _READ_ONLY = 0o700, 0o600, 0o444
_LARGEST_NOTE = 1 << 20
_RESERVE, _SHARE = 1 << 30, 100
"""Bytes of the disk that no download takes: at most so many, and at most one part in so many."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


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

    def has(self, digest: str) -> bool:
        """Whether content is here under a digest; who reads it finds out whether it is still right."""
        with self.using("read"):
            return _is_file(self.blob(digest))

    def drop(self, digest: str) -> None:
        """Deletes content that was damaged."""
        log.warning("%s was damaged, and is deleted", self.blob(digest))
        with self.using():
            self.blob(digest).unlink(missing_ok=True)

    def entry(self, url: Url) -> Entry | None:
        """What a URL held when it was downloaded, if that is still here."""
        noted = _read_json(self._note(url))
        digest, length, tag = noted.get("sha256"), noted.get("size"), noted.get("tag")
        if not isinstance(digest, str) or not _is_digest(digest) or not isinstance(length, int):
            return None
        blob = self.blob(digest)
        with self.using("read"):
            there = _is_file(blob) and blob.stat().st_size == length
        return Entry(digest, Version(length, str(tag or ""))) if there else None

    def place(self, url: Url) -> Path:
        """Where the file of a URL is to be found under its own name, or if that is harmful under one of its own."""
        return self.root / "files" / url.folder_key / (url.own_name or f"{url.name}-{url.key}")

    def put(self, path: Path, digest: str) -> None:
        """Gives a blob its own name, for people and for neighbours; what is read is the blob."""
        blob = self.blob(digest)
        with self.using():
            if _is_file(path) and path.samefile(blob):
                return
            draft = make_folder(self.root, path.parent) / f".{secrets.token_hex(8)}"
            try:
                draft.hardlink_to(blob)
            except OSError as error:
                log.info("%s: copied, as no hard link can be made (%s)", path, error.strerror)
                shutil.copyfile(blob, draft)
            draft.replace(path)
            draft.unlink(missing_ok=True)  # where both were the same file already, nothing was replaced

    def partial(self, url: Url) -> Path:
        """The download of a URL that is not complete."""
        return self.root / "partial" / url.key

    def partial_tag(self, url: Url) -> str:
        """The version that the incomplete download is of; empty where there is none, or it cannot be told."""
        return str(_read_json(self._partial_note(url)).get("tag") or "") if self.partial(url).is_file() else ""

    def note_partial(self, url: Url, version: Version) -> None:
        """Says which version an incomplete download is of."""
        self._write(self._partial_note(url), {"url": url.shown, "tag": version.tag, "size": version.size})

    def drop_partial(self, url: Url) -> None:
        """Forgets an incomplete download."""
        with self.using():
            self.partial(url).unlink(missing_ok=True)
            self._partial_note(url).unlink(missing_ok=True)

    def open_partial(self, url: Url, tag: str) -> IO[bytes]:
        """Opens the incomplete download of a version, empty where there is none that can be gone on with.

        What is written is put behind what is there; reading begins at the beginning.
        """
        with self.using():
            path = make_folder(self.root, self.partial(url).parent) / url.key
            flags = os.O_RDWR | os.O_APPEND
            if tag and self.partial_tag(url) == tag:
                with contextlib.suppress(OSError):
                    return os.fdopen(open_regular(path, flags), "r+b")
            self.drop_partial(url)
            return os.fdopen(open_regular(path, flags | os.O_CREAT | os.O_EXCL), "r+b")

    def keep(self, url: Url, digest: str, version: Version, file: IO[bytes]) -> None:
        """Makes a complete download a blob, and notes that the URL holds it.

        Args:
            url: What was downloaded.
            digest: Of what is in the file.
            version: Which version of the URL that is.
            file: As `open_partial` gave it; it is closed.
        """
        partial, blob = self.partial(url), self.blob(digest)
        with self.using():
            file.flush()
            os.fsync(file.fileno())  # what is called by its digest must not turn out empty after the power failed
            length = os.fstat(file.fileno()).st_size
            make_read_only(file.fileno())
            file.close()  # Windows renames no file that is open
            make_folder(self.root, blob.parent)
            partial.replace(blob)
            self._partial_note(url).unlink(missing_ok=True)
            self._write(self._note(url), {"url": url.shown, "sha256": digest, "size": length, "tag": version.tag})

    @contextmanager
    def lock(self, url: Url) -> Iterator[None]:
        """Keeps other processes and threads from the same URL meanwhile."""
        with self.using():
            path = make_folder(self.root, self.root / "locks") / url.key
            descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
        try:
            with self.using():
                said = partial(log.info, "%s: another process is downloading it; waiting", url.shown)
                if not wait_for_lock(descriptor, said):
                    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def using(self, how: str = "written to") -> Iterator[None]:
        """Turns what goes wrong with the folder or its disk into sentences."""
        try:
            yield
        except OSError as error:
            raise self._not_usable(error, how) from error

    def refuse_too_large(self, url: Url, needed: int) -> None:
        """Raises CheckpointError where a download would not leave the disk its reserve."""
        with self.using():
            make_root(self.root)
            disk = shutil.disk_usage(self.root)
        reserve = min(_RESERVE, disk.total // _SHARE)
        if needed + reserve > disk.free:
            raise CheckpointError(
                f"{url.shown} needs {size(needed)} more in the cache {shown_path(self.root)}, "
                f"where {size(disk.free)} are free, and {size(reserve)} stay so",
                Fix(f"{VARIABLE}=FOLDER", "on a larger disk, or delete what is not needed from the cache"),
            )

    def _not_usable(self, error: OSError, how: str) -> CheckpointError:
        where = shown_path(self.root)
        if error.errno in _FULL:
            return CheckpointError(
                f"the disk is full: the cache {where} takes no more ({error.strerror})",
                Fix(f"{VARIABLE}=FOLDER", "on a larger disk, or delete what is not needed from the cache"),
            )
        return CheckpointError(
            f"the cache {where} cannot be {how}: {error.strerror}",
            Fix(f"{VARIABLE}=FOLDER", "one that this user may write to"),
        )

    def _write(self, path: Path, content: dict[str, Any]) -> None:
        make_folder(self.root, path.parent)
        write_whole(path, f"{json.dumps(content)}\n".encode())

    def _note(self, url: Url) -> Path:
        return self.root / "urls" / f"{url.key}.json"

    def _partial_note(self, url: Url) -> Path:
        return self.root / "partial" / f"{url.key}.json"


def _is_digest(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _is_file(path: Path) -> bool:
    """Whether a regular file stands there; a link is none."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _read_json(path: Path) -> dict[str, Any]:
    """A note; one that is not there or not whole says nothing, and what it would have said is found out anew."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            found = json.loads(file.read(_LARGEST_NOTE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def make_root(root: Path) -> None:
    """Makes a folder, and those above it that are not there; raises OSError where something else stands there."""
    missing = []
    path = root
    while not os.path.lexists(path):
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        with suppress(FileExistsError):
            folder.mkdir(_FOLDER)
    if not root.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(root))


def make_folder(root: Path, path: Path) -> Path:
    """Makes a folder below a root, and the root; raises OSError where a link or something else stands on the way."""
    make_root(root)
    folder = root
    for name in path.relative_to(root).parts:
        folder /= name
        with suppress(FileExistsError):
            folder.mkdir(_FOLDER)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{name} in it is a link, or something else than a folder")
    return path


def open_regular(path: Path, flags: int) -> int:
    """Opens a regular file; raises OSError where a link or something else stands there.

    One that is opened for writing has no second name either: what is written would change another file.
    """
    descriptor = os.open(path, flags | _FLAGS, _FILE)
    status = os.fstat(descriptor)
    writing = flags & (os.O_WRONLY | os.O_RDWR)
    if stat.S_ISREG(status.st_mode) and not (writing and status.st_nlink > 1):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ELOOP, f"{path.name} in it is a link, or something else than a file")


def make_read_only(descriptor: int) -> None:
    """Takes the right to write to an open file away, where its owner may replace and delete it all the same."""
    if hasattr(os, "geteuid"):  # Windows neither replaces nor deletes a read-only file
        os.chmod(descriptor, _READ_ONLY)
