"""Pauses Python's collector of cyclic garbage.

A load makes many objects at once, none of them garbage: records of a file, modules, parameters, plans. Looking through
them for cycles, again and again as they become more, takes as long as half of the work itself.

Guarantees: afterwards the collector runs if it ran before, whatever happened inside.
"""

from __future__ import annotations

import gc
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
