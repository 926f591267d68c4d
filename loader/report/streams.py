"""What a process prints, however little of it anybody can take.

Guarantees: inside `unbreakable` no print fails, neither the loader's own nor one of a model's constructor. A stream
that was closed swallows everything; a reader that has gone away (`| head -1`) ends the printing and nothing else; a
full disk is remembered, for the exit code to say so; a character that the encoding lacks is written as its escape.
What is printed has lost the credentials of URLs.
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
"""A reader that has what it wanted."""

_STREAMS = {"stdin": 0, "stdout": 1, "stderr": 2}


class _Unbreakable(io.FileIO):
    """The end of a stream; once it fails, what is written goes nowhere."""

    lost: OSError | None = None
    """Why, where that is not the reader's own wish."""

    def write(self, data: Any, /) -> int:
        """Writes, or gives writing up."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                self.lost = error
            _to_nowhere(self.fileno())
            return super().write(data)


class _Redacting(io.TextIOWrapper):
    """Text without the secrets of URLs, whoever prints it: Hydra's own pages and tracebacks, too."""

    def write(self, text: str, /) -> int:
        """Writes a text; returns its length, as any text stream does."""
        super().write(redacted(text))
        return len(text)


@contextmanager
def unbreakable() -> Iterator[None]:
    """Keeps every print inside from raising; a standard stream that somebody replaced is theirs and stays as it is."""
    before = sys.stdout, sys.stderr, logging.raiseExceptions
    _open_closed()
    sys.stdout, sys.stderr = _guarded("stdout"), _guarded("stderr")
    logging.raiseExceptions = False  # a log that cannot be written is no reason for tracebacks among the results
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if before[0] is not None and before[1] is not None:
            sys.stdout, sys.stderr, logging.raiseExceptions = before


def printing_failed() -> OSError | None:
    """Returns why a part of what was printed on stdout is lost, if it is; that nobody read on is no loss."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.lost if isinstance(raw, _Unbreakable) else None


def _open_closed() -> None:
    """Opens what was closed (``>&-``): the number would go to the next file opened, and prints into that."""
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
        os.set_inheritable(number, True)  # the processes of a sweep's jobs print as well
        return
    os.dup2(nowhere, number)
    os.close(nowhere)
