"""What the runs of the tests take in: every file, every test in a run of `.ci/run`, and no skip without a reason."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import noxfile
from tests.command import REPOSITORY, run_afresh
from tests.conftest import COLLECTED, ONLY_LISTED_SKIPS
from tests.skips import LISTED, Listed, expected


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


def takes(expression: str, marks: set[str]) -> bool:
    """Whether `-m EXPRESSION` runs a test with these marks."""
    return bool(eval(expression, {}, defaultdict(bool, dict.fromkeys(marks, True))))


def test_every_test_is_run_by_ci_and_only_property_tests_twice(pytestconfig: pytest.Config) -> None:
    options = pytestconfig.getini("addopts")
    default = options[options.index("-m") + 1]
    second = noxfile.SLOW
    (line,) = re.findall(r"-m pytest(.*)$", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    assert line == " -n auto --dist worksteal"

    for item in pytestconfig.stash[COLLECTED]:
        marks = {mark.name for mark in item.iter_markers()}
        runs = [takes(default, marks), takes(second, marks), *(takes(part, marks) for part in noxfile.APART)]
        twice = "hypothesis" in marks and not marks.intersection(("slow", *noxfile.APART))
        assert sum(runs) == (2 if twice else 1), item.nodeid
        assert all(item.nodeid.startswith(place) for part, place in noxfile.APART.items() if part in marks)


def test_a_skip_is_expected_where_it_is_listed() -> None:
    listed = [Listed("only on *", here=True, because="a"), Listed("never", here=False, because="b")]
    assert expected("only on Tuesdays", listed)
    assert not expected("never", listed)
    assert not expected("sometimes", listed)


def test_every_listed_skip_is_one_of_the_tests() -> None:
    sources = [path.read_text() for path in REPOSITORY.glob("tests/**/*.py") if path.name != "skips.py"]
    for entry in LISTED:
        said = entry.says.replace("[[]", "[").strip("* ")
        assert any(said in source for source in sources), said
        assert entry.because


@pytest.mark.slow
@pytest.mark.parametrize("workers", [[], ["-n", "1"]], ids=["one process", "xdist"])
def test_a_skip_that_is_not_listed_makes_a_run_fail(workers: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(
        "import pytest\n"
        "def test_a(): pytest.skip('out of order')\n"
        "def test_b(): pytest.skip('the system keeps the file in its cache')\n"
        "@pytest.mark.xfail\n"
        "def test_c(): raise ValueError\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command += ["--confcutdir", str(REPOSITORY), "-p", "tests.conftest", *workers, "test_own.py"]
    lenient = run_afresh(*command, cwd=tmp_path, PYTHONPATH=str(REPOSITORY), PYTEST_ADDOPTS="")
    assert lenient.returncode == 0, lenient.stdout + lenient.stderr
    strict = run_afresh(*command, ONLY_LISTED_SKIPS, cwd=tmp_path, PYTHONPATH=str(REPOSITORY), PYTEST_ADDOPTS="")
    assert strict.returncode == 1
    assert "skipped, and not listed in tests/skips.py" in strict.stdout
    assert re.findall(r"^\S+::(\w+): (.*)$", strict.stdout, re.MULTILINE) == [("test_a", "out of order")]
