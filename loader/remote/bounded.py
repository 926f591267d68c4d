"""Waiting no longer than so long for code that knows no limit of its own.

Guarantees: the wait ends, whatever the code does; what it raises is raised here; what it still does afterwards keeps no
process from ending.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

_Result = TypeVar("_Result")


def within(seconds: float, ask: Callable[[], _Result]) -> _Result:
    """Calls something in a thread of its own, which is left to itself when the time is over.

    Args:
        seconds: How long it may take.
        ask: What is called.

    Raises:
        TimeoutError: It took longer.
    """
    answer: Future[_Result] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:  # noqa: BLE001  # raised again where the answer is waited for
            answer.set_exception(error)

    # No pool: its threads are waited for when the process ends.
    Thread(target=work, name="remote", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        if answer.done():
            raise
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
