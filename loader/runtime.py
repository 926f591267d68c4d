"""The process: the package's name in it, garbage collector, signals, limits, standard streams, and Python's path.

A load creates many objects at once, none of them garbage: records of a file, modules, parameters, plans. Searching them
for cycles, again and again as they become more, takes half as long as the work itself.

Guarantees: after `collector_paused` the collector runs if it ran before, whatever happened in the block; objects are
exempted from it only in a process that had not imported torch. In a `terminable` block a termination signal (of a
scheduler, or of a terminal that closes) raises SystemExit, so that every `finally` runs; after it the previous handler
is back. An ignored signal (`nohup`) stays ignored. The Python processes of a sweep find this package and Hydra
before the user's own `loader.py` and `hydra.py`, and a job's process sees the variables that the user set. In an
`unbreakable` block no print raises, neither the loader's own nor one in a model's constructor: output to a closed
stream is discarded. A reader that goes away (`| head -1`) ends the output and nothing else. A full disk is
remembered for the exit code. A character that the encoding lacks is escaped. The credentials of URLs are redacted.
"""

from __future__ import annotations

import errno
import gc
import importlib
import io
import logging
import os
import signal
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from hydra_loader import USERS_FOLDER, users_folder

from .text.redaction import redacted

PACKAGE = __name__.partition(".")[0]
"""This package's name in this process: `loader`, or `hydra_loader` where `loader` is the user's own."""
NAMES = ("loader", "hydra_loader")
"""The names by which configs and files name this package's examples."""
OWN_NAMES = frozenset((PACKAGE, "hydra_loader"))
"""The names under which this package's modules can be imported in this process."""

_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def own_name(name: str) -> str:
    """Returns the name that leads to this package's examples, also where `loader` is the user's own.

    Args:
        name: A dotted name out of a config or a file, such as ``loader.examples.SimpleNet``.
    """
    ours = f"{name}.".startswith("loader.examples.")
    return f"{PACKAGE}{name.removeprefix('loader')}" if ours else name


def config_name(name: str) -> str:
    """Returns the name by which configs know one of this package's examples; any other name is unchanged."""
    ours = name.startswith(f"{PACKAGE}.examples.")
    return f"loader{name.removeprefix(PACKAGE)}" if ours else name


@contextmanager
def collector_paused() -> Iterator[None]:
    """Disables the garbage collector for the block; also usable as a decorator."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def importing() -> Iterator[None]:
    """Disables the garbage collector while torch and the packages that need it are imported.

    Their objects live as long as the process, and searching them takes as long as a small load, so the collector
    ignores them from then on. A process that already had torch may contain other objects, which the collector keeps.
    """
    first = "torch" not in sys.modules
    with collector_paused():
        yield
        if first:
            gc.freeze()


@contextmanager
def terminable() -> Iterator[None]:
    """Makes termination signals raise SystemExit; does nothing in other threads than the main one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, _stop) for number in heard]
    try:
        yield
    finally:
        for number, handler in zip(heard, before, strict=True):
            signal.signal(number, handler)


def peak_memory() -> int | None:
    """The largest resident size of this process so far, in bytes; None if the system does not report it (Windows)."""
    resource = _resource()
    if resource is None:
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def open_file_limit() -> int | None:
    """The number of files this process may have open; None if there is no limit or none is reported (Windows)."""
    resource = _resource()
    if resource is None:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def _resource() -> Any:
    """The module `resource`; None on Windows, which has none."""
    try:
        return importlib.import_module("resource")
    except ImportError:
        return None


def _stop(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def is_termination(error: BaseException) -> bool:
    """Whether a termination signal raised this, at whatever point of the process."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return isinstance(error, SystemExit) and place is not None and place.tb_frame.f_code is _stop.__code__


_VARIABLES = ("PYTHONPATH", "PYTHONSAFEPATH", USERS_FOLDER)


@contextmanager
def safe_path() -> Iterator[dict[str, str | None]]:
    """Makes Python processes started in the block search this package first, and never the working folder.

    Yields:
        The previous values of the variables, for `restored`.
    """
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(_safe(before["PYTHONPATH"]))
    try:
        yield before
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def restored(environment: Mapping[str, str], before: Mapping[str, str | None]) -> dict[str, str]:
    """Returns an environment without the changes of `safe_path`; other changes since then stay."""
    ours = _safe(before.get("PYTHONPATH"))
    own = {name: value for name, value in environment.items() if ours.get(name) != value}
    return own | {name: value for name, value in before.items() if value is not None and name not in own}


def find_modules_in(folder: str) -> None:
    """Makes the user's own modules importable, last in the search, so that none hides an installed package."""
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def _safe(python_path: str | None) -> dict[str, str]:
    here = str(Path(__file__).resolve().parents[1])
    safe = {"PYTHONSAFEPATH": "1", **({USERS_FOLDER: users_folder()} if users_folder() else {})}
    if here in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        return safe
    return {**safe, "PYTHONPATH": os.pathsep.join([here, *filter(None, [python_path])])}


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
