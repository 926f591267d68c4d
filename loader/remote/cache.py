"""The cache of downloads.

    blobs/DIGEST          a file named by the sha256 of its content, read-only
    urls/KEY.json         the digest and version that a URL had
    files/FOLDER/NAME     the same file (a hard link) under its own name, shards next to their index
    partial/KEY           an incomplete download, its version next to it

Guarantees: a blob is written atomically, and only under the digest of its content; processes that need the same URL
wait for each other; no file contains credentials; links are not followed; every folder that is made is for this user
alone, whatever the umask; all problems with the folder are raised as `CheckpointError`. The cache may be deleted at any
time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
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
from ..files.write import draft_of, wait_for_lock, write_whole
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
"""Bytes of the disk that stay free: at most this many, and at most this fraction (one in …) of the disk."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True)
class Entry:
    """The content that a URL had when it was downloaded."""

    digest: str
    version: Version


class Cache:
    """The downloads on this machine.

    Args:
        root: Its folder; created on the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob(self, digest: str) -> Path:
        """The path of the content with a digest, present or not."""
        return self.root / "blobs" / digest

    def has(self, digest: str) -> bool:
        """Whether there is content under a digest; the reader checks that it still matches."""
        with self.using("read"):
            return _is_file(self.blob(digest))

    def drop(self, digest: str) -> None:
        """Deletes damaged content."""
        log.warning("%s is damaged and is deleted", self.blob(digest))
        with self.using():
            self.blob(digest).unlink(missing_ok=True)

    def entry(self, url: Url) -> Entry | None:
        """The content that a URL had when it was downloaded, if it is still cached."""
        noted = _read_json(self._note(url))
        digest, length, tag = noted.get("sha256"), noted.get("size"), noted.get("tag")
        if not isinstance(digest, str) or not _is_digest(digest) or not isinstance(length, int):
            return None
        blob = self.blob(digest)
        with self.using("read"):
            there = _is_file(blob) and blob.stat().st_size == length
        return Entry(digest, Version(length, str(tag or ""))) if there else None

    def place(self, url: Url) -> Path:
        """The path of a URL's file under its own name, or under a generated one if its own is not safe."""
        return self.root / "files" / url.folder_key / (url.own_name or f"{url.name}-{url.key}")

    def put(self, path: Path, digest: str) -> None:
        """Links a blob under its own name, for people and for shards; the loader itself reads the blob."""
        blob = self.blob(digest)
        with self.using():
            if _is_file(path) and path.samefile(blob):
                return
            make_folder(self.root, path.parent)
            with draft_of(path) as draft:
                try:
                    draft.hardlink_to(blob)
                except OSError as error:
                    log.info("%s: copied, since a hard link failed (%s)", path, error.strerror)
                    shutil.copyfile(blob, draft)

    def partial(self, url: Url) -> Path:
        """The path of the incomplete download of a URL."""
        return self.root / "partial" / url.key

    def partial_tag(self, url: Url) -> str:
        """The version of the incomplete download; empty if there is none or its version is unknown."""
        return str(_read_json(self._partial_note(url)).get("tag") or "") if self.partial(url).is_file() else ""

    def note_partial(self, url: Url, version: Version) -> None:
        """Records the version of an incomplete download."""
        self._write(self._partial_note(url), {"url": url.shown, "tag": version.tag, "size": version.size})

    def drop_partial(self, url: Url) -> None:
        """Deletes an incomplete download."""
        with self.using():
            self.partial(url).unlink(missing_ok=True)
            self._partial_note(url).unlink(missing_ok=True)

    def open_partial(self, url: Url, tag: str) -> IO[bytes]:
        """Opens the incomplete download of a version, or an empty file if there is none to resume.

        Writes append; reads begin at the start.
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
        """Turns a complete download into a blob and records it for the URL.

        Args:
            url: The URL that was downloaded.
            digest: The digest of the file's content.
            version: Its version at the URL.
            file: The file from `open_partial`; it is closed.
        """
        partial, blob = self.partial(url), self.blob(digest)
        with self.using():
            file.flush()
            os.fsync(file.fileno())  # a blob must not be empty after a power failure
            length = os.fstat(file.fileno()).st_size
            make_read_only(file.fileno())
            file.close()  # Windows renames no file that is open
            make_folder(self.root, blob.parent)
            partial.replace(blob)
            self._partial_note(url).unlink(missing_ok=True)
            self._write(self._note(url), {"url": url.shown, "sha256": digest, "size": length, "tag": version.tag})

    @contextmanager
    def lock(self, url: Url) -> Iterator[None]:
        """Locks a URL against other processes and threads."""
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
        """Raises errors of the folder or its disk as `CheckpointError`."""
        try:
            yield
        except OSError as error:
            raise self._not_usable(error, how) from error

    def refuse_too_large(self, url: Url, needed: int) -> None:
        """Raises CheckpointError if a download would use up the disk's reserve."""
        with self.using():
            make_root(self.root)
            disk = shutil.disk_usage(self.root)
        reserve = min(_RESERVE, disk.total // _SHARE)
        if needed + reserve > disk.free:
            raise CheckpointError(
                f"{url.shown} needs {size(needed)} more in the cache {shown_path(self.root)}, "
                f"which has {size(disk.free)} free and keeps {size(reserve)} in reserve",
                Fix(f"{VARIABLE}=FOLDER", "on a larger disk, or delete old files from the cache"),
            )

    def _not_usable(self, error: OSError, how: str) -> CheckpointError:
        where = shown_path(self.root)
        if error.errno in _FULL:
            return CheckpointError(
                f"the disk of the cache {where} is full ({error.strerror})",
                Fix(f"{VARIABLE}=FOLDER", "on a larger disk, or delete old files from the cache"),
            )
        return CheckpointError(
            f"the cache {where} cannot be {how}: {error.strerror}",
            Fix(f"{VARIABLE}=FOLDER", "a writable folder"),
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
    """Whether the path is a regular file and not a link."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _read_json(path: Path) -> dict[str, Any]:
    """Reads a record; empty if it is missing or incomplete, since its content can be found out again."""
    try:
        with os.fdopen(open_regular(path, os.O_RDONLY), "rb") as file:
            found = json.loads(file.read(_LARGEST_NOTE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def make_root(root: Path) -> None:
    """Creates a folder and its missing parents; raises OSError if something else is there."""
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
    """Creates a folder below a root, and the root; raises OSError if a link or a file is in the way."""
    make_root(root)
    folder = root
    for name in path.relative_to(root).parts:
        folder /= name
        with suppress(FileExistsError):
            folder.mkdir(_FOLDER)
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, f"{name} in it is not a folder (links are not followed)")
    return path


def open_regular(path: Path, flags: int) -> int:
    """Opens a regular file, without waiting; raises OSError if a link or anything else is there.

    A file that is opened for writing must not have a second name: the other file would change.
    """
    descriptor = os.open(path, flags | _FLAGS, _FILE)
    status = os.fstat(descriptor)
    writing = flags & (os.O_WRONLY | os.O_RDWR)
    if stat.S_ISREG(status.st_mode) and not (writing and status.st_nlink > 1):
        return descriptor
    os.close(descriptor)
    fault = "is not a regular file with a single hard link (links are not followed)"
    raise OSError(errno.ELOOP, f"{path.name} in it {fault}")


def make_read_only(descriptor: int) -> None:
    """Makes an open file read-only on systems where its owner can still replace and delete it."""
    if hasattr(os, "geteuid"):  # Windows neither replaces nor deletes a read-only file
        os.chmod(descriptor, _READ_ONLY)
