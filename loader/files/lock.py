"""One process at a time, by a lock on an open file.

Guarantees: the lock ends with the process that holds it, however it ends; a file system without locks is reported, not
waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file until its descriptor is closed.

    Returns:
        False if another process or thread holds the lock; None if the file system has no locks.
    """
    from filelock import lock_descriptor  # noqa: PLC0415  # a plain load needs no lock

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


def wait_for_lock(descriptor: int, waiting: Callable[[], None]) -> bool:
    """Locks an open file until its descriptor is closed, however long the wait.

    Args:
        descriptor: The open file.
        waiting: Called before the wait, if another process or thread holds the lock.

    Returns:
        False if the file system has no locks.
    """
    from filelock import lock_descriptor  # noqa: PLC0415  # a plain load needs no lock

    locked = try_lock(descriptor)
    if locked is False:
        waiting()
        locked = lock_descriptor(descriptor)
    return locked is True


def release_lock(descriptor: int, path: Path) -> None:
    """Removes a locked file and closes it: first one, then the other, so that a waiting process sees it is gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError:  # Windows does not remove open files
        os.close(descriptor)
        with suppress(OSError):
            path.unlink(missing_ok=True)
    else:
        os.close(descriptor)
