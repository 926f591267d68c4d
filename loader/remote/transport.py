"""What all protocols have in common: requests for a file's bytes, and retries.

Guarantees: every wait is bounded; an answer states the first byte and the version of the file; the errors of a
protocol's library are raised as `CheckpointError`, or as `Interrupted` if a retry may help. The number of retries and
the time between them are bounded; a silent server is given up after a minute, an unreachable one at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from ..errors import CheckpointError
from ..text.lines import NO_FIX, Fix
from .urls import Url

log = logging.getLogger(__name__)

PAUSES = (0.5, 2.0, 4.0, 8.0)
"""Seconds before each new attempt."""
SILENCE = 29.0
"""Seconds that an attempt waits for an answer, and for the next bytes of it."""
_MINUTE = 60.0
_Result = TypeVar("_Result")


class Interrupted(Exception):  # noqa: N818  # a state of the connection; whether it becomes an error is decided later
    """The connection broke, or the server is unavailable for now.

    Args:
        how: Completes the sentence "URL …".
        fix: What to do if retries do not help.
    """

    def __init__(self, how: str, fix: Fix) -> None:
        super().__init__(how, fix)
        self.how = how
        self.fix = fix


class Unreachable(Interrupted):
    """There is no connection: no such host, nobody listening, no network."""


class OutOfRange(Interrupted):
    """The file ends before the requested range."""


@dataclass(frozen=True, slots=True)
class Version:
    """The size and version of a remote file."""

    size: int | None
    """Bytes; None if unknown."""
    tag: str
    """Changes with the content; empty if the server does not report versions."""


class Answer(Protocol):
    """An answer with some of a file's bytes."""

    version: Version
    start: int
    """Offset of the first byte: 0 if the server ignores ranges."""
    partial: bool
    """Whether it is the requested range alone."""
    said: str
    """The server's own words, for messages: ``HTTP 200, text/html``."""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces; raises Interrupted if they end early."""
        ...


class Transport(Protocol):
    """Access to remote files by one protocol; for one thread."""

    def look(self, url: Url) -> Version:
        """Requests a file's size and version."""
        ...

    def open(self, url: Url, start: int = 0, end: int | None = None, tag: str = "") -> AbstractContextManager[Answer]:
        """Requests the bytes from `start` to `end`, or all of the file if its version is no longer `tag`."""
        ...

    def names(self, url: Url) -> Sequence[str] | None:
        """The names of the files in a folder; None if the URL is not a folder."""
        ...

    def version_copy(self, url: Url, tag: str) -> Path | None:
        """The file of this version or sha256, if another program keeps a copy on this machine."""
        ...

    def latest_copy(self, url: Url) -> Path | None:
        """The file as another program downloaded it last, if it did."""
        ...

    def close(self) -> None:
        """Closes all connections."""
        ...


def with_retries(url: Url, ask: Callable[[], _Result], fix: Fix = NO_FIX) -> _Result:
    """Retries a short request until the server answers or the attempts are used up.

    Args:
        url: The requested URL, for messages.
        ask: Makes one request.
        fix: What to do if no attempt helps; empty for what the failure suggests.

    Raises:
        CheckpointError: No attempt was answered.
    """
    begun = time.monotonic()
    attempts = 0
    while True:
        try:
            return ask()
        except Unreachable as error:
            raise given_up(url, error, fix) from None
        except Interrupted as error:
            attempts += 1
            if not worth_another(attempts, begun):
                raise given_up(url, error, fix) from None
            wait(url, error, attempts)


def worth_another(failed: int, since: float) -> bool:
    """Whether another attempt is due, which would end within a minute after the last sign of life.

    Args:
        failed: The number of attempts that brought nothing.
        since: The time of the last sign of life, or of the first request.
    """
    if failed > len(PAUSES):
        return False
    return time.monotonic() - since + _pause(failed) + SILENCE <= _MINUTE


def wait(url: Url, error: Interrupted, failed: int) -> None:
    """Logs that the request is retried, and waits: the longer, the more attempts have failed."""
    log.info("%s %s, trying again", url.shown, error.how)
    time.sleep(_pause(failed))


def _pause(failed: int) -> float:
    return PAUSES[max(failed - 1, 0)]


def given_up(url: Url, error: Interrupted, fix: Fix = NO_FIX) -> CheckpointError:
    """The error to raise when no attempt helped."""
    return CheckpointError(f"{url.shown} {error.how}", fix or error.fix)
