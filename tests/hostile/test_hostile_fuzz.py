"""Damaged files of every format are read or refused; `fuzz.py` says what the law is, and tries more on purpose."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loader.errors import CheckpointError
from tests.hostile.fuzz import STATE, WITH_CHECKSUMS, BrokenLawError, prepared, source_of, values_of
from tests.hostile.harness import REPOSITORY
from tests.hostile.mutate import BLIND, knowing
from tests.hostile.samples import SAMPLES, torch_zip

TRIES = 25
"""Per format; the long run is another command."""
PADDED = frozenset({"torch-tar"})
"""Formats that end in zeros which nobody needs."""


@pytest.mark.slow
def test_the_law_holds(tmp_path: Path) -> None:
    """In a process of its own, which a signal may end."""
    command = [sys.executable, "-m", "tests.hostile.fuzz", "--tries", str(TRIES), "--folder", str(tmp_path / "fuzzed")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [*SAMPLES]
    assert all(f" {TRIES} tried" in line for line in lines[:-1])
    assert lines[-1] == "the law held"


def lengths(content: bytes) -> Iterator[int]:
    """Places to cut at: close together where indexes stand."""
    size = len(content)
    yield from range(min(150, size))
    yield from range(150, size, 1 + size // 100)
    yield from range(max(150, size - 100), size)


@pytest.mark.parametrize("name", [*SAMPLES])
def test_a_cut_file_is_refused_wherever_it_is_cut(name: str, tmp_path: Path) -> None:
    """Whichever of a folder's files it is."""
    honest = prepared(name, SAMPLES[name], tmp_path / "honest")
    for path, content in honest.files.items():
        for length in lengths(content):
            path.write_bytes(content[:length])
            if name in PADDED and not content[length:].strip(b"\0"):
                continue
            with pytest.raises(CheckpointError) as refusal:
                values_of(honest.path)
            if len(honest.files) == 1 and length > 600:
                assert any(word in refusal.value.message for word in (" is cut off: ", " is damaged: ")), length
        path.write_bytes(content)


def test_a_leak_and_a_wrong_value_break_the_law(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = prepared("torch-zip", torch_zip, tmp_path / "honest")
    monkeypatch.setattr("tests.hostile.fuzz.values_of", lambda path: next(iter(())))
    with pytest.raises(BrokenLawError, match="leaked StopIteration"):
        honest.attempt(source_of(0, "torch-zip", 0))
    with pytest.raises(BrokenLawError, match=r"gave other values for \['weight'\]"):
        honest.compare({"weight": [b""]})
    assert honest.name in WITH_CHECKSUMS


def test_a_number_makes_the_same_file_again(tmp_path: Path) -> None:
    honest = prepared("safetensors", SAMPLES["safetensors"], tmp_path / "honest")
    (path,) = honest.files

    def made(number: int) -> bytes:
        honest.mutated(source_of(3, "safetensors", number))
        return path.read_bytes()

    several = [made(number) for number in range(8)]
    assert several == [made(number) for number in range(8)]
    assert len(set(several)) > 4


def test_every_change_changes_and_those_that_know_the_format_keep_it_whole(tmp_path: Path) -> None:
    content = torch_zip(tmp_path, STATE).read_bytes()
    for change in (*BLIND, *knowing(content)):
        assert any(change(content, source_of(0, change.__name__, number)) != content for number in range(5))
    assert knowing(b"\x80\x02") == ()
