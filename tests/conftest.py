"""How tests are run, and the state of the process that no test passes to the next one.

Property tests try few examples by default (`dev`); `.ci/run` repeats them with many (`--hypothesis-profile=ci`).
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

from loader.text import redaction
from tests.laws import DEFAULT, PROFILES

for _name, _examples in PROFILES.items():
    settings.register_profile(_name, max_examples=_examples, deadline=None)
settings.load_profile(DEFAULT)

ONLY_LISTED_SKIPS = "--only-listed-skips"

COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""All tests of the files that were collected, with those that `-m` and `-k` leave out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "fail for each skip that tests/skips.py does not list"
    parser.addoption(ONLY_LISTED_SKIPS, action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption(ONLY_LISTED_SKIPS) and not hasattr(config, "workerinput"):
        from tests.skips import OnlyListed  # imports torch, which the process that distributes tests does without

        config.pluginmanager.register(OnlyListed())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = list(items)


@pytest.fixture(autouse=True, scope="module")
def frozen_heap() -> None:
    """Exempts what is there before a file's tests from the garbage collector.

    The loader searches for garbage after some builds; here that would look through every import of every test.
    """
    gc.collect()
    gc.freeze()


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
