"""Standard streams on which no print can fail.

Guarantees: inside `unbreakable` no print raises, neither the loader's own nor one in a model's constructor. Output to a
closed stream is discarded. A reader that goes away (`| head -1`) ends the output and nothing else. A full disk is
remembered for the exit code. A character that the encoding lacks is escaped. The credentials of URLs are redacted.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ..text.redaction import redacted

_GONE = (errno.EPIPE, errno.ECONNRESET)
"""Errors of a pipe whose reader has gone away."""

_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}


class _Unbreakable(io.FileIO):
    """A raw stream that discards all output once a write has failed."""

    lost: OSError | None = None
    """The error of the failed write, unless the reader went away."""

    def write(self, data: Any, /) -> int:
        """Writes, or starts to discard."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                self.lost = error
            _to_nowhere(self.fileno())
            return super().write(data)


class _Redacting(io.TextIOWrapper):
    """A text stream that redacts secrets, also in Hydra's own pages and tracebacks."""

    def write(self, text: str, /) -> int:
        """Writes a text; returns its length, like any text stream."""
        super().write(redacted(text))
        return len(text)


@contextmanager
def unbreakable() -> Iterator[None]:
    """Keeps every print in the block from raising; a standard stream that was replaced is not touched."""
    before = sys.stdout, sys.stderr, logging.raiseExceptions
    _open_closed()
    sys.stdout, sys.stderr = _guarded("stdout"), _guarded("stderr")
    logging.raiseExceptions = False  # no tracebacks among the results because a log cannot be written
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if before[0] is not None and before[1] is not None:
            sys.stdout, sys.stderr, logging.raiseExceptions = before


def printing_failed() -> OSError | None:
    """Returns the error that lost part of stdout, if any; a reader that went away does not count."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Unbreakable) else None


def _open_closed() -> None:
    """Opens closed streams (``>&-``): the next opened file would get the descriptor, and the prints."""
    for name, number in _STREAMS.items():
        try:
            os.fstat(number)
        except OSError:
            _to_nowhere(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def _guarded(name: str) -> TextIO:
    stream: TextIO = getattr(sys, name)
    raw = getattr(getattr(stream, "buffer", None), "raw", getattr(stream, "buffer", None))
    if type(raw) is not io.FileIO or raw.fileno() != _STREAMS[name] or not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.flush()
    return _Redacting(
        io.BufferedWriter(_Unbreakable(raw.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,
    )


def _to_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere == number:
        os.set_inheritable(number, True)  # the processes of a sweep's jobs print too
        return
    os.dup2(nowhere, number)
    os.close(nowhere)
