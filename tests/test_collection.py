"""What a run of the tests takes in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.command import REPOSITORY


def tracked() -> list[Path]:
    """Every file of tests that git knows; where there is no git, every one that lies here."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    names = listed.stdout.splitlines() or [str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("tests/**/*.py")]
    return [Path(name) for name in names if Path(name).match("test_*.py")]


def is_taken_in(path: Path, config: pytest.Config) -> bool:
    """Asks what pytest itself asks of a file and of every folder on the way to it."""
    if path.parts[0] not in config.getini("testpaths"):
        return False
    way = [REPOSITORY / place for place in (path, *path.parents[:-1])]
    ignored = any(config.hook.pytest_ignore_collect(collection_path=place, config=config) for place in way)
    return not ignored and any(path.match(pattern) for pattern in config.getini("python_files"))


def test_every_file_of_tests_is_collected(pytestconfig: pytest.Config) -> None:
    files = tracked()
    assert len(files) > 100
    assert [str(path) for path in files if not is_taken_in(path, pytestconfig)] == []
