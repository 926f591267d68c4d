from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from loader.errors import CheckpointError
from loader.files import descriptors
from loader.files.descriptors import Descriptor
from loader.files.file import CheckpointFile
from tests.formats.dcp_writer import Writer
from tests.formats.sharding import write_sparse


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Three files stay open."""
    gc.collect()
    monkeypatch.setattr(descriptors, "_idle", type(descriptors._idle)())
    monkeypatch.setattr(descriptors, "_FEWEST", 3)
    monkeypatch.setattr(descriptors, "_MOST", 3)
    yield
    gc.collect()


def files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.bin" for number in range(count)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


def open_under(folder: Path) -> list[str]:
    links = (os.path.realpath(number) for number in Path("/proc/self/fd").iterdir())
    return sorted(Path(link).name for link in links if link.startswith(f"{folder}/"))


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed in /proc alone")


@needs_proc
@pytest.mark.usefixtures("few")
def test_only_the_last_used_files_stay_open_and_all_can_be_read(tmp_path: Path) -> None:
    opened = [CheckpointFile(path) for path in files(tmp_path, 6)]
    assert open_under(tmp_path) == ["3.bin", "4.bin", "5.bin"]
    assert [file.pread(0, 5) for file in opened] == [b"0.bin", b"1.bin", b"2.bin", b"3.bin", b"4.bin", b"5.bin"]
    opened[0].pread(0, 1)
    assert open_under(tmp_path) == ["0.bin", "4.bin", "5.bin"]
    for file in opened:
        file.close()
    assert open_under(tmp_path) == []


@needs_proc
@pytest.mark.usefixtures("few")
def test_what_is_in_use_is_not_closed(tmp_path: Path) -> None:
    first, *others = (Descriptor(path) for path in files(tmp_path, 5))
    with first as number:
        for other in others:
            with other as inner:
                assert os.pread(inner, 5, 0) == other.path.name.encode()
        assert os.pread(number, 5, 0) == b"0.bin"
        assert len(open_under(tmp_path)) == 4
    assert len(open_under(tmp_path)) == 3


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("how", ["replaced", "rewritten", "rewritten unseen", "gone", "pipe"])
def test_a_file_that_is_another_when_it_is_opened_again_is_reported(how: str, tmp_path: Path) -> None:
    paths = files(tmp_path, 5)
    first, *_others = [CheckpointFile(path) for path in paths]
    if how == "replaced":
        shutil.copy(paths[1], tmp_path / "new")
        (tmp_path / "new").rename(paths[0])
    elif how == "rewritten":
        paths[0].write_bytes(b"longer than before")
    elif how == "rewritten unseen":
        before = paths[0].stat()
        paths[0].write_bytes(b"other")
        os.utime(paths[0], ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        paths[0].unlink()
        if how == "pipe":
            os.mkfifo(paths[0])
    fault = {
        "replaced": "changed while it was being read (same size, written since)",
        "rewritten": "changed while it was being read (5 bytes then, 18 now)",
        "rewritten unseen": "changed while it was being read (it was replaced, or its permissions or links",
        "gone": "no such file",
        "pipe": "is a named pipe; a checkpoint file was expected",
    }
    for work in (lambda: first.pread(0, 1), first.check_unchanged, lambda: first.mapping):
        with pytest.raises(CheckpointError) as caught:
            work()
        assert fault[how] in caught.value.message


LOAD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from loader.parts.open import open_checkpoint
for mmap in (True, False):
    with open_checkpoint(sys.argv[1]) as checkpoint:
        entries = [e for _, c in checkpoint.root.walk() for e in c.tensors().values()]
        checkpoint.will_need(entries)
        checkpoint.verify(entries, mmap=mmap)
        tensors = [checkpoint.read(entry, mmap=mmap) for entry in entries]
        checkpoint.check_unchanged()
        print(len(tensors), len(checkpoint.sha256()))
"""


def load(folder: Path) -> list[str]:
    command = [sys.executable, "-c", LOAD, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_hundreds_of_shards_need_few_descriptors(tmp_path: Path) -> None:
    assert load(write_sparse(tmp_path / "m", 300, 1, 2)) == ["300 64", "300 64"]


def test_a_tensor_in_hundreds_of_files_needs_few_descriptors(tmp_path: Path) -> None:
    writer = Writer(200)
    writer.add(("w",), torch.arange(200.0), [((number,), (1,)) for number in range(200)])
    assert load(writer.write(tmp_path / "d")) == ["1 64", "1 64"]
