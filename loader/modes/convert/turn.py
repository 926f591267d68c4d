"""One conversion at a time writes to a destination.

Guarantees: what another conversion writes there is complete, or gone, before this one looks at it; the system lets go
of the place when a process dies, however that happens; nothing is left behind by one that does not die.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import ConfigError
from ...files.path import shown_path
from .destination import Destination

log = logging.getLogger(__name__)

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def turn(place: Destination) -> Iterator[None]:
    """Waits until nobody else writes to a destination, and keeps others from it meanwhile.

    Raises:
        ConfigError: The folder does not take the file that is locked.
    """
    path = place.folder / f".{place.stem[:40]}.lock"
    descriptor = _taken(path, place)
    try:
        yield
    finally:
        # While it is locked: whoever waits for it then sees that it has no name any more.
        with suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _taken(path: Path, place: Destination) -> int:
    while True:
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError as error:
            raise ConfigError(
                f"{shown_path(path)}, which keeps other conversions away meanwhile, cannot be opened: {error.strerror}",
                "convert.path=FILE   # in a folder that takes it",
            ) from error
        try:
            _wait_for(descriptor, place)
            if _stands_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _wait_for(descriptor: int, place: Destination) -> None:
    with suppress(OSError):  # a file system without locks: it is no worse than before there were any
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("%s: another conversion is writing there; waiting", shown_path(place.single))
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def _stands_at(path: Path, descriptor: int) -> bool:
    """Whether a file still has its name, and is what the next one locks."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
