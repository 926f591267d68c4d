"""What a job prints: a file in its folder, whatever becomes of its process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loader.errors import ConfigError
from loader.sweep.output import has_output, print_error_into
from loader.text.lines import Fix
from loader.text.redaction import remember
from tests.command import REPOSITORY, run_afresh

START = (
    "import os, sys; from pathlib import Path; from loader.sweep.output import print_into; print_into(Path('job'))\n"
)
CRASH = "import ctypes; ctypes.string_at(0)"


def printed(code: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """The exit code of a process that begins as a job does, and what it printed: to the terminal, and to the file."""
    done = run_afresh(sys.executable, "-c", START + code, cwd=folder, PYTHONPATH=str(REPOSITORY), **environment)
    file = folder / "job" / "output.txt"
    return done.returncode, done.stdout + done.stderr, file.read_text(encoding="utf-8") if file.is_file() else ""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "output.txt").write_text("of an earlier run")
    return tmp_path


def test_everything_is_in_the_file_in_order(folder: Path) -> None:
    code = "print('out', flush=True); os.system('echo shell'); sys.stderr.write('err \\xe9\\n'); os.write(2, b'raw')"
    assert printed(code, folder, LC_ALL="C", PYTHONUTF8="0") == (0, "", "out\nshell\nerr é\nraw")


def test_the_stack_of_a_crash_is_in_the_file(folder: Path) -> None:
    code, shown, kept = printed(f"print('before')\nsys.stdout.flush()\n{CRASH}", folder)
    assert (code, shown) == (-11, "")
    assert kept.startswith("before\nFatal Python error: Segmentation fault")
    assert "in string_at" in kept


def test_a_job_without_room_prints_nowhere(tmp_path: Path) -> None:
    assert printed("print('lost')", tmp_path) == (0, "", "")


def test_a_refusal_is_added_to_the_file_without_secrets(folder: Path) -> None:
    remember("https://me:hunter2222@host/a.pt")
    print_error_into(folder / "job", ConfigError("no hunter2222 \x1b", Fix("device=cpu", "works")))
    text = (folder / "job" / "output.txt").read_text()
    assert text == "of an earlier runerror  no *** \\x1b\n  try  device=cpu   # works\n"
    print_error_into(folder / "gone", ConfigError("nobody reads this"))
    assert [has_output(folder / name) for name in ("job", "gone")] == [True, False]
