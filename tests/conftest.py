"""How tests are run, and the state of the process that no test passes to the next one.

Property tests try few examples by default (`dev`); `.ci/run` repeats them with many (`--hypothesis-profile=ci`).
"""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture(autouse=True)
def valid_reports(request: pytest.FixtureRequest, own_folders: set[Path]) -> Iterator[None]:
    """Fails a test whose reports and summaries do not fulfill their schemas; `damaged_reports` marks one on purpose."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        own_folders.add(folder)
        if request.node.get_closest_marker("damaged_reports") is None:
            _refuse_invalid_reports(folder)


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[Path]]:
    """The folders of single tests; fails the session if a report in another one does not fulfill its schema."""
    own = set[Path]()
    yield own
    shared = {*tmp_path_factory.getbasetemp().iterdir()} - own
    for folder in sorted(folder for folder in shared if not folder.is_symlink()):
        _refuse_invalid_reports(folder)


def _refuse_invalid_reports(folder: Path) -> None:
    if importlib.util.find_spec("jsonschema") is None:  # the oldest versions are tried without it
        return
    from tests.schemas import OF_FILES, faults_of_file  # most tests write no report

    places = (Path(place, name) for place, _, names in os.walk(folder) for name in OF_FILES.keys() & set(names))
    for path in places:
        if path.is_file() and path.parent.name != "schemas":  # of an installed copy
            found = faults_of_file(path)
            assert not found, f"{path} does not fulfill its schema:\n" + "\n".join(found[:20])
