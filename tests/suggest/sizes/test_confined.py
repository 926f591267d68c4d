"""Actions that a trial build may not take."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loader.errors import ConfigError
from loader.suggest.sizes.confined import Confined, LeftError, apart

CONNECTING: dict[str, Callable[[int, Path], Any]] = {
    "a connection": lambda port, _: socket.create_connection(("127.0.0.1", port)),
    "a url": lambda port, _: urllib.request.urlopen(f"http://127.0.0.1:{port}"),
    "a name": lambda port, _: socket.getaddrinfo("localhost", port),
}
CHANGING: dict[str, Callable[[int, Path], Any]] = {
    "a process": lambda _, folder: subprocess.run(["touch", str(folder / "new")], check=True),
    "a command": lambda _, folder: os.system(f"touch {folder / 'new'}"),
    "a fork": lambda *_: os.fork() or os._exit(0),
    "a written file": lambda _, folder: (folder / "new").write_text("x"),
    "a touched file": lambda _, folder: (folder / "new").touch(),
    "a descriptor to write": lambda _, folder: os.open(folder / "new", os.O_CREAT | os.O_WRONLY),
    "a file that is added to": lambda _, folder: (folder / "old").open("a"),
    "a removed file": lambda _, folder: (folder / "old").unlink(),
    "a renamed file": lambda _, folder: (folder / "old").rename(folder / "new"),
    "a folder": lambda _, folder: (folder / "new").mkdir(),
    "a temporary file": lambda *_: tempfile.mkstemp(),
    "a thread": lambda _, folder: threading.Thread(target=(folder / "new").touch).start(),
    "a socket": lambda *_: socket.socket(),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "old").write_text("as it was")
    return tmp_path


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        yield server


@pytest.mark.parametrize("name", CONNECTING)
def test_a_trial_build_that_connects_ends_past_whatever_it_catches(
    name: str, folder: Path, listening: socket.socket
) -> None:
    def build() -> str:
        try:
            CONNECTING[name](listening.getsockname()[1], folder)
        except Exception:  # noqa: BLE001  # as constructors do that fall back on random weights
            return "built another way"
        return "connected"

    asked = Confined()
    with pytest.raises(ConfigError, match=r"its constructor connects to something outside .*, which a trial build may"):
        apart(build, asked)
    assert asked.refused.startswith("connects to something outside (")
    with pytest.raises(BlockingIOError):
        listening.accept()


@pytest.mark.parametrize("name", CHANGING)
def test_a_trial_build_changes_nothing(name: str, folder: Path) -> None:
    asked = Confined()
    with pytest.raises(OSError):  # `tempfile` raises its own, for want of a folder
        apart(lambda: CHANGING[name](0, folder), asked)

    assert asked.refused
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("old", "as it was")]


def test_a_trial_build_may_read_and_make_sure_of_a_folder(folder: Path) -> None:
    def build() -> str:
        folder.mkdir(exist_ok=True)
        Path(os.devnull).write_text("x")
        return (folder / "old").read_text()

    assert apart(build, Confined()) == "as it was"


def test_nothing_is_confined_afterwards_and_in_other_threads(folder: Path) -> None:
    started, ended = threading.Event(), threading.Event()

    def write() -> None:
        started.wait()
        (folder / "new").touch()
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()

    def build() -> None:
        started.set()
        assert ended.wait(30)

    apart(build, Confined())
    writer.join()
    (folder / "newer").touch()
    assert sorted(path.name for path in folder.iterdir()) == ["new", "newer", "old"]


def test_a_build_in_a_build_leaves_the_outer_one_confined(folder: Path) -> None:
    def build() -> None:
        apart(lambda: None, Confined())
        (folder / "new").touch()

    with pytest.raises(
        PermissionError, match=r"a trial build (changes files|writes a file), which it may not do \((os.utime|open)\)"
    ):
        apart(build, Confined())


@pytest.mark.parametrize("error", [ConfigError("taken for its own"), None])
def test_a_build_that_connected_counts_for_nothing_whatever_became_of_it(error: ConfigError | None) -> None:
    def build() -> str:
        try:
            socket.getaddrinfo("localhost", 1)
        except BaseException:  # noqa: BLE001  # as a bare `except:` does
            if error is not None:
                raise error from None
        return "built another way"

    with pytest.raises(ConfigError, match=r"model: its constructor connects to something outside"):
        apart(build, Confined())


def test_what_ends_a_build_is_not_an_exception_that_a_constructor_catches() -> None:
    assert not issubclass(LeftError, Exception)
