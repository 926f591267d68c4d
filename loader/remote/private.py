"""Files in a folder that is this user's own.

Guarantees: every folder that is made is for this user alone, whatever the umask; below the folder's root nothing is
opened or made through a link, only regular files are opened, and opening one never hangs.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from ..files.descriptors import SAFE_FLAGS

_FLAGS = SAFE_FLAGS | getattr(os, "O_NOFOLLOW", 0)
_FOLDER, _FILE, _READ_ONLY = 0o700, 0o600, 0o444


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
