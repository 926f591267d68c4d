"""Several checkpoints read as one."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from loader.errors import CheckpointError
from loader.formats.boxes import joined, leaves, stacked
from loader.formats.checksums import ReadOnce
from loader.formats.find import Sources
from loader.formats.formulas.records import Scaled
from loader.formats.joint import Joint
from loader.formats.memory import MemoryCheckpoint
from loader.formats.opened import Checkpoint
from loader.formats.tree import TensorEntry
from loader.parts.open import open_checkpoint
from tests.formats.gguf_writer import written
from tests.formats.rewriting import rewritten
from tests.formats.saving import save_alone
from tests.formats.sharding import write_shards


def value(number: int) -> torch.Tensor:
    return torch.arange(6.0).view(2, 3) + 10 * number


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One checkpoint of each format, each with its own tensor `x` of two rows."""
    folder = tmp_path_factory.mktemp("formats")
    torch.save({"x": value(0)}, folder / "0.pt")
    torch.save({"x": value(1)}, folder / "1.pt", _use_new_zipfile_serialization=False)
    save_file({"x": value(2)}, folder / "2.safetensors")
    write_shards(folder / "3", {"x": value(3)}, {"y": value(30)})
    save_alone({"x": value(4)}, checkpoint_id=folder / "4")
    torch.save({"x": value(5)}, folder / "5.pt")
    rewritten(folder / "5.pt", {}, packing=zipfile.ZIP_DEFLATED)
    written(folder / "6.gguf", {"x": value(6).numpy()})
    np.savez(folder / "7.npz", x=value(7).numpy())
    torch.save({"x": value(8).t().contiguous().t()}, folder / "8.pt")
    return folder


@pytest.fixture
def members(folder: Path) -> Iterator[list[Checkpoint]]:
    with ExitStack() as stack:
        opened = [open_checkpoint(path) for path in sorted(folder.iterdir())]
        for one in opened:
            stack.callback(one.close)
        yield [*opened, MemoryCheckpoint({"x": value(9)})]


def x(member: Checkpoint) -> TensorEntry:
    return member.root.tensors()["x"]


def test_a_tensor_is_made_of_those_of_every_format(members: list[Checkpoint]) -> None:
    everything = torch.cat([value(number) for number in range(10)])
    for main in members:
        with_all = Joint(main, members)
        entry = joined([x(member) for member in members], 0)
        with_all.verify([entry])
        with_all.will_need([entry])
        for mmap in (True, False):
            assert torch.equal(with_all.read(entry, mmap=mmap), everything)
            assert torch.equal(with_all.read(x(main), mmap=mmap), main.read(x(main)))
        with_all.release(entry)
        with_all.check_unchanged()


def test_what_is_read_into_memory_is_compared_on_the_way(members: list[Checkpoint]) -> None:
    both = Joint(members[0], members)
    entry = joined([x(members[0]), x(members[5]), x(members[4])], 0)
    once = ReadOnce([both.located(entry)], both.inflate, mmap=False)
    assert once.covers(both.located(entry))
    found = both.read(once(both.located(entry)), mmap=False)
    assert torch.equal(found, torch.cat([value(0), value(5), value(4)]))
    assert not once.damaged


def test_formulas_and_views_of_what_is_made_have_inputs_in_several_checkpoints(members: list[Checkpoint]) -> None:
    both = Joint(members[2], members)
    pile = stacked([x(members[1]), x(members[4]), x(members[9])], 0)
    doubled = TensorEntry("float32", pile.shape, (6, 3, 1), formula=Scaled(2.0), inputs=(pile,))
    assert [id(leaf.storage) for leaf in leaves(doubled)] == [
        id(leaf.storage) for number in (1, 4, 9) for leaf in leaves(x(members[number]))
    ]
    assert torch.equal(both.read(doubled), 2 * torch.stack([value(1), value(4), value(9)]))


def test_the_main_checkpoint_answers_for_itself(members: list[Checkpoint]) -> None:
    for main in members:
        both = Joint(main, members)
        assert (both.path, both.place, both.format, both.note) == (main.path, main.place, main.format, main.note)
        assert both.in_memory == main.in_memory
        assert both.root is main.root
    assert both.nbytes == sum(member.nbytes for member in members)
    assert Joint(members[2], members).sha256() == members[2].sha256()
    assert Joint(members[3], members[:1]).sha256() == members[3].sha256()


def test_a_tensor_in_memory_without_plain_bytes_is_the_main_ones(members: list[Checkpoint]) -> None:
    sparse = value(1).to_sparse()
    both = Joint(MemoryCheckpoint({"x": sparse}), members)
    assert both.read(both.root.tensors()["x"]).to_dense().equal(value(1))


def damage(path: Path, number: int, last: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(value(number).numpy().tobytes()) + last] ^= 1
    path.write_bytes(data)


def test_every_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    for number in range(3):
        torch.save({"x": value(number), "fine": torch.ones(2)}, tmp_path / f"{number}.pt")
    damage(tmp_path / "0.pt", 0)
    damage(tmp_path / "2.pt", 2)
    with ExitStack() as stack:
        members = [stack.enter_context(open_checkpoint(tmp_path / f"{number}.pt")) for number in range(3)]
        both = Joint(members[1], members)
        both.verify([member.root.tensors()["fine"] for member in members])
        with pytest.raises(CheckpointError, match=r"2 of 3 checkpoints are refused: \S+0\.pt is damaged.*x.*2\.pt is"):
            both.verify([joined([x(member) for member in members], 0)])
        with pytest.raises(CheckpointError, match=r"^\S+2\.pt is damaged: .*damaged with them: x"):
            both.verify([joined([x(members[1]), x(members[2])], 0)])


def test_a_change_of_any_file_is_found_and_all_are_closed_together(tmp_path: Path) -> None:
    for number in range(2):
        save_file({"x": value(number)}, tmp_path / f"{number}.safetensors")
    members = [open_checkpoint(tmp_path / f"{number}.safetensors") for number in range(2)]
    both = Joint(members[0], members[1:])
    assert both.places == [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    assert Sources([both]).among([tmp_path / "1.safetensors"]) == [tmp_path / "1.safetensors"]
    kept = both.read(joined([x(members[0]), x(members[1])], 0))
    os.utime(tmp_path / "1.safetensors", ns=(1, 1))
    with pytest.raises(CheckpointError, match=r"1\.safetensors changed while it was being read"):
        both.check_unchanged()
    both.close()
    assert torch.equal(kept, torch.cat([value(0), value(1)]))
    assert all(file._descriptor._closed for file in both.files)


def test_the_same_checkpoint_twice_is_read_as_one(members: list[Checkpoint]) -> None:
    both = Joint(members[0], [members[0], members[0]])
    assert both.nbytes == members[0].nbytes
    assert torch.equal(both.read(joined([x(members[0])] * 2, 1)), torch.cat([value(0)] * 2, 1))
