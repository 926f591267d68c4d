"""Trying again where a server or a connection fails for a moment.

Guarantees: the number of attempts and the time between them are bounded; nobody who says nothing is waited for longer
than a minute, whatever the number of attempts; a host that is not there is not waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ..errors import CheckpointError
from ..text.lines import NO_FIX, Fix
from .transport import Interrupted, Unreachable
from .urls import Url

log = logging.getLogger(__name__)

PAUSES = (0.5, 2.0, 4.0, 8.0)
"""Seconds before each new attempt."""
SILENCE = 29.0
"""Seconds that one attempt waits for an answer, and for the next bytes of it."""
_MINUTE = 60.0
_Result = TypeVar("_Result")


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
            wait(url, error, PAUSES[attempts - 1])


def worth_another(failed: int, since: float) -> bool:
    """Whether another attempt may be made, which must be over a minute after the last sign of life.

    Args:
        failed: How many attempts brought nothing.
        since: When the last sign of life was, or the first question.
    """
    if failed > len(PAUSES):
        return False
    return time.monotonic() - since + PAUSES[max(failed - 1, 0)] + SILENCE <= _MINUTE


def wait(url: Url, error: Interrupted, seconds: float) -> None:
    """Says that a new attempt will be made, and waits for it."""
    log.info("%s %s, trying again", url.shown, error.how)
    time.sleep(seconds)


def given_up(url: Url, error: Interrupted, fix: Fix = NO_FIX) -> CheckpointError:
    """What to raise where no attempt helped."""
    return CheckpointError(f"{url.shown} {error.how}", fix or error.fix)
