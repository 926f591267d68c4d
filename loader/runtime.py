"""The package's own name, the garbage collector, signals to end, and what the system says of this process.

A load makes many objects at once, none of them garbage: records of a file, modules, parameters, plans. Searching them
for cycles, again and again as they become more, takes as long as half of the work itself.

Guarantees: after `collector_paused` the collector runs if it ran before, whatever happened inside; objects are exempted
from it only in a process that had not imported torch yet. Inside `terminable` a signal to end (of a scheduler, or of a
terminal that closes) raises SystemExit, so that every `finally` on the way out runs; afterwards it does what it did
before. A signal that is ignored (`nohup`) stays ignored.
"""

from __future__ import annotations

import gc
import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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
    """Disables the garbage collector while torch and what builds on it are imported.

    Their objects live as long as the process: searching them again and again takes as long as a small load, so the
    collector ignores them from then on. A process that has torch already may hold more than modules, and is left as it
    is.
    """
    first = "torch" not in sys.modules
    with collector_paused():
        yield
        if first:
            gc.freeze()


@contextmanager
def terminable() -> Iterator[None]:
    """Makes the signals raise SystemExit; in any thread but the main one, which signals do not reach, nothing."""
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
    """The largest resident size of this process so far, in bytes; None where the system does not say (Windows)."""
    resource = _resource()
    if resource is None:
        return None
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024


def open_file_limit() -> int | None:
    """How many files this process may have open; None where there is no limit or the system does not say (Windows)."""
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
