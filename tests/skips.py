"""Which tests may be skipped, where, and why; `pytest --only-listed-skips` fails where another one is."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.util import find_spec

import pytest
import torch

from tests.page.chromium import PROGRAM, WITHOUT

_LINUX = sys.platform == "linux"
_KERNEL = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
_TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
_GPU = torch.cuda.is_available()
_UNSEEN = PROGRAM is None and "CI" not in os.environ


@dataclass(frozen=True)
class Listed:
    """A skip that is expected."""

    says: str
    """What the test says when it is skipped, as a pattern."""
    here: bool
    """Whether it is expected on this machine."""
    because: str


LISTED = (
    Listed("no folder of published checkpoints; *", True, "they are gigabytes, and downloaded by hand"),
    Listed(
        "the system keeps the file in its cache", True, "some file systems keep a file in memory whatever is advised"
    ),
    Listed(WITHOUT, _UNSEEN, "`.ci/run` installs it, and fails without"),
    Listed("training needs the [[]examples] extra", not find_spec("sklearn"), "the README's line installs [dev] alone"),
    Listed("git is not installed", not shutil.which("git"), "a container may have Python alone"),
    Listed("the superuser may read everything", _ROOT, "nothing is unreadable for root; containers run as root"),
    Listed("root may list every folder", _ROOT, "likewise"),
    Listed("there is such a device", _GPU, "the test is about a machine without a GPU"),
    Listed("is about a machine without a GPU", _GPU, "likewise"),
    Listed("Linux places whole huge pages *", not _LINUX or _KERNEL < (6, 7), "an older kernel places them otherwise"),
    Listed("torch 2.6 gives nan instead of clipping", _TORCH < (2, 8), "the oldest torch casts otherwise"),
    Listed("torch writes this kind of archive since 2.8", _TORCH < (2, 8), "an older torch cannot write the file"),
    Listed("a route leads through a newer torch", not find_spec("torch.nn.attention._fa4"), "an older torch lacks it"),
    Listed("Hydra refuses nothing of its own before 1.3.8", True, "the test is about a newer Hydra"),
    Listed("resident memory is read from /proc", not _LINUX, "only Linux has /proc"),
    Listed("open files are listed in /proc alone", not _LINUX, "only Linux has /proc"),
    Listed("Linux tells of a process's *", not _LINUX, "only Linux has /proc"),
    Listed("the processes of a session are listed nowhere", not _LINUX, "only Linux has /proc"),
    Listed("no small disk can be mounted", not _LINUX or not _ROOT, "a container may forbid it to others than root"),
    Listed("Windows has no pseudo terminals", sys.platform == "win32", "only POSIX has them"),
    Listed("no file that is always full", not _LINUX, "only Linux has /dev/full"),
    Listed("this system takes no advice", not _LINUX, "macOS and Windows have no posix_fadvise"),
    Listed("this system cannot tell what is in memory", not _LINUX, "only Linux has RWF_NOWAIT"),
)


def expected(reason: str, listed: Iterable[Listed] = LISTED) -> bool:
    """Says whether a skip with this reason is expected here."""
    return any(entry.here and fnmatch(reason, entry.says) for entry in listed)


class OnlyListed:
    """A plugin that makes a run fail for each skip that is not expected."""

    def __init__(self) -> None:
        self.unlisted: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes a test that was skipped."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Notes a file that was skipped as a whole."""
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail") and isinstance(report.longrepr, tuple):
            reason = report.longrepr[2].removeprefix("Skipped: ")
            if not expected(reason):
                self.unlisted[report.nodeid] = reason

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Makes a run fail that would have passed."""
        if self.unlisted and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Names the skips that are not expected."""
        if self.unlisted:
            terminalreporter.section("skipped, and not listed in tests/skips.py", red=True)
        for test, reason in self.unlisted.items():
            terminalreporter.line(f"{test}: {reason}")
