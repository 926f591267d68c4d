"""A line on stderr that changes: rewritten in place on a terminal, plain lines elsewhere.

Guarantees: on a terminal the line is never longer than the terminal is wide, and is gone at the end; what this process
and those forked from it print meanwhile stands whole above it. A stream that cannot be written ends the display and
nothing else.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, TextIO, cast

REDRAWN = 0.1
"""Seconds between two lines on a terminal."""
_LONGEST_PAUSE = 60.0
"""Seconds between plain lines at most; each of the first ones comes at twice the time of the one before."""
_ERASE = "\r\x1b[2K"
_ERASE_UNSENT = "\x1b[1G\x1b[2K"
"""The same; a text stream would send what has a carriage return in it at once, before the line is whole."""


class Display:
    """Shows nothing."""

    def show(self, _line: str, _elapsed: float) -> float:
        """Shows a line; returns the seconds until the next one is due."""
        return math.inf

    def end(self, _line: str | None) -> None:
        """Ends with a last line, or with none."""


class _Lines(Display):
    """Plain lines, for a file or a pipe.

    Args:
        stream: Where they are written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ""

    def show(self, line: str, elapsed: float) -> float:
        if not _written(self._stream.write, f"{line}\n", self._stream):
            return math.inf
        self._last = line
        return min(elapsed, _LONGEST_PAUSE)

    def end(self, line: str | None) -> None:
        if line is not None and line != self._last:
            _written(self._stream.write, f"{line}\n", self._stream)


class _Screen(Display):
    """The line at the bottom of a terminal, which all work in progress shares.

    While it is in use, the streams that lead to the terminal erase it before they write. A stream's own `write` is
    replaced, not the stream: log handlers hold the stream itself.
    """

    def __init__(self, streams: list[TextIO], width: Callable[[], int]) -> None:
        self._streams, self._width = streams, width
        self._process = os.getpid()
        self._users = 0
        self._drawn = False
        self._whole = True
        """Whether the last text that something else printed ended its line."""
        self._write: Callable[[str], Any] = streams[0].write
        for stream in streams:
            vars(stream)["write"] = self._around(stream, stream.write)

    def use(self) -> _Screen:
        self._users += 1
        return self

    def show(self, line: str, _elapsed: float) -> float:
        from rich.text import Text  # noqa: PLC0415  # only a line that is shown needs its width

        with _lock:
            if not self._whole:
                return REDRAWN
            text = Text(line)
            text.truncate(max(self._width() - 1, 1), overflow="ellipsis")
            self._drawn = True
            return REDRAWN if self._put(_ERASE + text.plain) else math.inf

    def end(self, _line: str | None) -> None:
        global _screen  # noqa: PLW0603  # one process, one terminal
        with _lock:
            self._erase()
            self._users -= 1
            if not self._users:
                for stream in self._streams:
                    vars(stream).pop("write", None)  # that of its class is found again
                _screen = None

    def _put(self, text: str) -> bool:
        return _written(self._write, text, self._streams[0])

    def _erase(self) -> None:
        if self._drawn:
            self._put(_ERASE)
        self._drawn = False

    def _around(self, stream: TextIO, write: Callable[[str], int]) -> Callable[[str], int]:
        def written(text: str, /) -> int:
            with _lock:
                begins, self._whole = self._whole, text.endswith("\n") if text else self._whole
                if os.getpid() != self._process:  # a forked worker does not know what is drawn by now
                    write(_ERASE_UNSENT + text if begins else text)
                    return len(text)
                self._erase()
                write(text)
                if self._whole:  # half a line would mix with that of another process
                    stream.flush()
                return len(text)

        return written


_lock = threading.RLock()
_screen: _Screen | None = None


def display_on_stderr(*, lines: bool) -> Display:
    """Returns the display that fits stderr as it is now.

    Args:
        lines: Whether to write plain lines where no line can be rewritten.
    """
    global _screen  # noqa: PLW0603  # one process, one terminal
    stderr: TextIO | None = sys.stderr
    if stderr is None or stderr.closed:
        return Display()
    with _lock:
        if _screen is None and stderr.isatty():
            _screen = _screen_on(stderr)
        if _screen is not None:
            return _screen.use()
    return _Lines(stderr) if lines else Display()


def _screen_on(stderr: TextIO) -> _Screen | None:
    """Returns the display on a terminal; None if it cannot rewrite a line."""
    from rich.console import Console  # noqa: PLC0415  # only a terminal needs it

    console, stdout = Console(file=stderr), cast("TextIO | None", sys.stdout)
    others = [stdout] if stdout is not None and stdout is not stderr and stdout.isatty() else []
    streams = [stderr, *others]
    if console.is_dumb_terminal or console.legacy_windows or not all(_can_be_watched(stream) for stream in streams):
        return None
    _prepare_forks()
    return _Screen(streams, lambda: console.width)


def _can_be_watched(stream: TextIO) -> bool:
    """Returns whether a stream's `write` can be replaced, and nobody else has."""
    return "write" not in getattr(stream, "__dict__", {"write": None})


@cache
def _prepare_forks() -> None:
    """Gives each forked process a lock of its own: another thread may have held this one."""

    def fresh() -> None:
        global _lock  # noqa: PLW0603  # see above
        _lock = threading.RLock()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=fresh)


def _written(write: Callable[[str], Any], text: str, stream: TextIO) -> bool:
    try:
        write(text)
        stream.flush()
    except (OSError, ValueError):  # full, closed, or gone
        return False
    return True
