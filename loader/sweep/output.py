"""What a job of a sweep prints: a file in its folder, ``output.txt``.

Guarantees: nothing that a job, or a process or library that it starts, prints reaches the terminal, where it would mix
with the output of other jobs; all of it is in the file, in order, the last words of a process that is killed or crashes
included. A job whose folder cannot be written runs all the same.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import LoaderError
from ..files.descriptors import SAFE_FLAGS
from ..report.terminal import error_text
from ..text.redaction import redacted

OUTPUT = "output.txt"
"""The name of the file."""

_STDOUT, _STDERR = 1, 2
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | SAFE_FLAGS


def print_into(folder: Path) -> None:
    """Sends everything that this process prints to the file, from now on; with no room for it, to nowhere.

    Args:
        folder: The job's.
    """
    try:
        descriptor = os.open(folder / OUTPUT, _FLAGS, 0o644)
    except OSError:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    for stream, number in ((sys.stdout, _STDOUT), (sys.stderr, _STDERR)):
        with suppress(OSError, ValueError, AttributeError):  # it may be closed, or none
            stream.flush()
        os.dup2(descriptor, number)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    os.close(descriptor)
    with suppress(OSError, ValueError, AttributeError):
        faulthandler.enable()  # where it was when a library crashed


def print_error_into(folder: Path, error: LoaderError) -> None:
    """Adds a refusal to the file, as a job would print it; if there is room."""
    with suppress(OSError), (folder / OUTPUT).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(redacted(error_text(error)))


def has_output(folder: Path) -> bool:
    """Returns whether a job printed anything."""
    with suppress(OSError):
        return (folder / OUTPUT).stat().st_size > 0
    return False
