"""Has the loader run much as on Windows, in every process whose PYTHONPATH holds this folder.

The package sees Python's modules without the names that only POSIX systems have; other packages are left alone. For the
whole process, an open or read-only file is neither renamed nor removed, no file gets a name that Windows refuses, and
text that is read or written in an unnamed encoding is an error.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import importlib
import mmap
import multiprocessing
import multiprocessing.context
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

OURS = re.compile(r"(hydra_)?loader(\.|$)")
NO_MODULES = {"fcntl", "grp", "multiprocessing.forkserver", "posix", "pty", "pwd", "readline", "resource", "syslog",
              "termios", "tty"}  # fmt: skip
POSIX = re.compile(
    r"(W[A-Z]+|RTLD_\w+|SCHED_\w+|POSIX_\w+|PRIO_\w+|RWF_\w+|SEEK_(DATA|HOLE)|F_\w+|P_(PID|PGID|ALL)|(sched|posix|fork)\w*"
    r"|O_(CLOEXEC|NONBLOCK|NDELAY|NOCTTY|NOFOLLOW|DIRECTORY|SYNC|DSYNC|ASYNC|DIRECT|NOATIME|PATH|TMPFILE)"
    r"|(get|set)(e|re|res)?[ug]id|getpgid|getpgrp|setpgid|setpgrp|setsid|getsid|getgroups\w*|setgroups|initgroups"
    r"|(f|l)?ch(own|flags)|fch(mod|dir)|lchmod|chroot|f?statvfs|fdatasync|sync|(p|r)?(read|write)v|pread|pwrite"
    r"|mkfifo|mknod|makedev|major|minor|nice|getpriority|setpriority|getloadavg|uname|killpg|wait[34]?|waitid"
    r"|ctermid|ttyname|tc[sg]etpgrp|openpty|sendfile|memfd_create|(get|set|list|remove)xattr|f?pathconf|confstr|sysconf"
    r"|pipe2|lockf|register_at_fork|(get|set)_blocking|fwalk|pidfd_open|eventfd\w*|splice|copy_file_range)"
)
SIGNALS = {"SIGABRT", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM", "SIG_DFL", "SIG_IGN"}
O_BINARY = 0x8000
"""As on Windows; Linux ignores it."""


class View(ModuleType):
    """A module as Windows has it."""

    def __init__(self, module: ModuleType, lacks: re.Pattern[str], **instead: Any) -> None:
        super().__init__(module.__name__)
        self.__dict__.update(_module=module, _lacks=lacks, **instead)

    def __getattr__(self, name: str) -> Any:
        if self._lacks.fullmatch(name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._module, name)


class Memory(mmap.mmap):
    """A mapping, which is asked for with `access` alone and takes no advice."""

    def __new__(cls, fileno: int, length: int, tagname: str | None = None, access: int = mmap.ACCESS_WRITE) -> Memory:
        assert tagname is None
        return super().__new__(cls, fileno, length, access=access)

    @property
    def madvise(self) -> Any:
        raise AttributeError("madvise")


def open_binary(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
    """`os.open`, of files alone, and only without the translation of line ends."""
    if Path(path).is_dir():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    assert flags & O_BINARY or path == os.devnull, f"{path} is opened in text mode"
    return os.open(path, flags, mode, **more)


def link(source: Any, target: Any, *, follow_symlinks: bool = True) -> None:
    """`os.link`, which cannot link to a link."""
    if not follow_symlinks:
        raise NotImplementedError("link: follow_symlinks unavailable on this platform")
    os.link(source, target)


def no_library(name: str | None, **more: Any) -> ctypes.CDLL:
    """`ctypes.CDLL`, which has no name for the program itself."""
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    return ctypes.CDLL(name, **more)


def import_module(name: str, package: str | None = None) -> ModuleType:
    """`importlib.import_module` of what there is."""
    if name in NO_MODULES:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return VIEWS.get(name) or importlib.import_module(name, package)


NOTHING = re.compile("(?!)")
VIEWS: dict[str, ModuleType] = {
    "os": View(os, POSIX, name="nt", O_BINARY=O_BINARY, O_NOINHERIT=0, open=open_binary, link=link,
               supports_follow_symlinks=frozenset[Any]()),
    "mmap": View(mmap, re.compile("(PROT|MAP|MADV)_.*"), mmap=Memory),
    "signal": View(signal, re.compile(f"(?!({'|'.join(SIGNALS)})$)SIG[A-Z0-9_]+|set?itimer|alarm|pause|pthread_.*")),
    "ctypes": View(ctypes, NOTHING, CDLL=no_library),
    "importlib": View(importlib, NOTHING, import_module=import_module),
    "multiprocessing": View(multiprocessing, re.compile("forkserver"), get_all_start_methods=lambda: ["spawn"],
                            get_start_method=lambda: "spawn"),
}  # fmt: skip
real_import = builtins.__import__


def import_as_there(
    name: str, importing: Any = None, local: Any = None, fromlist: Any = (), level: int = 0
) -> ModuleType:
    """What an import statement gives the package."""
    if level or importing is None or not OURS.match(str(importing.get("__name__"))):
        return real_import(name, importing, local, fromlist, level)
    wanted = {name, *(f"{name}.{each}" for each in fromlist or ())}
    if missing := wanted & NO_MODULES:
        raise ModuleNotFoundError(f"No module named {min(missing)!r}", name=min(missing))
    found = real_import(name, importing, local, fromlist, level)
    return VIEWS.get(found.__name__, found)


def in_use() -> Iterator[str]:
    """The files that this process has open or mapped."""
    for number in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one of this folder
            yield os.fspath(number.readlink())
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        yield line.split(maxsplit=5)[-1]


def refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """Raises PermissionError or OSError where Windows would."""
    if event in {"os.rename", "os.remove"}:
        paths = [Path(os.fsdecode(path)).absolute() for path in arguments[: 2 if event == "os.rename" else 1]]
        for path in paths:
            status = path.lstat() if os.path.lexists(path) else None
            if status is not None and (str(path) in set(in_use()) or not status.st_mode & 0o200):
                raise PermissionError(errno.EACCES, "The process cannot access the file", str(path))
        refuse_name(paths[-1])
    elif event == "os.mkdir" or (event == "open" and isinstance(arguments[0], str) and arguments[2] & os.O_CREAT):
        refuse_name(Path(os.fsdecode(arguments[0])))


def refuse_name(path: Path) -> None:
    """Raises OSError for a name that Windows does not give to a file."""
    name = path.name
    if re.search(r'[<>:"|?*\\\x00-\x1f]|[. ]$', name) or re.match(r"(?i)(con|prn|aux|nul|(com|lpt)\d)(\.|$)", name):
        raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", str(path))


import filelock  # noqa: E402, F401  # the locks of Windows are its business

vars(builtins)["__import__"] = import_as_there
sys.addaudithook(refuse)
warnings.simplefilter("ignore", EncodingWarning)  # others may have their reasons
warnings.filterwarnings("error", category=EncodingWarning, module=OURS.pattern)
