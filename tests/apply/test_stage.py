"""Reading what is planned, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from loader import CheckpointError, FitError, load_into
from loader.files.file import CheckpointFile
from loader.formats.opened import OpenedFile
from loader.parts.reading import Reading
from tests.jobs import assert_same_state, carry_out, same_tensor, save
from tests.models import Normed, Tied, Two, filled


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the tensors that are read."""
    sizes: list[int] = []
    original = OpenedFile.read

    def count(self: OpenedFile, entry: Any, **kwargs: Any) -> torch.Tensor:
        sizes.append(entry.nbytes)
        return original(self, entry, **kwargs)

    monkeypatch.setattr(OpenedFile, "read", count)
    return sizes


def test_only_what_the_model_wants_is_read_and_checked(tmp_path: Path, bytes_read: list[int]) -> None:
    large = torch.zeros(100_000)
    path = save({**filled(Two()).state_dict(), "optimizer": large, "second.bias": large}, tmp_path / "large.pt")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # inside one of the large ones
    path.write_bytes(bytes(data))
    allow = {"unexpected": ["optimizer"], "mismatched": ["second.bias"]}
    carry_out("Two", path, allow=allow)
    assert max(bytes_read) == 64
    with pytest.raises(CheckpointError, match="is damaged"):
        carry_out("Two", path, allow=allow, checkpoint={"check": "full"})
    with pytest.raises(FitError):
        carry_out("Two", path)


def test_without_mapping_nothing_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: CheckpointFile) -> None:
        raise AssertionError("the file was mapped")

    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    monkeypatch.setattr(CheckpointFile, "mapping", property(refuse))
    carry_out("Two", path, checkpoint={"mmap": False}, verify={})
    with pytest.raises(AssertionError, match="was mapped"):
        carry_out("Two", path)


@pytest.mark.parametrize("mmap", [True, False])
def test_the_second_name_of_a_tied_tensor_is_checked_too(tmp_path: Path, mmap: bool) -> None:
    weight = torch.rand(6, 4)
    path = save({"embed.weight": weight, "head.weight": weight.clone()}, tmp_path / "tied.pt")
    data = bytearray(path.read_bytes())
    data[data.rindex(weight.numpy().tobytes())] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"damaged with them: head\.weight"):
        carry_out("Tied", path, checkpoint={"mmap": mmap})
    with pytest.raises(FitError, match="hold different values"):
        carry_out("Tied", path, checkpoint={"check": "structure", "mmap": mmap})


def test_damage_is_told_alike_with_a_mapping_and_without(tmp_path: Path) -> None:
    state = filled(Two()).state_dict()
    path = save(state, tmp_path / "two.pt")
    data = bytearray(path.read_bytes())
    for name in ("first.weight", "second.bias"):
        data[data.index(state[name].numpy().tobytes())] ^= 1
    path.write_bytes(bytes(data))
    told = []
    for mmap in (True, False):
        live = Two()
        before = {key: value.clone() for key, value in live.state_dict().items()}
        with pytest.raises(CheckpointError) as refusal:
            load_into(live, {"path": str(path), "mmap": mmap})
        told.append(refusal.value.message)
        assert_same_state(live, before)
    assert told[0] == told[1]
    assert "checksum mismatch in 2 records of 4 read" in told[0]
    assert "damaged with them: first.weight, second.bias" in told[0]


def test_bytes_that_differ_from_one_reading_to_the_next_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(filled(Two()).state_dict(), tmp_path / "two.pt")
    read_into = CheckpointFile.read_into

    def flipped(self: CheckpointFile, tensor: torch.Tensor, offset: int) -> memoryview:
        memory = read_into(self, tensor, offset)
        memory[0] ^= 1
        return memory

    monkeypatch.setattr(CheckpointFile, "read_into", flipped)
    with pytest.raises(CheckpointError, match=r"two\.pt returned different bytes on a second read") as refusal:
        carry_out("Two", path, checkpoint={"mmap": False})
    assert refusal.value.hint == "load it again once nothing writes to it; if nothing does, check the disk"


def test_tied_names_may_look_into_one_storage_or_two_equal_ones(tmp_path: Path) -> None:
    weight = torch.rand(6, 4)
    for second in (weight, weight.clone(), weight.t().contiguous().t()):
        path = save({"embed.weight": weight, "head.weight": second}, tmp_path / "tied.pt")
        assert same_tensor(carry_out("Tied", path).model.get_parameter("head.weight"), weight)


def test_names_of_two_forms_are_not_the_same_tensor() -> None:
    weight = torch.rand(6, 4)
    for second in (weight.double(), weight.to_sparse()):
        with pytest.raises(FitError, match="hold different values"):
            load_into(Tied(), {"embed.weight": weight, "head.weight": second})


def test_a_module_under_two_names_may_lack_what_its_hooks_make_up(tmp_path: Path) -> None:
    saved: Any = filled(nn.BatchNorm1d(2))
    norm: Any = nn.BatchNorm1d(2)
    live = nn.Sequential(norm, norm)
    plain = {f"{n}.{key}": value for n in range(2) for key, value in saved.state_dict().items()}
    del plain["0.num_batches_tracked"], plain["1.num_batches_tracked"]
    load_into(live, save(plain, tmp_path / "norm.pt"))
    assert same_tensor(norm.weight, saved.weight)
    plain["1.num_batches_tracked"] = torch.tensor(7)
    load_into(live, save(plain, tmp_path / "norm.pt"))
    assert norm.num_batches_tracked.item() == 7


def test_a_loaded_tensor_keeps_no_larger_memory(tmp_path: Path) -> None:
    saved = filled(Normed()).state_dict()
    for mmap in (True, False):
        model = carry_out("Normed", save(saved, tmp_path / "norm.pt"), checkpoint={"mmap": mmap}).model
        assert_same_state(model, saved)
        if not mmap:
            assert all(value.untyped_storage().nbytes() == value.nbytes for value in model.state_dict().values())


def test_all_lossy_casts_are_told_at_once() -> None:
    live = nn.ModuleDict({name: nn.Linear(1, 1, bias=False, dtype=torch.float16) for name in "abcdefg"})
    state = {f"{name}.weight": torch.full((1, 1), 1e6) for name in "abcdefg"}
    with pytest.raises(FitError) as refusal:
        load_into(live, state)
    assert refusal.value.message.count("1 element becomes inf or nan") == 5
    assert refusal.value.message.endswith(" and 2 more")
    assert refusal.value.hint.endswith("'allow.mismatched=[*]'   # accepts the loss of precision")


def test_the_advice_for_a_lossy_cast_can_be_pasted() -> None:
    live = nn.ModuleDict({name: nn.Linear(1, 1, bias=False, dtype=torch.float16) for name in "ab"})
    state = {f"{name}.weight": torch.full((1, 1), 1e6) for name in "ab"}
    with pytest.raises(
        FitError, match=r"'allow\.mismatched=\[a\.weight,b\.weight\]'   # accepts the loss of precision"
    ):
        load_into(live, state)
    load_into(live, state, allow={"mismatched": ["a.weight", "b.weight"]})


def test_all_tensors_of_another_layout_are_told_at_once() -> None:
    state = {key: value.to_sparse() for key, value in filled(Two()).state_dict().items()}
    with pytest.raises(FitError) as refusal:
        load_into(Two(), state)
    assert refusal.value.message.startswith(
        "first.weight is sparse_coo in the file and strided in the model, first.bias is sparse_coo"
    )


@pytest.mark.parametrize("mmap", [True, False])
def test_damage_that_contradicts_a_layout_is_told_as_damage(tmp_path: Path, mmap: bool) -> None:
    indices = torch.tensor([[0, 1, 2], [2, 0, 1]])
    model = nn.Module()
    model.register_buffer(
        "sparse", torch.sparse_coo_tensor(indices, torch.tensor([7.0, 8.0, 9.0]), (3, 3), check_invariants=True)
    )
    path = save(model.state_dict(), tmp_path / "sparse.pt")
    data = bytearray(path.read_bytes())
    data[data.index(indices.numpy().tobytes()) + 7] = 0x7F
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"checksum mismatch in 1 record of .*damaged with them: sparse"):
        load_into(model, {"path": str(path), "mmap": mmap})


class Remembers(nn.Module):
    """Keeps a dict of tensors as its extra state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.remembered = {"steps": torch.arange(200.0, 216.0)}

    def get_extra_state(self) -> Any:
        return self.remembered

    def set_extra_state(self, state: Any) -> None:
        self.remembered = state


@pytest.mark.parametrize("mmap", [True, False])
def test_tensors_inside_an_extra_state_are_compared_too(tmp_path: Path, mmap: bool) -> None:
    path = save(Remembers().state_dict(), tmp_path / "extra.pt")
    model = Remembers()
    model.remembered = {}
    load_into(model, {"path": str(path), "mmap": mmap})
    assert torch.equal(model.remembered["steps"], torch.arange(200.0, 216.0))
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(200.0, 216.0).numpy().tobytes())] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match=r"is damaged: checksum mismatch in 1 record of 1 read"):
        load_into(model, {"path": str(path), "mmap": mmap})


def test_the_bytes_of_tied_names_leave_memory_with_their_cast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tied = filled(Tied())
    path = save(tied.state_dict(), tmp_path / "tied.pt")
    held: list[int] = []
    refuse_damage = Reading.refuse_damage

    def look(self: Reading, entries: Any) -> None:
        if self._once is not None:
            held.append(len(self._once._memory))
        refuse_damage(self, entries)

    monkeypatch.setattr(Reading, "refuse_damage", look)
    carry_out("Tied", path, checkpoint={"mmap": False}, dtype="bfloat16")
    assert held == [0]


@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_damaged_sparse_tensor_is_told_with_its_file_and_key(tmp_path: Path) -> None:
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("odd", torch.sparse_coo_tensor(torch.tensor([[0, 1]]), torch.ones(2), (2,)))

    broken = torch.sparse_coo_tensor(torch.tensor([[0, 99]]), torch.ones(2), (2,), check_invariants=False)
    path = save({"sd": {"odd": broken}}, tmp_path / "a.pt")

    with pytest.raises(CheckpointError) as refusal:
        load_into(Holder(), {"path": str(path), "key": "sd"})
    assert refusal.value.message.startswith(f"{path} under 'sd', 'odd': invalid sparse_coo tensor")
