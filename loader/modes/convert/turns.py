"""Conversions to one destination take turns.

Guarantees: each judges the complete result of the one before; the lock dies with its process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...errors import ConfigError
from ...files.descriptors import SAFE_FLAGS
from ...files.path import shown_path
from ...files.write import release_lock, wait_for_lock
from ...text.lines import Fix
from .destination import Destination

log = logging.getLogger(__name__)

_FLAGS = os.O_RDWR | os.O_CREAT | SAFE_FLAGS | getattr(os, "O_NOFOLLOW", 0)


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
        release_lock(descriptor, path)


def _taken(path: Path, place: Destination) -> int:
    while True:
        try:
            descriptor = os.open(path, _FLAGS, 0o666)
        except OSError as error:
            raise ConfigError(
                f"the lock file {shown_path(path)} cannot be opened: {error.strerror}",
                Fix("convert.path=FILE", "in a writable folder"),
            ) from error
        try:
            wait_for_lock(
                descriptor,
                lambda: log.info("%s: another conversion is writing there; waiting", shown_path(place.single)),
            )
            if _stands_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _stands_at(path: Path, descriptor: int) -> bool:
    """Whether a file still has its name, and is what the next one locks."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
