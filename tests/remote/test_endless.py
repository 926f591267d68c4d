"""Servers and storages that say nothing, or do not stop."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import save
from torch import arange

from loader.errors import CheckpointError
from loader.remote import cache as caches
from loader.remote import download, storage, transport, web
from loader.remote.transport import Interrupted
from loader.remote.urls import parse_url
from loader.text.lines import Fix
from tests.remote.asking import files_in, refusal
from tests.remote.server import Server, answering

SMALL = save({"a": arange(4.0)})
OTHERS_MEANS = "checkpoint.path=FILE   # after downloading it by other means"


class Clock:
    """A clock that goes on only where something waits."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("takes", [transport.SILENCE, 15.0, 1.0])
def test_whoever_says_nothing_is_waited_for_no_longer_than_a_minute(
    takes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(transport, "time", clock)
    monkeypatch.setattr(transport, "PAUSES", (0.5, 2.0, 4.0, 8.0))

    def ask() -> None:
        clock.sleep(takes)
        raise Interrupted("did not answer", Fix(note="try again later"))

    with pytest.raises(CheckpointError, match="https://host/a did not answer"):
        transport.with_retries(parse_url("https://host/a"), ask)
    assert 15 < clock.now <= 60


def test_no_attempt_waits_longer_than_a_minute() -> None:
    assert max(web._SILENCE, web._CONNECTING, storage._ANSWER, storage._WHOLE_BLOCK) <= 60


def test_interim_answers_without_end_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SILENCE", 0.1)

    def go_on(connection: socket.socket, _request: bytes) -> None:
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
            time.sleep(0.001)

    with answering(go_on) as url:
        assert refusal(url).message == f"{url} did not answer within 0 seconds"


def without_length(connection: socket.socket, request: bytes) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while not request.startswith(b"HEAD"):
        connection.sendall(b"\x93" * 100_000)


def test_a_body_without_a_length_and_without_an_end_is_given_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_MOST_UNDECLARED", 2_000_000)
    with answering(without_length) as url:
        error = refusal(url)
    assert error.message.startswith(f"{url} declares no length and does not end: 2.")
    assert error.message.endswith(" MB received")
    assert error.hint == OTHERS_MEANS
    assert files_in(cache) == []


class Disk(NamedTuple):
    total: int
    free: int


def test_the_disk_is_never_filled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_CHECKED", 1_000_000)
    free = [3_000_000_000, 1_500_000_000, 900_000_000]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(200_000_000_000, free.pop(0)))
    with answering(without_length) as url:
        error = refusal(url)
    assert error.message == (
        f"{url} needs 0 B more in the cache {cache}, which has 900.0 MB free and keeps 1.1 GB in reserve"
    )
    assert error.hint.startswith("LOADER_CACHE=FOLDER   # on a larger disk")
    assert files_in(cache) == []


def test_a_small_disk_has_a_small_reserve(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1_000_000_000, 10_000_000 + len(SMALL) - 1))
    url = server.add("/a.safetensors", SMALL)
    assert refusal(url).message == (
        f"{url} needs {len(SMALL)} B more in the cache {cache}, which has 10.0 MB free and keeps 10.0 MB in reserve"
    )
    assert caches._RESERVE == 1 << 30


def test_more_bytes_than_were_declared_are_not_taken(cache: Path) -> None:
    def more(connection: socket.socket, request: bytes) -> None:
        declared = b"Content-Length: 1000\r\n" if request.startswith(b"HEAD") else b""
        connection.sendall(b'HTTP/1.1 200 OK\r\nConnection: close\r\nETag: "a"\r\n' + declared + b"\r\n")
        while not declared:
            connection.sendall(b"\x93" * 600)

    with answering(more) as url:
        error = refusal(url)
    assert error.message.startswith(f"{url} has the wrong length: 1,000 bytes were declared, ")
    assert files_in(cache) == []


def test_a_few_bytes_now_and_then_are_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(web, "time", clock)

    def trickle(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4000\r\n\r\n")
        while not request.startswith(b"HEAD"):
            clock.sleep(15.0)
            connection.sendall(b"\x93")
            time.sleep(0.002)

    with answering(trickle) as url:
        assert f"{url} sent only " in refusal(url).message
