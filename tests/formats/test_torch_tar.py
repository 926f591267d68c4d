from __future__ import annotations

import pickle
import struct
import tarfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_loads_like_torch, assert_read_or_refused, assert_same
from tests.formats.oldest import layout_of, listed, raw_storage, save_tar
from tests.laws import examples

KINDS = [torch.float32, torch.float64, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
FOUR = torch.tensor([1.0, 2.0, 3.0, 4.0])


def assert_reads_like_torch(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=False)  # torch's safe reader refuses the format
    assert_loads_like_torch(path, found)
    return found


def test_every_type_and_view_is_read_like_torch_reads_it(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    state = OrderedDict((str(kind), torch.arange(5).to(kind)) for kind in KINDS)
    state |= {"base": base, "columns": base.t(), "part": base[1:3, ::2], "one": base[2, 3], "again": base}
    path = save_tar({"state_dict": state, "epoch": 3, "empty": torch.tensor(2.5)}, tmp_path / "a.pth")
    assert open_checkpoint(path).format == "torch-tar"
    found = assert_reads_like_torch(path)
    assert found["epoch"] == 3
    assert torch.equal(found["state_dict"]["columns"], base.t())


def test_shared_tensors_share_a_storage(tmp_path: Path) -> None:
    base = torch.ones(4)
    with open_checkpoint(save_tar({"a": base, "b": base.view(2, 2)}, tmp_path / "a.pt")) as checkpoint:
        tensors = checkpoint.root.tensors()
    assert tensors["a"].storage == tensors["b"].storage


def test_a_view_of_a_storage_is_followed(tmp_path: Path) -> None:
    views = pickle.dumps([(9, 7, 1, 2)], 2)
    stored = listed([((7, "cpu", torch.FloatStorage), raw_storage(FOUR))], views)
    tensors = listed([((1, 9, torch.FloatTensor), layout_of(torch.ones(2)))])
    content = b"\x80\x02}X\x01\0\0\0aX\x01\0\0\x001Qs."
    path = save_tar({}, tmp_path / "a.pt", pickle=content, tensors=tensors, storages=stored)
    found = assert_reads_like_torch(path)
    assert found["a"].tolist() == [2.0, 3.0]


def test_the_source_of_a_class_is_passed_over(tmp_path: Path) -> None:
    stored = listed([((7, "cpu", torch.FloatStorage), raw_storage(FOUR))], pickle.dumps([], 2))
    tensors = listed([((1, 7, torch.FloatTensor), layout_of(FOUR))])
    content = b"\x80\x02}(X\x01\0\0\0aX\x01\0\0\x001QX\x01\0\0\0bcnowhere\nNet\nX\0\0\0\0X\0\0\0\0\x87Q)\x81u."
    path = save_tar({}, tmp_path / "a.pt", pickle=content, tensors=tensors, storages=stored)
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint.read(checkpoint.root.tensors()["a"]), FOUR)


def one(key: Any = 7, location: Any = "cpu", kind: Any = torch.FloatStorage, count: int = 4) -> bytes:
    return listed([((key, location, kind), struct.pack("<q", count) + bytes(16))], pickle.dumps([], 2))


def tensor(key: Any = 1, storage: Any = 7, layout: bytes = layout_of(FOUR)) -> bytes:
    return listed([((key, storage, torch.FloatTensor), layout)])


def views(*rows: Any) -> bytes:
    return one()[: -len(pickle.dumps([], 2))] + pickle.dumps(list(rows), 2)


LIES = {
    "storages": (one(count=1 << 40), "storage '7' declares 1,099,511,627,776 elements of float32"),
    "negative": (one(count=-1), "storage '7' declares -1 elements of float32"),
    "kind": (one(kind=print), "unknown storage type"),
    "location": (one(location=3), "unknown storage type"),
    "key": (one(key="7"), "key '7' is duplicate or not an integer"),
    "number": (pickle.dumps(1 << 60, 2), "1152921504606846976 storages or tensors declared"),
    "no number": (pickle.dumps("x", 2), "x storages or tensors declared"),
    "values": (pickle.dumps(1, 2) + pickle.dumps((1, 2), 2), "is not described by three values"),
    "cut": (pickle.dumps(1, 2) + pickle.dumps((7, "cpu", torch.FloatStorage), 2), "exceeds its member"),
    "no end": (views()[:-1], "invalid opcode 0x0"),
    "view": (views((8, 7, 3, 2)), "a view exceeds storage '7'"),
    "view before": (views((8, 7, -1, 2)), "a storage view without a storage"),
    "view of none": (views((8, 6, 0, 2)), "a storage view without a storage"),
    "view of text": (views((8, "7", 0, 2)), "a storage view is not four integers"),
    "view of itself": (views((7, 7, 0, 2)), "key '7' is duplicate or not an integer"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_storages_that_lie_are_refused(case: str, tmp_path: Path) -> None:
    stored, fault = LIES[case]
    path = save_tar({"a": FOUR}, tmp_path / "a.pt", storages=stored, tensors=listed([]), pickle=pickle.dumps({}, 2))
    with pytest.raises(CheckpointError, match=" is damaged: ") as refusal:
        open_checkpoint(path)
    assert fault in refusal.value.message


TENSORS = {
    "shape": (tensor(layout=struct.pack("<4q", 1, 5, 1, 0)), "exceeds its storage '7' of 16 bytes"),
    "offset": (tensor(layout=struct.pack("<4q", 1, 4, 1, 1 << 62)), "exceeds its storage"),
    "dimensions": (tensor(layout=struct.pack("<q", 1 << 20)), "tensor '1' declares 1,048,576 dimensions"),
    "cut": (tensor(layout=struct.pack("<2q", 60, 1)), "exceeds its member"),
    "storage": (tensor(storage=6), "tensor '1' has no storage"),
    "list": (tensor(storage=[7]), "tensor '1' has no storage"),
    "twice": (tensor(key=7), "key '7' is duplicate or not an integer"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_lie_are_refused(case: str, tmp_path: Path) -> None:
    listing, fault = TENSORS[case]
    path = save_tar({}, tmp_path / "a.pt", storages=one(), tensors=listing)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert fault in refusal.value.message


@pytest.mark.parametrize("pid", [b"X\x01\0\0\x005Q.", b"Pseven\n.", b"P" + b"9" * 5000 + b"\n.", b"K\x01Q."])
def test_a_reference_to_nothing_is_refused(pid: bytes, tmp_path: Path) -> None:
    path = save_tar({}, tmp_path / "a.pt", pickle=pid)
    with pytest.raises(CheckpointError, match=r"unknown storage or tensor '.*'"):
        open_checkpoint(path)


def test_a_pickle_that_goes_on_in_the_next_member_is_refused(tmp_path: Path) -> None:
    to_next = 4 * 512 - 7  # the rest of its block, and the next member's extension and header
    text = b"\x80\x02X" + struct.pack("<I", to_next)
    path = save_tar({}, tmp_path / "a.pt", tensors=text, storages=listed([], pickle.dumps([], 2)))
    with pytest.raises(CheckpointError, match="a pickle exceeds its member"):
        open_checkpoint(path)


def test_archives_that_are_none_are_refused(tmp_path: Path) -> None:
    whole = save_tar({"a": FOUR}, tmp_path / "a.pt").read_bytes()
    broken = {
        whole[:3000]: "is cut off: 3,000 bytes are there",
        whole.replace(b"tensors\0", b"tensorz\0"): "does not match its checksum",
    }
    for content, fault in broken.items():
        (tmp_path / "b.pt").write_bytes(content)
        with pytest.raises(CheckpointError) as refusal:
            open_checkpoint(tmp_path / "b.pt")
        assert fault in refusal.value.message


def test_members_that_are_no_plain_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    link = tarfile.TarInfo("storages")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(path, "w:") as archive:
        archive.addfile(link)
    with pytest.raises(CheckpointError, match="its member 'storages' is not a plain file"):
        open_checkpoint(path)
    with tarfile.open(path, "w:") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    with pytest.raises(CheckpointError, match="member 'pickle' is missing"):
        open_checkpoint(path)
    renamed = tarfile.TarInfo("sys_info")
    renamed.pax_headers = {"path": "storages"}
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(renamed)
    with pytest.raises(CheckpointError, match="changes the name or size of a member"):
        open_checkpoint(path)


@given(st.data())
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_byte_says_the_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = save_tar({"a": FOUR, "b": torch.ones(2, 2)}, tmp_path / "a.pt")
    assert_read_or_refused(path, data)
