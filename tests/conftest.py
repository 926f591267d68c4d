"""State of the process that no test hands on to the next one."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from loader.text import redaction


@pytest.fixture(autouse=True)
def no_secrets() -> Iterator[None]:
    """Forgets the secrets of URLs that a test has named: a password such as ``pass`` hides the word from then on."""
    yield
    redaction._hidden.clear()
    redaction._pattern.cache_clear()


@pytest.fixture(autouse=True)
def closed_logs() -> Iterator[None]:
    """Closes the log files that a job in this process has left open."""
    yield
    named = logging.root.manager.loggerDict.values()
    for logger in (logging.root, *(known for known in named if isinstance(known, logging.Logger))):
        for handler in [handler for handler in logger.handlers if type(handler) is logging.FileHandler]:
            logger.removeHandler(handler)
            handler.close()
