from __future__ import annotations

import ctypes
import mmap
import os
import platform
import re
import sys
from pathlib import Path

import pytest

from loader.files.descriptors import map_private

HUGE_PAGE = 2 << 20
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed in /proc alone")


def kernel() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if sys.platform == "linux" and found else (0, 0)


def mapped(path: Path) -> mmap.mmap:
    number = os.open(path, os.O_RDONLY)
    mapping = map_private(number, path.stat().st_size)
    os.close(number)
    return mapping


@needs_proc
def test_a_mapping_keeps_no_descriptor_and_never_writes_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0.bin")
    mapping = mapped(path)
    assert os.fspath(path) not in [os.path.realpath(number) for number in Path("/proc/self/fd").iterdir()]
    assert bytes(mapping) == b"0.bin"
    mapping[0] = 99
    assert path.read_bytes() == b"0.bin"


def test_a_mapping_that_the_system_refuses_is_an_error() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        map_private(-1, 5)


@pytest.mark.parametrize("size", [1, HUGE_PAGE - 1, HUGE_PAGE, HUGE_PAGE + 1, 3 * HUGE_PAGE + 4097])
def test_a_mapping_is_as_long_as_the_file_whatever_was_asked_for_its_place(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(content := os.urandom(size))
    mapping = mapped(path)
    assert len(mapping) == size
    assert mapping[:] == content


@pytest.mark.skipif(kernel() < (6, 7), reason="Linux places whole huge pages at their own boundaries since 6.7")
@pytest.mark.parametrize("size", [HUGE_PAGE, HUGE_PAGE + 1, 3 * HUGE_PAGE + 4097])
def test_a_large_mapping_begins_where_a_huge_page_does(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.bin"
    with path.open("wb") as file:
        file.truncate(size)
    kept = [mapped(path) for _ in range(3)]
    assert [ctypes.addressof(ctypes.c_char.from_buffer(one)) % HUGE_PAGE for one in kept] == [0, 0, 0]
