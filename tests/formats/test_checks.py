from __future__ import annotations

import hashlib
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from loader.errors import CheckpointError
from loader.formats import checksums
from loader.formats.tree import Container
from loader.parts.open import open_checkpoint


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.pt"
    torch.save({"state": {"a": torch.arange(1000), "b": torch.ones(2000)}, "other": torch.zeros(50)}, path)
    return path


def flipped(path: Path, content: bytes) -> Path:
    """Flips one bit inside the first place where a file holds this."""
    data = bytearray(path.read_bytes())
    data[bytes(data).index(content) + len(content) // 2] ^= 1
    path.write_bytes(data)
    return path


ONES = bytes(torch.ones(2000).view(torch.uint8).tolist())


@pytest.mark.parametrize("mmap", [True, False])
def test_a_flipped_bit_is_reported_with_the_record_and_the_tensor(path: Path, mmap: bool) -> None:
    with open_checkpoint(flipped(path, ONES)) as checkpoint:
        state = checkpoint.root.children["state"]
        assert isinstance(state, Container)
        with pytest.raises(CheckpointError) as refusal:
            checkpoint.verify(state.tensors().values(), mmap=mmap)
    assert refusal.value.message == (
        f"{path} is damaged: checksum mismatch in 1 record of 2 read: data/1; damaged with them: state.b"
    )
    assert refusal.value.hint == "copy or download the file again"


def test_only_what_is_used_is_checked(path: Path) -> None:
    with open_checkpoint(flipped(path, ONES)) as checkpoint:
        checkpoint.verify([checkpoint.root.tensors()["other"]])
        checkpoint.verify([])


def test_a_full_check_reads_every_record_at_once(path: Path) -> None:
    open_checkpoint(path, check="full").close()
    flipped(path, ONES)
    with pytest.raises(CheckpointError, match=r"checksum mismatch in 1 record of \d+ read: data/1"):
        open_checkpoint(path, check="full")


def test_a_structural_check_compares_no_checksum(path: Path) -> None:
    with open_checkpoint(flipped(path, ONES), check="structure") as checkpoint:
        checkpoint.verify(checkpoint.root.tensors().values())


def test_a_damaged_index_is_reported(path: Path) -> None:
    flipped(path, b"other")
    with pytest.raises(CheckpointError, match=r"its index \(data.pkl\) does not match its checksum"):
        open_checkpoint(path)
    open_checkpoint(path, check="structure").close()


def test_files_without_checksums_are_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "get_crc32_options", lambda: False)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"b": torch.ones(2000)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    with zipfile.ZipFile(path) as archive:
        assert {member.CRC for member in archive.infolist()} == {0}
    with open_checkpoint(path) as checkpoint:
        checkpoint.verify(checkpoint.root.tensors().values())
        assert checkpoint.read(checkpoint.root.tensors()["b"]).sum() == 2000
    open_checkpoint(path, check="full").close()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_large_storages_are_checked_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int) -> None:
    monkeypatch.setattr(checksums, "_PIECE", 1000)
    path, packed = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({"a": torch.arange(10_000), "b": torch.arange(30), "c": torch.arange(5000)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", method) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with open_checkpoint(packed) as checkpoint:
        checkpoint.verify(checkpoint.root.tensors().values())
    data = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        data[archive.getinfo("a/data/2").header_offset + 400] ^= 1
    packed.write_bytes(data)
    with open_checkpoint(packed) as checkpoint, pytest.raises(CheckpointError, match=r"is damaged: .*data/2"):
        checkpoint.verify(checkpoint.root.tensors().values())


def test_the_digest_is_compared(path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with open_checkpoint(path, sha256=digest.upper()) as checkpoint:
        assert checkpoint.sha256() == digest
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path, sha256="0" * 64)
    assert refusal.value.message == (
        f"{path} is not the expected file: its sha256 is {digest}, checkpoint.sha256 says {'0' * 64}"
    )
    assert f"checkpoint.sha256={digest}" in refusal.value.hint


def test_a_file_that_changes_after_it_was_opened_is_reported(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(CheckpointError, match="changed while it was being read"):
            checkpoint.check_unchanged()


def test_only_the_wanted_bytes_are_announced(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    announced: list[Any] = []
    monkeypatch.setattr("loader.files.file._WITHOUT_WAITING", None)  # as if none of it were in memory
    monkeypatch.setattr("os.posix_fadvise", lambda *args: announced.append(args))
    with open_checkpoint(path) as checkpoint:
        entry = checkpoint.root.tensors()["other"]
        checkpoint.will_need([entry])
        storage = entry.storage
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join()
    assert storage is not None
    assert [(start, length) for _, start, length, _ in announced] == [(storage.offset, storage.nbytes)]
