"""A process that has imported torch, Hydra and the loader and run nothing; a test's command is a fork of it.

Guarantees: a command gets its arguments, working folder, environment, module path and standard streams as a new process
would, and ends like one: with an exit code or by a signal, after everything that runs at exit. A command whose start
would make a difference (an interpreter option, a variable that acts at start-up, a module in the working folder or on
PYTHONPATH with the name of an imported one) is never forked: `Warm.fits` decides. No state passes from one command to
the next.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "run.py"

_LOCALE = ("LANG", "LC_")
_LIBRARIES = ("CUDA", "GOMP", "KMP", "LD_", "MALLOC", "MKL", "OMP", "OPENBLAS", "TORCH_")
AT_START = ("HYDRA_LOADER_", "PYTHON", "TMPDIR", *_LOCALE, *_LIBRARIES)
"""Prefixes of the variables that act when an interpreter or a library starts."""

_CUSTOMIZE = frozenset({"sitecustomize", "usercustomize"})


class Warm:
    """The side of the tests."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Takes the environment that the process starts with, which it does when it is first needed."""
        self._environment = dict(environment)
        self._socket: socket.socket | None = None
        self._imported: frozenset[str] = frozenset()
        """Names of modules that a folder hides if it has one of the same name."""

    def fits(self, command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> bool:
        """Says whether a fork behaves as a new process would."""
        if sys.platform != "linux" or command[0] != sys.executable or len(command) < 2:
            return False
        if Path(cwd, command[1]).resolve() != SCRIPT or _at_start(environment) != _at_start(self._environment):
            return False
        return not any(self._hides(Path(folder)) for folder in (str(cwd), *_python_path(environment, cwd)))

    def _hides(self, folder: Path) -> bool:
        if folder == REPOSITORY or not folder.is_dir():
            return False
        self._started()
        return not self._imported.isdisjoint(path.name.partition(".")[0] for path in folder.iterdir())

    def run(
        self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command that fits, as `subprocess.run` does with its output captured."""
        server = self._started()
        os.umask(mask := os.umask(0))
        request = {"command": list(command), "cwd": str(cwd), "environment": dict(env), "mask": mask}
        with contextlib.ExitStack() as files:
            pipes = [os.pipe() for _ in range(2)]
            for reader, _ in pipes:
                files.callback(os.close, reader)
            _send(server, request, [0, *(writer for _, writer in pipes)])
            for _, writer in pipes:
                os.close(writer)
            process = _receive(server)[0]
            try:
                out, err = _read([reader for reader, _ in pipes], timeout)
            except BaseException as error:
                os.kill(process, signal.SIGKILL)
                _receive(server)
                if isinstance(error, TimeoutError):
                    raise subprocess.TimeoutExpired(command, timeout) from error
                raise
        return subprocess.CompletedProcess(list(command), int(_receive(server)[0]), _text(out), _text(err))

    def _started(self) -> socket.socket:
        if self._socket is None:
            self._socket, theirs = socket.socketpair()
            with theirs:
                number = theirs.fileno()
                command = [sys.executable, __file__, str(number)]
                process = subprocess.Popen(command, cwd=REPOSITORY, env=self._environment, pass_fds=[number])
            atexit.register(self._end, process)
            self._imported = _CUSTOMIZE | frozenset(_receive(self._socket)[0])
        return self._socket

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if self._socket is not None:
            self._socket.close()
        process.wait(timeout=60)


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    acting = {name: value for name, value in environment.items() if name.startswith(AT_START)}
    acting.pop("PYTHONPATH", None)
    return acting


def _python_path(environment: Mapping[str, str], cwd: Path | str) -> list[str]:
    """The folders of PYTHONPATH as Python puts them on its path."""
    named = environment.get("PYTHONPATH", "")
    return list(dict.fromkeys(os.path.abspath(Path(cwd, folder)) for folder in named.split(os.pathsep) if named))  # noqa: PTH100


def _read(pipes: Sequence[int], timeout: float) -> list[bytes]:
    """Reads all pipes to their ends, in whatever order they are written."""
    deadline = time.monotonic() + timeout
    content = {pipe: bytearray() for pipe in pipes}
    with selectors.DefaultSelector() as selector:
        for pipe in pipes:
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                content[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
    return [bytes(content[pipe]) for pipe in pipes]


def _text(content: bytes) -> str:
    """Decodes as `subprocess.run(text=True)` does."""
    with io.TextIOWrapper(io.BytesIO(content)) as stream:
        return stream.read()


def _send(to: socket.socket, message: Any, files: Sequence[int] = ()) -> None:
    content = json.dumps(message).encode()
    socket.send_fds(to, [len(content).to_bytes(8, "little")], files)
    to.sendall(content)


def _receive(of: socket.socket) -> tuple[Any, list[int]]:
    head, files, _, _ = socket.recv_fds(of, 8, 3)
    if not head:
        raise EOFError("the other end is gone")
    length, content = int.from_bytes(head, "little"), b""
    while len(content) < length:
        content += of.recv(length - len(content))
    return json.loads(content), files


def serve(client: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Forks for each command; returns the command in its fork, and nothing in the process itself at the end."""
    while True:
        try:
            request, files = _receive(client)
        except EOFError:
            return None
        with warnings.catch_warnings(action="ignore"):  # of threads, which OpenBLAS has and takes through a fork
            process = os.fork()
        if process == 0:
            return request, files
        for file in files:
            os.close(file)
        _send(client, process)
        _send(client, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))


def become(request: Mapping[str, Any], files: Sequence[int], libraries: Sequence[str]) -> types.ModuleType:
    """Makes this process what a new one is that was started with a command; returns its main module."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.umask(request["mask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    python, *sys.argv = request["command"]
    sys.orig_argv = [python, *sys.argv]
    script = os.path.abspath(sys.argv[0])  # noqa: PTH100
    sys.path[:] = [os.path.dirname(os.path.realpath(script)), *_python_path(os.environ, ""), *libraries]  # noqa: PTH120
    importlib.invalidate_caches()
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        _replace_stream(name, number, mode)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=script, __builtins__=__builtins__, __cached__=None, __annotations__={})
    sys.modules["__main__"] = main
    return main


def _replace_stream(name: str, number: int, mode: str) -> None:
    """Opens a standard stream as Python itself does."""
    before = getattr(sys, name)
    buffered = not isinstance(before.buffer, io.FileIO)
    buffer = open(number, f"{mode}b", buffering=-1 if buffered else 0, closefd=False)  # noqa: SIM115
    named: Any = getattr(buffer, "raw", buffer)
    named.name = f"<{name}>"
    stream = io.TextIOWrapper(
        buffer,
        encoding=before.encoding,
        errors=before.errors,
        newline=None if mode == "r" else "\n",
        line_buffering=buffered and (name == "stderr" or os.isatty(number)),
        write_through=not buffered,
    )
    stream.mode = mode  # type: ignore[misc]
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def execute(main: types.ModuleType) -> None:
    """Runs the script; what it raises ends the process as Python ends one, without a word of this module."""
    path = Path(str(main.__file__))
    code = compile(path.read_bytes(), path, "exec")
    try:
        exec(code, main.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # noqa: BLE001
        traceback = error.__traceback__.tb_next if error.__traceback__ else None
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        raise SystemExit(1) from None


def prepared() -> Iterator[str]:
    """Imports what commands import; yields the names of what a module of the same name would hide."""
    importlib.import_module("loader.sweep.preload")
    # The warnings are set aside around a fork here, so the filter that a job's process forgets has to go before.
    warnings.filters[:] = [rule for rule in warnings.filters if "forkserver" not in str(rule[1])]  # type: ignore[index]
    gc.freeze()
    yield from {name.partition(".")[0] for name in sys.modules} - {"__main__"}


if __name__ == "__main__":
    _own, *_libraries = sys.path
    sys.path[0] = str(REPOSITORY)
    _libraries = [folder for folder in _libraries if folder not in _python_path(os.environ, "")]
    with socket.socket(fileno=int(sys.argv[1])) as _client:
        _send(_client, sorted(prepared()))
        _asked = serve(_client)
    if _asked is not None:
        execute(become(*_asked, _libraries))
