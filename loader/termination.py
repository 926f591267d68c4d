"""What a scheduler's signal to end does to a process that has something to tidy up.

Guarantees: inside `terminable` the signal raises SystemExit, so that every `finally` on the way out runs; afterwards it
does what it did before.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_TERMINATED = 143
"""The exit code of a process that was asked to end."""


@contextmanager
def terminable() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit; in a thread that signals do not reach, which is any but the main one, nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)
