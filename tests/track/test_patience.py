"""Waiting for another process: as long as it goes on, and no longer."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from loader.track.patience import patiently


def test_work_that_goes_on_is_waited_for() -> None:
    done: list[int] = []
    waiting = threading.Event()

    def work(advance: Callable[[], None]) -> None:
        for step in range(8):
            waiting.wait(0.05)
            done.append(step)
            advance()

    seen: list[int] = []
    patiently(work, 0.3, lambda: seen.append(len(done)))
    assert done == [*range(8)]
    assert seen[-1] == 8


def test_work_that_stands_still_is_not() -> None:
    with pytest.raises(TimeoutError, match=r"^no answer within 0\.1 seconds$"):
        patiently(lambda _advance: threading.Event().wait(30), 0.1)


def test_what_the_work_raises_is_raised() -> None:
    def work(_advance: Callable[[], None]) -> None:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match=r"^refused$"):
        patiently(work, 10)
