"""Work for another process's sake that may take long, but never stands still for long.

Guarantees: the caller goes on after the work, after what it raised, or after a time without any progress.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_PULSE = 0.5
"""Seconds between two looks at how far the work is."""


def patiently(
    work: Callable[[Callable[[], None]], object], seconds: float, meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Does work that calls its argument after each step; gives up where a step takes too long.

    The thread that still works then ends with the process.

    Args:
        work: Does the work.
        seconds: The longest time for one step.
        meanwhile: Is called now and then while it lasts.

    Raises:
        TimeoutError: A step took longer.
        Exception: What the work raised.
    """
    last, raised = [time.monotonic()], list[Exception]()

    def advance() -> None:
        last[0] = time.monotonic()

    def do() -> None:
        try:
            work(advance)
        except Exception as error:  # noqa: BLE001  # it is raised again, in the caller's thread
            raised.append(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    while thread.is_alive():
        left = last[0] + seconds - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer within {seconds:g} seconds")
        thread.join(min(left, _PULSE))
        meanwhile()
    if raised:
        raise raised[0]
