"""Reading what checksums cover once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loader.files.file import CheckpointFile
from loader.formats.checksums import ReadOnce
from loader.formats.tree import TensorEntry
from loader.parts.open import open_checkpoint
from tests.formats.unpacking import note_unpacked


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two views of one storage of 3 MB, one of them with strides, and a tensor of its own."""
    base = torch.arange(750_000.0)
    state = {"start": base[:10], "columns": base.view(750, 1000)[:, 3:7], "own": torch.arange(0.5, 6.0).view(2, 3)}
    torch.save(state, tmp_path / "views.pt")
    return tmp_path / "views.pt"


def tensors(path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    read_into = CheckpointFile.read_into

    def counted(self: CheckpointFile, tensor: torch.Tensor, offset: int) -> memoryview:
        reads.append(tensor.nbytes)
        return read_into(self, tensor, offset)

    monkeypatch.setattr(CheckpointFile, "read_into", counted)
    with open_checkpoint(path) as checkpoint:
        entries = checkpoint.root.tensors()
        once = ReadOnce(entries.values(), checkpoint.inflate, mmap=False)
        found = {name: checkpoint.read(once(entry), mmap=False) for name, entry in entries.items()}
        assert not once.damaged
        assert not once._memory
    return found


def test_every_byte_is_read_once_and_shared_as_in_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    found = tensors(path, reads, monkeypatch)
    for name, expected in torch.load(path).items():
        assert torch.equal(found[name], expected)
        assert found[name].stride() == expected.stride()
    assert sum(reads) == 3_000_000 + 24
    found["start"][3] = -1.0
    assert found["columns"][0, 0] == -1.0
    assert found["own"].untyped_storage().nbytes() == 24


def test_damage_is_noticed_while_it_is_read(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(0.5, 6.0).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    with open_checkpoint(path) as checkpoint:
        entries = checkpoint.root.tensors()
        once = ReadOnce(entries.values(), checkpoint.inflate, mmap=False)
        checkpoint.read(once(entries["start"]), mmap=False)
        assert not once.damaged
        checkpoint.read(once(entries["own"]), mmap=False)
        assert once.damaged


def test_what_has_no_checksum_is_left_alone(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        entry = checkpoint.root.tensors()["own"]
        once = ReadOnce([], checkpoint.inflate, mmap=False)
        assert not once.covers(entry)
        assert once(entry) is entry
        plain = TensorEntry("float32", (2,), (1,))
        assert not ReadOnce([plain], checkpoint.inflate, mmap=False).covers(plain)


def test_what_is_mapped_stays_where_it_is_and_what_is_deflated_is_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", zeros=np.zeros(1_000_000, np.float32), none=np.ones((3, 0)))
    np.savez(tmp_path / "plain.npz", zeros=np.zeros(10, np.float32))
    unpacked = note_unpacked(monkeypatch)
    for mmap in (True, False):
        with open_checkpoint(tmp_path / "a.npz") as checkpoint:
            entries = checkpoint.root.tensors()
            once = ReadOnce(entries.values(), checkpoint.inflate, mmap=mmap)
            assert all(map(once.covers, entries.values()))
            found = {name: checkpoint.read(once(entry), mmap=mmap) for name, entry in entries.items()}
            assert not once.damaged
        assert torch.equal(found["zeros"], torch.zeros(1_000_000))
        assert torch.equal(found["none"], torch.ones(3, 0, dtype=torch.float64))
    assert len(unpacked) == 4
    with open_checkpoint(tmp_path / "plain.npz") as checkpoint:
        (entry,) = checkpoint.root.tensors().values()
        assert not ReadOnce([entry], checkpoint.inflate, mmap=True).covers(entry)
        assert ReadOnce([entry], checkpoint.inflate, mmap=False).covers(entry)
