"""Confines trial builds to the process.

Guarantees: during a confined build, its thread opens no connection, starts no process and no thread, and writes or
changes no file, as far as Python sees it (compiled code by itself raises no audit event). Other threads are unaffected.
Refused actions are named, so that they can be reported.

An audit hook cannot be removed, so the first confined build adds a single one, which does nothing outside such builds.
"""

from __future__ import annotations

import errno
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from ...errors import ConfigError, LoaderError

_T = TypeVar("_T")

_CONNECTS = frozenset(
    (
        "socket.connect", "socket.getaddrinfo", "socket.gethostbyaddr", "socket.gethostbyname", "socket.getnameinfo",
        "socket.sendmsg", "socket.sendto", "ftplib.connect", "http.client.connect", "imaplib.open", "poplib.connect",
        "smtplib.connect", "telnetlib.Telnet.open", "nntplib.connect", "urllib.Request", "webbrowser.open",
        "builtins.input",
    )
)  # fmt: skip
"""Events that fetch something. The result may decide what is built, so the build ends."""

_CHANGES = frozenset(
    (
        "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename",
        "os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime", "os.chdir", "os.fchdir", "shutil.rmtree",
        "shutil.move", "shutil.unpack_archive", "tempfile.mkdtemp", "tempfile.mkstemp", "sqlite3.connect",
    )
)  # fmt: skip
_STARTS = frozenset(
    (
        "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system", "pty.spawn",
        "subprocess.Popen", "os.kill", "os.killpg", "signal.pthread_kill", "_winapi.CreateProcess",
    )
)  # fmt: skip
_THREADS = frozenset(("_thread.start_new_thread", "_thread.start_joinable_thread"))
_LISTENS = frozenset(("socket.__new__", "socket.bind", "syslog.openlog", "syslog.syslog"))
_REFUSED = {
    **dict.fromkeys(_CHANGES, "changes files"),
    **dict.fromkeys(_STARTS, "starts a process"),
    **dict.fromkeys(_THREADS, "starts a thread"),
    **dict.fromkeys(_LISTENS, "opens a socket"),
}
"""Events refused with an error of the system, which a constructor may survive: a cache that cannot be written."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OWN = "loader.confined"


class LeftError(BaseException):
    """Ends a build that asked for something outside; no `except Exception` on the way catches it."""


@dataclass(slots=True)
class Confined:
    """The actions that a confined build asked for."""

    refused: str = ""
    """The first refused action: "connects to something outside (socket.connect)"."""
    left: str = ""
    """The action that ended it, if any."""


class _Threads(threading.local):
    """Each thread's confined build."""

    build: Confined | None = None
    answered: bool = False


_threads = _Threads()


def apart(build: Callable[[], _T], asked: Confined) -> _T:
    """Runs a build whose thread can reach nothing outside the process.

    Args:
        build: Builds a model.
        asked: Records the actions that the build asks for.

    Raises:
        ConfigError: The build asked for something that may decide what is built, or failed by itself.
    """
    try:
        with _confined(asked):
            made = build()
    except (LoaderError, LeftError):
        if not asked.left:
            raise
    if asked.left:  # even if something on the way caught the exception
        raise ConfigError(f"model: its constructor {asked.left}, which a trial build may not do")
    return made


@contextmanager
def _confined(asked: Confined) -> Iterator[None]:
    _install(asked)
    before, _threads.build = _threads.build, asked
    try:
        yield
    finally:
        _threads.build = before


def _install(asked: Confined) -> None:
    """Adds the hook if it does not answer yet."""
    for _ in range(2):
        _threads.answered = False
        sys.audit(_OWN)
        if _threads.answered:
            return
        tempfile.gettempdir()  # writes a file, once per process; torch calls it while importing
        sys.addaudithook(_hook)
        _announce_threads()
    asked.left = "cannot be confined, because an audit hook of this process blocks others"
    raise LeftError(asked.left)


def _announce_threads() -> None:
    """Makes Python 3.11 raise the event that later versions raise when a thread is about to start."""
    if sys.version_info >= (3, 12):
        return
    start = threading._start_new_thread  # type: ignore[attr-defined]  # noqa: SLF001

    def announced(function: Callable[..., object], arguments: tuple[object, ...], *named: dict[str, object]) -> int:
        sys.audit("_thread.start_new_thread", function, arguments, *named)
        return int(start(function, arguments, *named))

    threading._start_new_thread = announced  # type: ignore[attr-defined]  # noqa: SLF001


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == _OWN:
        _threads.answered = True
        return
    build = _threads.build
    if build is None:
        return
    if event in _CONNECTS:
        build.left = build.left or f"connects to something outside ({event})"
        build.refused = build.refused or build.left
        raise LeftError(build.left)
    what = _REFUSED.get(event) or ("writes a file" if event == "open" and _writes(*arguments) else "")
    if what:
        build.refused = build.refused or f"{what} ({event})"
        raise PermissionError(errno.EACCES, f"a trial build {what}, which it may not do ({event})")


def _writes(path: object, mode: object, flags: object) -> bool:
    if path == os.devnull:
        return False
    written = isinstance(mode, str) and any(sign in mode for sign in "wax+")
    return written or (isinstance(flags, int) and bool(flags & _WRITING))
