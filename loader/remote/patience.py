"""Trying again where a server or a connection fails for a moment.

Guarantees: the number of attempts and the time between them are bounded; a host that is not there is not waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from loader.errors import CheckpointError
from loader.remote.transport import Interrupted, Unreachable
from loader.remote.urls import Url

log = logging.getLogger(__name__)

PAUSES = (0.5, 2.0, 4.0, 8.0)
"""Seconds before each new attempt."""
_Result = TypeVar("_Result")


def patiently(url: Url, ask: Callable[[], _Result], hint: str = "") -> _Result:
    """Asks a server something small, again where it does not answer.

    Args:
        url: What is asked for.
        ask: Asks once.
        hint: What to do if it stays so; empty takes what the failure suggests.

    Raises:
        CheckpointError: It never answered.
    """
    for pause in PAUSES:
        try:
            return ask()
        except Unreachable as error:
            raise given_up(url, error, hint) from None
        except Interrupted as error:
            wait(url, error, pause)
    try:
        return ask()
    except Interrupted as error:
        raise given_up(url, error, hint) from None


def wait(url: Url, error: Interrupted, seconds: float) -> None:
    """Says that a new attempt will be made, and waits for it."""
    log.info("%s %s, trying again", url.shown, error.how)
    time.sleep(seconds)


def given_up(url: Url, error: Interrupted, hint: str = "") -> CheckpointError:
    """What to raise where no attempt helped."""
    return CheckpointError(f"{url.shown} {error.how}", hint or error.hint)
