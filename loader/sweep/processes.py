"""Ends a job's process with every process that it started.

Guarantees: after `end` none of them runs, whatever they do with signals; on POSIX they are the job's process group, on
Linux also those that left the group while the job ran, and those in a session of their own when it ended. They end as
well if the process that waits for the job is killed: a guard, which runs nothing of a job, waits for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

PATIENCE = 5.0
"""Seconds that a job has to end after a request to."""

_HAS_GROUPS = hasattr(os, "setpgid")
_KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
_PROCESSES = Path("/proc")
_ADOPT = 36
"""Linux's PR_SET_CHILD_SUBREAPER."""

_Alive = tuple[int, str]
"""A process's number, and when it began: numbers are used again."""


def lead_group() -> None:
    """Makes this process the leader of its own group, for all processes that it will start."""
    if sys.platform != "win32" and _HAS_GROUPS:
        os.setpgid(0, 0)
        adopt()


def adopt() -> None:
    """Makes this process, on Linux, the parent of every process below it whose own parent ends."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_ADOPT, 1, 0, 0, 0)


def adopt_silently() -> None:
    """Adopts, in the server that jobs are forked from, without its warning at the end of each adopted process."""
    adopt()
    warnings.filterwarnings("ignore", "forkserver: waitpid returned unexpected pid")
    rule = warnings.filters[0]

    def forget() -> None:
        with contextlib.suppress(ValueError):
            warnings.filters.remove(rule)  # type: ignore[attr-defined]  # a list

    if sys.platform != "win32":
        os.register_at_fork(after_in_child=forget)  # a job sees Python's own filters


def end(process: BaseProcess, server: int = 0) -> None:
    """Ends a job's process and every process that it started, also what a job left behind that has ended itself.

    Args:
        process: The job's.
        server: The number of the process that it was forked from, which adopts what a job leaves behind.
    """
    number = process.pid
    if number is None:
        return
    strays: list[_Alive] = []
    if process.is_alive():
        strays = _descendants(number)
        _send(number, signal.SIGTERM, strays)
        process.join(PATIENCE)
    if _HAS_GROUPS:
        _send(number, _KILL, [*strays, *_left_to(server)])
    process.join(PATIENCE)  # a process that waits for a broken disk cannot even be killed


def _send(number: int, what: int, strays: list[_Alive]) -> None:
    """Sends a signal to a process's group, and to others that are still what they were."""
    if sys.platform == "win32" or not _HAS_GROUPS:
        _end_tree_on_windows(number)
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(number, what)
    _send_each(strays, what)


def _send_each(strays: list[_Alive], what: int) -> None:
    for stray, began in strays:
        if _began(stray) == began:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(stray, what)


def end_below() -> None:
    """Ends every process below this one, on Linux; once it has ended itself, nobody would find them."""
    _send_each([one for one in _descendants(os.getpid()) if one[0] != os.getpid()], _KILL)


def _end_tree_on_windows(number: int) -> None:
    """Ends a process and its children; Windows has no requests that a process could heed."""
    command = ["taskkill", "/T", "/F", "/PID", str(number)]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, capture_output=True, check=False, timeout=60)  # noqa: S603  # a fixed command


def _descendants(number: int) -> list[_Alive]:
    """Lists a process and all below it, as far as the system says."""
    began = _began(number)
    return _with_all_below([(number, began)] if began else [], _by_parent())


def _left_to(server: int) -> list[_Alive]:
    """Lists what jobs that have ended left to the process that they were forked from, with all below it.

    A running job is in the session of its sweep, and adopts what its own processes leave.
    """
    by_parent, own = _by_parent(), _session(server)
    strays = [one for one in by_parent.get(server, []) if _session(one[0]) not in ("", own)]
    return _with_all_below(strays if own else [], by_parent)


def _by_parent() -> dict[int, list[_Alive]]:
    below: dict[int, list[_Alive]] = {}
    for file in _PROCESSES.glob("[0-9]*/stat") if _HAS_GROUPS else ():
        fields = _fields(file)
        if fields:
            below.setdefault(int(fields[1]), []).append((int(file.parent.name), fields[19]))
    return below


def _with_all_below(found: list[_Alive], below: dict[int, list[_Alive]]) -> list[_Alive]:
    for other, _ in found:
        found.extend(below.get(other, []))
    return found


def _session(number: int) -> str:
    fields = _fields(_PROCESSES / str(number) / "stat")
    return fields[3] if fields else ""


def _parent(number: int) -> int:
    fields = _fields(_PROCESSES / str(number) / "stat")
    return int(fields[1]) if fields else 0


def _began(number: int) -> str:
    fields = _fields(_PROCESSES / str(number) / "stat")
    return fields[19] if fields else ""


def _fields(file: Path) -> list[str]:
    """Returns the fields of a process's status after its name; an empty list if it has ended."""
    try:
        return file.read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []


class Guard:
    """A process that ends jobs if this one is killed.

    Args:
        processes: The context of `multiprocessing` that starts it.
    """

    def __init__(self, processes: Any) -> None:
        self._owner = os.getpid()
        reader, self._writer = processes.Pipe(duplex=False)
        # It ends when this process exits, before which all jobs have ended.
        process = processes.Process(target=_guard, args=(reader,), name="guard", daemon=True)
        with reader:
            process.start()

    def knows(self) -> bool:
        """Returns whether this process started it, and it is still there."""
        return self._owner == os.getpid() and not self._writer.closed

    def send(self, number: int) -> None:
        """Notes a job's process, or with a negative number that it has ended."""
        try:
            self._writer.send(number)
        except OSError:  # somebody ended it; the next job gets another
            self._writer.close()


_guards: list[Guard] = []
_lock = threading.Lock()


@contextmanager
def guarded(process: BaseProcess, processes: Any) -> Iterator[None]:
    """Ends a job's process at the end of the block, and also if this process is killed in it.

    Args:
        process: The job's.
        processes: The context of `multiprocessing` that started it.
    """
    server = _parent(process.pid or 0)
    guard = _guard_here(processes) if _HAS_GROUPS else None
    try:
        if guard is not None:
            guard.send(process.pid or 0)
        yield
    finally:
        # Without a server, this process started the job itself; its other children are not a job's.
        end(process, server if server != os.getpid() else 0)
        if guard is not None and guard.knows():
            guard.send(-(process.pid or 0))


def _guard_here(processes: Any) -> Guard:
    with _lock:
        if not _guards or not _guards[0].knows():
            _guards[:] = [Guard(processes)]
        return _guards[0]


def _guard(reader: Connection) -> None:
    """Runs in the guard's process."""
    lead_group()
    for name in ("SIGINT", "SIGHUP"):  # a closed terminal ends the sweep first, and then this process
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    jobs: set[int] = set()
    try:
        while True:
            number = reader.recv()
            jobs.add(number) if number > 0 else jobs.discard(-number)
    except (EOFError, OSError):
        pass
    for job in jobs:
        _send(job, _KILL, _descendants(job))
    sys.exit()
