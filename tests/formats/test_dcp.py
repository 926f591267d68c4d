from __future__ import annotations

import hashlib
import itertools
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata

import loader
from loader.errors import CheckpointError, ConfigError
from loader.formats.dcp_metadata import Box, fault_of_cover
from loader.formats.tree import Container, Leaf, Node, TensorEntry
from loader.parts.open import open_checkpoint
from tests.formats.dcp_writer import Writer, grid, halves, write_distributed
from tests.formats.saving import save_alone

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is")

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int8, torch.bool]
DTYPES += [torch.complex64, torch.float8_e4m3fn, torch.uint16]


def refusal(path: Path, **options: Any) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path, **options)
    return caught.value


def values(checkpoint: Any, node: Node, *, mmap: bool = True) -> Any:
    """What a checkpoint holds, as torch would give it."""
    if isinstance(node, TensorEntry):
        checkpoint.verify([node], mmap=mmap)
        return checkpoint.read(node, mmap=mmap)
    if isinstance(node, Leaf):
        return node.record
    found = {key: values(checkpoint, child, mmap=mmap) for key, child in node.children.items()}
    return list(found.values()) if node.kind == "list" else found


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        assert torch.equal(
            found.contiguous().view(-1).view(torch.uint8), expected.contiguous().view(-1).view(torch.uint8)
        )
    elif isinstance(expected, dict):
        assert set(found) == set(map(str, expected))
        for key, value in expected.items():
            assert_same(found[str(key)], value)
    elif isinstance(expected, list) and isinstance(found, list):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == expected


def by_torch(folder: Path) -> Any:
    file = folder.parent / "converted.pt"
    dcp_to_torch_save(folder, file)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("mmap", [True, False])
def test_a_nested_state_is_what_torch_converts_it_to(tmp_path: Path, mmap: bool) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    state = {
        "model": model.state_dict(),
        "optimizer": {
            "state": [{"step": torch.tensor(3.0), "m": torch.randn(2, 5).t()}],
            "param_groups": [{"lr": 0.1}],
        },
        "dtypes": {str(dtype): torch.arange(6).view(2, 3).to(dtype) for dtype in DTYPES},
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "epoch": 7,
        "name": "net",
    }
    save_alone(state, checkpoint_id=tmp_path / "d")
    with open_checkpoint(tmp_path / "d") as checkpoint:
        assert checkpoint.format == "dcp"
        assert_same(values(checkpoint, checkpoint.root, mmap=mmap), by_torch(tmp_path / "d"))


def test_tensors_that_were_split_are_put_together_as_torch_does(tmp_path: Path) -> None:
    writer = Writer(4)
    matrix, cube, odd = torch.randn(6, 4), torch.randn(4, 3, 5), torch.arange(7.0)
    writer.add(("model", "rows.weight"), matrix, halves(matrix))
    writer.add(("model", "columns.weight"), matrix, halves(matrix, 1))
    writer.add(("model", "grid.weight"), matrix, grid(matrix))
    writer.add(("model", "cube"), cube, halves(cube, 2))
    writer.add(("model", "odd"), odd, [*halves(odd), ((7,), (0,))])  # one process got nothing
    writer.add(("model", "bits"), matrix.bfloat16(), halves(matrix))
    writer.add_object(("epoch",), 4)
    folder = writer.write(tmp_path / "d")
    with open_checkpoint(folder) as checkpoint:
        for mmap in (True, False):
            found = values(checkpoint, checkpoint.root, mmap=mmap)
            assert_same(found, by_torch(folder))
            assert torch.equal(found["model"]["grid.weight"], matrix)


def test_a_tensor_of_one_piece_looks_into_the_file(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(1, 300), "b": torch.ones(2, 2)})
    with open_checkpoint(folder) as checkpoint:
        model = checkpoint.root.children["model"]
        assert isinstance(model, Container)
        one, again = (checkpoint.read(model.tensors()["a"]) for _ in range(2))
        assert one.data_ptr() == again.data_ptr()
        assert checkpoint.read(model.tensors()["b"]).is_contiguous()


def test_a_model_is_loaded_from_under_its_nested_key(tmp_path: Path) -> None:
    linear = torch.nn.Linear(3, 4)
    folder = write_distributed(tmp_path / "d", linear.state_dict())
    loaded = loader.load(
        {
            "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 4},
            "checkpoint": {"path": str(folder), "key": "model", "format": "dcp"},
            "device": "cpu",
        }
    )
    assert_same(loaded.model.state_dict(), dict(linear.state_dict()))
    assert loaded.report.parts[""].format == "dcp"


def test_a_plan_looks_into_no_item(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", torch.nn.Linear(3, 4).state_dict())
    for path in folder.glob("*.distcp"):
        path.write_bytes(b"\xff" * path.stat().st_size)
    job: dict[str, Any] = {
        "model": {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 4},
        "checkpoint": {"path": str(folder), "key": "model"},
        "device": "cpu",
        "mode": "plan",
    }
    assert loader.load(job).report.keys.loaded == 2
    with pytest.raises(CheckpointError, match=r"__0_0\.distcp is cut off"):
        loader.load({**job, "mode": "load"})


def test_a_folder_of_weights_holds_no_model(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(2)})
    with pytest.raises(ConfigError) as caught:
        loader.load({"model": None, "checkpoint": {"path": str(folder), "trust": True}, "device": "cpu"})
    assert caught.value.message.startswith(f"model is null, and {folder} holds no whole pickled model.")


def test_the_metadata_or_a_piece_means_its_folder(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    for name in (".metadata", "__1_0.distcp"):
        with open_checkpoint(folder / name) as checkpoint:
            assert list(checkpoint.root.children) == ["model"]


def test_the_digest_is_that_of_all_files(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    names = [".metadata", "__0_0.distcp", "__1_0.distcp"]
    told = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True).stdout
    with open_checkpoint(folder, sha256=hashlib.sha256(told).hexdigest()) as checkpoint:
        assert checkpoint.nbytes == sum((folder / name).stat().st_size for name in names)


def test_only_the_items_of_wanted_tensors_are_looked_into(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4), "b": torch.ones(1)})
    spoil(folder, b"\0" * 200, at=0)
    with open_checkpoint(folder) as checkpoint:
        model = checkpoint.root.children["model"]
        assert isinstance(model, Container)
        assert torch.equal(checkpoint.read(model.tensors()["b"]), torch.ones(1))
        with pytest.raises(CheckpointError, match=r"__1_0\.distcp is damaged"):
            checkpoint.read(model.tensors()["a"])


def spoil(folder: Path, by: bytes, *, at: int) -> None:
    path = folder / "__1_0.distcp"
    data = bytearray(path.read_bytes())
    data[at : at + len(by)] = by
    path.write_bytes(data)


@pytest.mark.parametrize("mmap", [True, False])
def test_a_flipped_bit_is_found_before_its_tensor_is_used(tmp_path: Path, mmap: bool) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.full((4,), 3.5)})
    data = (folder / "__1_0.distcp").read_bytes()
    spoil(folder, b"\x01", at=data.index(torch.full((2,), 3.5).numpy().tobytes()))
    with open_checkpoint(folder, check="structure") as checkpoint:
        checkpoint.verify(list(everything(checkpoint)), mmap=mmap)
    with open_checkpoint(folder) as checkpoint:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.verify(list(everything(checkpoint)), mmap=mmap)
        assert "damaged with them: model.a at [2]" in caught.value.message
    assert "damaged" in refusal(folder, check="full").message


def everything(checkpoint: Any) -> list[TensorEntry]:
    return [entry for _, container in checkpoint.root.walk() for entry in container.tensors().values()]


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_nothing_that_the_metadata_or_an_object_names_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    writer = Writer()
    writer.add(("a",), torch.ones(2))
    writer.add_object(("evil",), Payload(marker))
    folder = writer.write(tmp_path / "d")
    with open_checkpoint(folder) as checkpoint:
        evil = checkpoint.root.children["evil"]
        assert not isinstance(evil, TensorEntry)
        assert evil.type == f"{os.system.__module__}.system"
    writer.metadata.planner_data = Payload(marker)
    writer.write(folder)
    open_checkpoint(folder).close()
    (folder / ".metadata").write_bytes(pickle.dumps(Payload(marker)))
    assert ", expected a Metadata" in refusal(folder).message
    assert not marker.exists()


def test_objects_that_torch_did_not_save_and_large_ones_are_only_counted(tmp_path: Path) -> None:
    writer = Writer(1)
    writer.add_object(("large",), "x" * (2 << 20))
    writer.add_object(("raw",), 1)
    index = MetadataIndex("raw")
    writer.metadata.storage_data[index] = _StorageInfo("__0_0.distcp", writer.streams[0].tell(), 5)
    writer.streams[0].write(b"hello")
    with open_checkpoint(writer.write(tmp_path / "d")) as checkpoint:
        shown = {name: child.text for name, child in checkpoint.root.children.items() if isinstance(child, Leaf)}
    assert shown["raw"] == "5 bytes"
    assert shown["large"].endswith(" bytes")


def corrupted(change: Callable[[Writer], None], folder: Path) -> Path:
    writer = Writer()
    tensor = torch.arange(8.0).view(4, 2)
    writer.add(("w",), tensor, halves(tensor))
    writer.add(("v",), torch.ones(3))
    change(writer)
    return writer.write(folder)


def place(writer: Writer, name: str = "w", start: tuple[int, ...] = (2, 0)) -> _StorageInfo:
    found: _StorageInfo = writer.metadata.storage_data[MetadataIndex(name, torch.Size(start))]
    return found


def chunks(writer: Writer) -> list[ChunkStorageMetadata]:
    return described(writer, "w").chunks


def described(writer: Writer, name: str) -> TensorStorageMetadata:
    found = writer.metadata.state_dict_metadata[name]
    assert isinstance(found, TensorStorageMetadata)
    return found


def drop_chunk(writer: Writer) -> None:
    del chunks(writer)[1]


def overlap_chunks(writer: Writer) -> None:
    chunks(writer)[1] = ChunkStorageMetadata(torch.Size([1, 0]), torch.Size([3, 2]))
    writer.metadata.storage_data[MetadataIndex("w", torch.Size([1, 0]))] = place(writer)


def reach_out(writer: Writer) -> None:
    chunks(writer)[1].sizes = torch.Size([9, 2])


def drop_place(writer: Writer) -> None:
    del writer.metadata.storage_data[MetadataIndex("w", torch.Size([2, 0]))]


def drop_object_place(writer: Writer) -> None:
    writer.add_object(("epoch",), 3)
    del writer.metadata.storage_data[MetadataIndex("epoch")]


def lie_about_shape(writer: Writer) -> None:
    described(writer, "v").size = described(writer, "v").chunks[0].sizes = torch.Size([1 << 40])


def overlap_items(writer: Writer) -> None:
    place(writer, "v", (0,)).offset -= 1


def past_the_end(writer: Writer) -> None:
    place(writer).length += 1


def extended(writer: Writer) -> None:
    place(writer).transform_descriptors = ["stream.zstd"]


def nested_twice(writer: Writer) -> None:
    writer.metadata.planner_data["v"] = ("w",)


def nested_below_tensor(writer: Writer) -> None:
    writer.metadata.planner_data["v"] = ("w", "v")


def nested_by_nothing(writer: Writer) -> None:
    writer.metadata.planner_data["v"] = (1.5,)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop_chunk, "/.metadata contradicts itself: the pieces of w leave a gap"),
        (overlap_chunks, "/.metadata contradicts itself: the pieces of w overlap"),
        (reach_out, "/.metadata contradicts itself: the pieces of w exceed its shape [4, 2]"),
        (drop_place, "/.metadata contradicts itself: no file is recorded for the piece of w at [2, 0]"),
        (drop_object_place, "/.metadata contradicts itself: no file is recorded for epoch"),
        (lie_about_shape, "/__0_0.distcp is damaged: 'v' needs 4398046511104 bytes, its item has"),
        (overlap_items, "/__0_0.distcp is damaged: two items overlap at byte"),
        (past_the_end, "/__1_0.distcp is cut off:"),
        (extended, "/.metadata: its tensors were written through an unsupported extension (stream.zstd)"),
        (nested_twice, "/.metadata is damaged: two entries under the nested key of 'v'"),
        (nested_below_tensor, "/.metadata is damaged: 'v' lies below 'w', which is an entry itself"),
        (nested_by_nothing, "/.metadata is damaged: invalid nested keys in planner_data"),
    ],
)
def test_metadata_that_lies_is_refused(change: Callable[[Writer], None], told: str, tmp_path: Path) -> None:
    message = refusal(corrupted(change, tmp_path / "d")).message
    assert message.startswith(f"{tmp_path / 'd'}{told}"), message


@pytest.mark.parametrize("path", ["../outside.distcp", "/etc/hostname", "C:\\x.distcp", "", "a/../../b", "x\ny"])
def test_names_that_leave_the_folder_are_refused(path: str, tmp_path: Path) -> None:
    def change(writer: Writer) -> None:
        place(writer).relative_path = path

    told = refusal(corrupted(change, tmp_path / "d"))
    assert "names 1 file that must not be opened" in told.message


def test_a_piece_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    (folder / "__1_0.distcp").rename(tmp_path / "moved")
    (folder / "__1_0.distcp").symlink_to(tmp_path / "moved")
    assert "would be read from outside its folder: __1_0.distcp" in refusal(folder).message


def test_a_metadata_that_is_a_link_out_of_the_folder_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    (folder / ".metadata").unlink()
    os.mkfifo(tmp_path / "pipe")
    (folder / ".metadata").symlink_to(tmp_path / "pipe")
    assert "would be read from outside its folder: .metadata" in refusal(folder).message


def test_a_piece_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    (folder / "__1_0.distcp").unlink()
    os.mkfifo(folder / "__1_0.distcp")
    assert refusal(folder).message == f"{folder / '__1_0.distcp'} is a named pipe; a checkpoint file was expected"


def test_a_missing_piece_is_reported(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    (folder / "__1_0.distcp").unlink()
    told = refusal(folder)
    assert told.message == f"1 of the 2 shards of {folder / '.metadata'} is missing: __1_0.distcp"
    assert told.hint == "copy or download the whole folder again; the save may also be unfinished"


def test_a_save_that_never_finished_is_reported(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    (folder / ".metadata").unlink()
    told = refusal(folder)
    assert told.message == (
        f"{folder} holds files of a torch.distributed.checkpoint folder (*.distcp), but no .metadata, which is written "
        "last"
    )


def test_an_empty_or_cut_off_metadata_is_reported(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    metadata = folder / ".metadata"
    metadata.write_bytes(metadata.read_bytes()[:-100])
    assert refusal(folder).message.startswith(f"{metadata} is damaged")
    metadata.write_bytes(b"")
    assert refusal(folder).message.startswith(f"{metadata} is damaged: 0 bytes (expected 1 to ")


def test_an_item_that_is_not_what_the_metadata_says_is_refused(tmp_path: Path) -> None:
    def swap(writer: Writer) -> None:
        tensor = torch.ones(2, 2, dtype=torch.int32)
        writer.add(("other",), tensor)
        one, other = place(writer, "w", (0, 0)), place(writer, "other", (0, 0))
        one.offset, other.offset = other.offset, one.offset
        one.length, other.length = other.length, one.length

    with open_checkpoint(corrupted(swap, tmp_path / "d")) as checkpoint:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.read(checkpoint.root.tensors()["w"])
        assert "is int32 [2, 2], but 'w at [0, 0]', float32 [2, 2], in the metadata" in caught.value.message


def test_a_file_that_changes_is_reported(tmp_path: Path) -> None:
    folder = write_distributed(tmp_path / "d", {"a": torch.ones(4)})
    with open_checkpoint(folder) as checkpoint:
        checkpoint.check_unchanged()
        os.truncate(folder / "__1_0.distcp", 10)
        with pytest.raises(CheckpointError, match=r"__1_0\.distcp changed while it was being read"):
            checkpoint.check_unchanged()


def cut(shape: tuple[int, ...], cuts: list[list[int]]) -> list[Box]:
    """The boxes of a grid."""
    edges = [sorted({0, size, *(c % size for c in own)}) for size, own in zip(shape, cuts, strict=True)]
    spans = [list(itertools.pairwise(own)) for own in edges]
    return [
        (tuple(low for low, _ in corner), tuple(high - low for low, high in corner))
        for corner in itertools.product(*spans)
    ]


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Box]]:
    shape = tuple(draw(st.lists(st.integers(1, 6), max_size=3)))
    return shape, draw(st.permutations(cut(shape, [draw(st.lists(st.integers(0, 5), max_size=3)) for _ in shape])))


@given(grids())
def test_a_grid_covers_its_tensor(grid: tuple[tuple[int, ...], list[Box]]) -> None:
    shape, boxes = grid
    assert fault_of_cover(shape, boxes) == ""


@given(grids(), st.data())
def test_a_grid_without_one_box_leaves_a_gap_and_with_one_twice_overlaps(
    grid: tuple[tuple[int, ...], list[Box]], data: st.DataObject
) -> None:
    shape, boxes = grid
    place = data.draw(st.integers(0, len(boxes) - 1))
    assert fault_of_cover(shape, boxes[:place] + boxes[place + 1 :]) == "leave a gap"
    assert fault_of_cover(shape, [*boxes, boxes[place]]) == "overlap"


@pytest.mark.parametrize(
    ("boxes", "fault"),
    [
        ([], "leave a gap"),
        ([((0,), (2,)), ((2,), (2,))], "differ from the tensor in the number of dimensions"),
        ([((0, 0), (3, 2))], "exceed its shape [2, 2]"),
        ([((0, 0), (2, 1))], "leave a gap"),
        ([((0, 0), (2, 2)), ((1, 1), (1, 1))], "overlap"),
        ([((0, 0), (1, 2)), ((1, 0), (1, 1)), ((1, 1), (1, 1))], ""),
    ],
)
def test_boxes_are_told_apart(boxes: list[Box], fault: str) -> None:
    assert fault_of_cover((2, 2), boxes) == fault


def test_an_empty_tensor_has_no_pieces() -> None:
    assert fault_of_cover((0, 3), []) == ""
    assert fault_of_cover((0, 3), [((0, 0), (0, 3))]) == "exceed the tensor, which is empty"


def test_very_many_pieces_take_a_bounded_time() -> None:
    assert fault_of_cover((1 << 40,), [((i,), (1,)) for i in range(20_000)]) == "leave a gap"
    stairs = [((i, 0), (20_000 - i, 1)) for i in range(20_000)]
    assert fault_of_cover((20_000, 2), stairs) in {
        "overlap",
        "leave a gap",
        "are laid out in a more complex way than parallel training splits tensors",
    }
