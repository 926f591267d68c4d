"""How the bytes of a URL come here.

Guarantees: every wait is bounded; an answer says which bytes it begins with and which version of the file they are of;
what a protocol's library raises leaves as a `CheckpointError`, or as `Interrupted` where trying again may help.
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
"""Seconds that one attempt waits for an answer, and for the next bytes of it."""
_MINUTE = 60.0
_Result = TypeVar("_Result")


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

    def held(self, url: Url, tag: str) -> Path | None:
        """The file of this version or sha256, if another program keeps a copy on this machine."""
        ...

    def last_held(self, url: Url) -> Path | None:
        """The file as another program downloaded it last, if it did."""
        ...

    def close(self) -> None:
        """Ends all connections."""
        ...


def patiently(url: Url, ask: Callable[[], _Result], fix: Fix = NO_FIX) -> _Result:
    """Asks a server something small, again where it does not answer.

    Args:
        url: What is asked for.
        ask: Asks once.
        fix: What to do if it stays so; empty takes what the failure suggests.

    Raises:
        CheckpointError: It never answered.
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
    """Whether another attempt may be made, which must be over a minute after the last sign of life.

    Args:
        failed: How many attempts brought nothing.
        since: When the last sign of life was, or the first question.
    """
    if failed > len(PAUSES):
        return False
    return time.monotonic() - since + _pause(failed) + SILENCE <= _MINUTE


def wait(url: Url, error: Interrupted, failed: int) -> None:
    """Says that a new attempt will be made, and waits for it; the longer, the more attempts have failed."""
    log.info("%s %s, trying again", url.shown, error.how)
    time.sleep(_pause(failed))


def _pause(failed: int) -> float:
    return PAUSES[max(failed - 1, 0)]


def given_up(url: Url, error: Interrupted, fix: Fix = NO_FIX) -> CheckpointError:
    """What to raise where no attempt helped."""
    return CheckpointError(f"{url.shown} {error.how}", fix or error.fix)
