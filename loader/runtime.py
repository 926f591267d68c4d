"""Pauses Python's collector of cyclic garbage.

A load makes many objects at once, none of them garbage: records of a file, modules, parameters, plans. Looking through
them for cycles, again and again as they become more, takes as long as half of the work itself.

Guarantees: afterwards the collector runs if it ran before, whatever happened inside; objects are exempted from it only
in a process that had not imported torch yet.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Has nothing collected inside; also a decorator."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Has nothing collected while torch and what stands on it are imported.

    What they made stays as long as the process: looking through it again and again takes as long as a small load, so
    from then on the collector leaves it alone. A process that has torch already may have more than modules to look
    after, and is left as it is.
    """
    first = "torch" not in sys.modules
    with collector_paused():
        yield
        if first:
            gc.freeze()
