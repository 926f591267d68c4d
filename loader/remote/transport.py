"""How the bytes of a URL come here.

Guarantees: every wait is bounded; an answer says which bytes it begins with and which version of the file they are of;
what a protocol's library raises leaves as a `CheckpointError`, or as `Interrupted` where trying again may help.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ..errors import CheckpointError
from ..text.lines import Fix
from .urls import WEB, Url

INSTALL = Fix("pip install 'hydra-loader[remote]'")


class Interrupted(Exception):  # noqa: N818  # a state of the connection; whether it becomes an error is decided later
    """The connection broke, or the server asked to come back later.

    Args:
        how: Completes the sentence "URL …".
        fix: What to do if it stays so.
    """

    def __init__(self, how: str, fix: Fix) -> None:
        super().__init__(how, fix)
        self.how = how
        self.fix = fix


class Unreachable(Interrupted):
    """There is no connection at all: no such host, nobody listening, no network."""


class OutOfRange(Interrupted):
    """The file is not as long as the place from which it was asked for."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a server says of a file."""

    size: int | None
    """Bytes; None where it does not say."""
    tag: str
    """Changes when the content does; empty where the server gives nothing to tell by."""


class Answer(Protocol):
    """Some of a file's bytes, on their way."""

    version: Version
    start: int
    """Where they begin: 0 where a server does not give a part of a file."""
    partial: bool
    """Whether it is the part that was asked for, and the rest need not be listened to."""
    said: str
    """How the server put it, for messages: ``HTTP 200, text/html``."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces; raises Interrupted where they end before their time."""
        ...


class Transport(Protocol):
    """One protocol's way to remote files; used by one thread."""

    def look(self, url: Url) -> Version:
        """Asks for a file's size and version alone."""
        ...

    def open(self, url: Url, start: int = 0, end: int | None = None, tag: str = "") -> AbstractContextManager[Answer]:
        """Asks for the bytes from `start` to `end` of a file, all of it if it is not of the version `tag` any more."""
        ...

    def names(self, url: Url) -> Sequence[str] | None:
        """The names of the files in a folder; None where the URL is no folder."""
        ...

    def close(self) -> None:
        """Ends all connections."""
        ...


def connect(url: Url) -> Transport:
    """Finds the way to a URL.

    Raises:
        CheckpointError: The package for it is not installed.
    """
    try:
        if url.scheme in WEB:
            from .web import WebTransport  # noqa: PLC0415  # only URLs need fsspec and aiohttp

            return WebTransport()
        from .storage import StorageTransport  # noqa: PLC0415  # only URLs need fsspec

        return StorageTransport(url.scheme)
    except ImportError as error:
        raise CheckpointError(
            f"reading {url.scheme}:// needs a package that is not installed ({error})", INSTALL
        ) from error
