from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from loader.files import file
from loader.files.file import CheckpointFile

pytestmark = pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
PIECE = 512 << 10
SIZE = 5 * PIECE + 100
Advise = Callable[[Sequence[tuple[int, int]]], list[tuple[int, int]]]


@pytest.fixture
def advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Advise:
    """Reads ranges of a file ahead, and returns the ranges that the system was advised of."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _number, offset, length, _advice: calls.append((offset, length)))
    path = tmp_path / "a.bin"
    path.write_bytes(os.urandom(SIZE))

    def run(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        file.read_ahead([(CheckpointFile(path), ranges)])
        for thread in threading.enumerate():
            if thread.name == "read-ahead":
                thread.join(60)
        return calls

    return run


def on_disk(from_offset: int) -> Callable[..., int]:
    """What reads without waiting find where the rest of a file is not in memory."""

    def preadv(_number: int, _buffers: object, offset: int, _flags: int = 0) -> int:
        if offset >= from_offset:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return 1

    return preadv


def cannot_tell(*_given: object) -> int:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="this system cannot tell what is in memory")
def test_what_is_in_memory_is_left_alone(advised: Advise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", on_disk(SIZE))
    assert advised([(0, SIZE)]) == []


@pytest.mark.parametrize("start", [0, 2 * PIECE, SIZE - 1])
def test_what_is_on_the_disk_is_asked_for_in_pieces_and_in_order(
    advised: Advise, monkeypatch: pytest.MonkeyPatch, start: int
) -> None:
    monkeypatch.setattr(os, "preadv", on_disk(start))
    assert advised([(0, SIZE)]) == [*((piece * PIECE, PIECE) for piece in range(5)), (5 * PIECE, 100)]


def test_a_system_that_cannot_tell_is_asked_for_all_of_it(advised: Advise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", cannot_tell)
    assert advised([(0, 10)]) == [(0, 10)]


def test_a_python_that_cannot_ask_advises_all_of_it(advised: Advise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_WITHOUT_WAITING", None)
    assert advised([(0, 10)]) == [(0, 10)]


def test_near_ranges_are_one_and_what_is_far_off_is_left_out(advised: Advise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", cannot_tell)
    assert advised([(4 * PIECE, 10), (100, 10), (0, 50)]) == [(0, 110), (4 * PIECE, 10)]


def test_without_any_range_nothing_is_asked_for(advised: Advise, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    assert advised([]) == []
    assert failed == []
