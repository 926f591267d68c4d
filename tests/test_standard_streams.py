"""Prints that nobody reads, that find no room, and that the encoding lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import REPOSITORY

PROGRAM = """
import logging, os, sys
from loader.runtime import printing_failed, unbreakable

with unbreakable():
    log = logging.getLogger("own")
    log.addHandler(logging.StreamHandler(sys.stdout))
    for line in range(3):
        print("print", line, flush=True)
        log.error("log %d", line)
    print("names: caf\\udce9 \\u2192")
    print("expected", file=sys.stderr)
    failed = printing_failed()
    opened = os.open(sys.argv[1], os.O_RDONLY)
    outcome = f"{failed and failed.strerror} {opened > 2}"
with open("outcome", "w") as file:
    file.write(outcome)
"""


def outcome(folder: Path, how: str, **environment: str) -> tuple[int, str, str]:
    """Runs the program through a shell; returns its exit code, its note, and what its stderr got."""
    (folder / "program.py").write_text(PROGRAM)
    command = f'"{sys.executable}" program.py program.py {how}; exit ${{PIPESTATUS[0]}}'
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    done = subprocess.run(["bash", "-c", command], cwd=folder, env=env, capture_output=True, check=False, timeout=60)
    note = folder / "outcome"
    return done.returncode, note.read_text() if note.is_file() else "", (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("how", ["| head -1 >first", "| true", ">&-", "2>&1 | true", ">&- 2>&- <&-"])
def test_a_reader_that_goes_away_is_not_an_error(tmp_path: Path, how: str) -> None:
    code, note, expected = outcome(tmp_path, how)
    assert (code, note) == (0, "None True")
    assert expected == ("" if "2>" in how else "expected\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_full_disk_is_remembered(tmp_path: Path) -> None:
    assert outcome(tmp_path, ">/dev/full") == (0, "No space left on device True", "expected\n")


def test_a_character_that_the_encoding_lacks_is_written_as_its_escape(tmp_path: Path) -> None:
    code, _, expected = outcome(tmp_path, "", PYTHONIOENCODING="ascii")
    assert code == 0
    assert "names: caf\\udce9 \\u2192\n" in expected


def test_a_stream_that_was_replaced_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from loader.runtime import printing_failed, unbreakable

    before = sys.stdout
    with unbreakable():
        assert sys.stdout is before
        print("seen")  # noqa: T201
        assert printing_failed() is None
    assert capsys.readouterr().out == "seen\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_command_whose_output_found_no_room_is_not_called_done(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "run.py"), "--version"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error  part of the output is lost: stdout could not be written (No space left on device)\n"
        "  try  df -h   # shows which disk is full\n"
    )
