from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loader.errors import CheckpointError
from loader.formats.tree import Leaf, TensorEntry
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same
from tests.formats.hostile import Call, StorageOf, torch_zip, view
from tests.formats.rewriting import rewritten

FOUR = bytes(torch.arange(4.0).view(torch.uint8).tolist())
STORAGE = StorageOf("0", 4)
BIG = 1 << 63


def opened(tmp_path: Path, found: Any, **storages: bytes) -> Any:
    return open_checkpoint(torch_zip(tmp_path / "a.pt", found, **{"_0": FOUR, **storages})).root.children


def refusal(tmp_path: Path, found: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, [found])
    return caught.value.message


OUTSIDE = {
    "longer": view(STORAGE, 0, (5,), (1,)),
    "later": view(STORAGE, 1, (4,), (1,)),
    "wider": view(STORAGE, 0, (2, 2), (3, 1)),
    "zero dimensions": view(STORAGE, 4, (), ()),
    "stepping over the end of integers": view(STORAGE, 0, (2,), (BIG - 1,)),
    "wrapping around": view(STORAGE, 0, (1 << 31, 1 << 31), (1 << 33, 1 << 33)),
}
NONSENSE = {
    "negative size": view(STORAGE, 0, (-1,), (1,)),
    "negative stride": view(STORAGE, 3, (2,), (-1,)),
    "negative offset": view(STORAGE, -1, (2,), (1,)),
    "huge size": view(STORAGE, 0, (BIG,), (0,)),
    "huge product": view(STORAGE, 0, (1 << 40, 1 << 40), (0, 0)),
    "huge beside empty": view(STORAGE, 0, (0, BIG), (1, 1)),
    "fraction": view(STORAGE, 0, (2.0,), (1,)),
    "boolean": view(STORAGE, 0, (True,), (1,)),
    "text": view(STORAGE, 0, "22", (1, 1)),
    "no shape": view(STORAGE, 0, None, (1,)),
    "too many dimensions": view(STORAGE, 0, (1,) * 65, (1,) * 65),
    "fewer strides": view(STORAGE, 0, (2, 2), (1,)),
    "offset of text": view(STORAGE, "0", (2,), (1,)),
    "metadata": view(STORAGE, 0, (2,), (1,), [1]),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_a_view_outside_its_storage_is_refused(case: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, OUTSIDE[case])
    assert "exceeds its storage 'data/0' of 16 bytes" in message


@pytest.mark.parametrize("case", NONSENSE)
def test_what_torch_does_not_write_is_refused(case: str, tmp_path: Path) -> None:
    told = refusal(tmp_path, NONSENSE[case])
    assert told.startswith(f"{tmp_path}/a.pt: invalid tensor: ")


def test_what_torch_does_not_write_is_told_with_its_key(tmp_path: Path) -> None:
    entries = {"fine": view(STORAGE, 0, (2,), (1,)), "odd": NONSENSE["negative size"]}
    with pytest.raises(CheckpointError) as caught:
        opened(tmp_path, {"state": entries})
    assert caught.value.message.startswith(f"{tmp_path}/a.pt, 'odd': invalid tensor: ")


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        (StorageOf("0", 5), "5 elements of float32 declared for storage 'data/0', which has 16 bytes of float32"),
        (StorageOf("0", -4), "-4 elements of float32 declared"),
        (StorageOf("0", 1 << 70), "1180591620717411303424 elements of float32 declared"),
        (StorageOf("9", 4), "the record 'archive/data/9' is missing"),
        (StorageOf("../../data.pkl", 4), "the record 'archive/data/../../data.pkl' is missing"),
        (StorageOf(0, 4), "unexpected persistent id"),
        (StorageOf("0", "4"), "unexpected persistent id"),
        (StorageOf("0", 4, location=3), "unexpected persistent id"),
    ],
)
def test_a_storage_that_is_not_there_is_refused(storage: StorageOf, reason: str, tmp_path: Path) -> None:
    assert reason in refusal(tmp_path, view(storage, 0, (1,), (1,)))


def test_a_storage_has_one_type(tmp_path: Path) -> None:
    other = view(StorageOf("0", 4, torch.IntStorage), 0, (1,), (1,))
    assert "4 elements of int32 declared for storage 'data/0'" in refusal(
        tmp_path, [view(STORAGE, 0, (1,), (1,)), other]
    )


def test_a_reference_that_is_no_storage_is_refused(tmp_path: Path) -> None:
    reference = StorageOf("0", 4)
    reference.pid = ("module", "x")  # type: ignore[assignment]
    assert 'unexpected persistent id (expected ("storage"' in refusal(tmp_path, reference)


def test_a_huge_expanded_view_costs_nothing(tmp_path: Path) -> None:
    entry = opened(tmp_path, [view(STORAGE, 1, (1 << 40,), (0,))])["0"]
    assert entry.shape == (1 << 40,)
    with open_checkpoint(tmp_path / "a.pt") as checkpoint:
        assert checkpoint.read(entry).untyped_storage().nbytes() == 4


UNKNOWN = {
    "storage type": view(StorageOf("0", 4, torch.UntypedStorage.from_buffer), 0, (1,), (1,)),
    "no storage": view(None, 0, (1,), (1,)),
    "few arguments": Call(torch._utils._rebuild_tensor_v2, STORAGE),
    "dtype": Call(torch._utils._rebuild_tensor_v3, STORAGE, 0, (1,), (1,), False, None, int),
    "parameter of text": Call(torch._utils._rebuild_parameter, "x", True, None),
    "sparse": Call(torch._utils._rebuild_sparse_tensor, "coo", ()),
    "sparse without values": Call(
        torch._utils._rebuild_sparse_tensor, Call(torch.serialization._get_layout, "torch.sparse_coo"), (1, 2, (3,))
    ),
    "nested": Call(torch._utils._rebuild_nested_tensor, 1, 2, 3, 4),
    "wrapper": Call(torch._utils._rebuild_wrapper_subclass, torch.Tensor),
    "qscheme": Call(torch._utils._rebuild_qtensor, STORAGE, 0, (1,), (1,), ("affine", 1, 2), False, None),
    "type": Call(torch._tensor._rebuild_from_type_v2, torch.sum, torch.Tensor, (), None),
    "meta": Call(torch._utils._rebuild_meta_tensor_no_storage, "float32", (1,), (1,), False),
    "xla": Call(torch._utils._rebuild_device_tensor_from_numpy, 1, torch.float32, "xla:0", False),
}  # fmt: skip


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_tensor_of_an_unknown_kind_stays_a_record(case: str, tmp_path: Path) -> None:
    found = opened(tmp_path, [view(STORAGE, 0, (4,), (1,)), UNKNOWN[case]])
    assert isinstance(found["0"], TensorEntry)
    assert isinstance(found["1"], Leaf)


def quantized(*quantizer: Any) -> Call:
    return Call(
        torch._utils._rebuild_qtensor, StorageOf("q", 6, torch.QInt8Storage), 0, (2, 3), (3, 1), quantizer, False, None
    )


@pytest.mark.parametrize(
    ("quantizer", "reason"),
    [
        ((torch.per_tensor_affine, "x", 0), "its quantization scale is not a number"),
        (
            (torch.per_channel_affine, view(STORAGE, 0, (2,), (1,)), view(STORAGE, 0, (2,), (1,)), 2),
            "is not one of its",
        ),
        ((torch.per_channel_affine, view(STORAGE, 0, (2,), (1,)), view(STORAGE, 0, (2,), (1,)), 1), "do not match"),
    ],
)
def test_quantisation_must_match_the_shape(quantizer: tuple[Any, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        opened(tmp_path, [quantized(*quantizer)], q=bytes(6))


def sparse(layout: str, *parts: torch.Tensor, size: tuple[int, ...]) -> Any:
    class Sparse:
        def __reduce__(self) -> Any:
            kind = Call(torch.serialization._get_layout, f"torch.{layout}")
            return torch._utils._rebuild_sparse_tensor, (kind, (*parts, torch.Size(size)))

    return Sparse()


@pytest.mark.parametrize(
    ("layout", "parts"),
    [
        ("sparse_coo", (torch.tensor([[0, 99]]), torch.ones(2))),
        ("sparse_coo", (torch.tensor([[-1, 0]]), torch.ones(2))),
        ("sparse_csr", (torch.tensor([0, 1, 900]), torch.tensor([0, 1]), torch.ones(2))),
        ("sparse_csr", (torch.tensor([0, 1, 2]), torch.tensor([0, 77]), torch.ones(2))),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_sparse_indices_are_checked_before_use(layout: str, parts: tuple[torch.Tensor, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    size = (2,) if layout == "sparse_coo" else (2, 2)
    torch.save([sparse(layout, *parts, size=size)], path)
    with open_checkpoint(path) as checkpoint:
        entry = checkpoint.root.tensors()["0"]
        assert entry.layout == layout
        with pytest.raises(CheckpointError, match=f"invalid {layout} tensor: "):
            checkpoint.read(entry)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("parts", [
    (torch.tensor([[9]]), torch.tensor([[1]]), torch.tensor([0])),
    (torch.tensor([[2]]), torch.tensor([[1]]), torch.tensor([7])),
    (torch.tensor([[-2]]), torch.tensor([[1]]), torch.tensor([0])),
    (torch.tensor([[2]]), torch.tensor([[1]]), torch.tensor([0, 1])),
    (torch.tensor([[2.0]]), torch.tensor([[1.0]]), torch.tensor([0.0])),
])  # fmt: skip
def test_nested_parts_are_checked_before_use(parts: tuple[torch.Tensor, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save([Call(torch._utils._rebuild_nested_tensor, torch.ones(4), *parts)], path)
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(CheckpointError, match="invalid nested tensor: "),
    ):
        checkpoint.read(checkpoint.root.tensors()["0"])


class Sub(torch.Tensor):
    pass


def test_tensors_of_a_subclass_are_read_as_plain_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    marked = torch.ones(2)
    marked.note = "mine"  # type: ignore[attr-defined]
    torch.save({"sub": torch.arange(3.0).as_subclass(Sub), "marked": marked}, path)
    with open_checkpoint(path) as checkpoint:
        entries = checkpoint.root.tensors()
        assert_same(checkpoint.read(entries["sub"]), torch.arange(3.0))
        read = checkpoint.read(entries["marked"])
    assert type(read) is torch.Tensor
    assert not hasattr(read, "note")


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=">f4").reshape(2, 3), np.ones((2, 0), "i8"), np.arange(3, dtype="<i2")]
)
def test_tensors_saved_from_a_tpu_are_read(array: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    dtype = torch.from_numpy(array.astype(array.dtype.newbyteorder("="))).dtype
    torch.save([Call(torch._utils._rebuild_device_tensor_from_numpy, array, dtype, "xla:0", False)], path)
    with open_checkpoint(path) as checkpoint:
        entry = checkpoint.root.tensors()["0"]
        assert entry.location == "xla:0"
        checkpoint.will_need([entry])
        checkpoint.verify([entry])
        for mmap in (True, False):
            assert checkpoint.read(entry, mmap=mmap).tolist() == array.tolist()


def test_tensors_of_other_devices_without_storages_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(
        [Call(torch._utils._rebuild_device_tensor_from_cpu_tensor, torch.ones(2), torch.float32, "xla:0", True)], path
    )
    with open_checkpoint(path) as checkpoint:
        assert_same(checkpoint.read(checkpoint.root.tensors()["0"]), torch.ones(2))


def test_arrays_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"mean": np.ones((2, 3)), "names": np.array(["a"]), "one": np.float64(3)}, path)
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.root.children
    mean, names = found["mean"], found["names"]
    assert isinstance(mean, TensorEntry)
    assert (mean.shape, mean.dtype) == ((2, 3), "float64")
    assert isinstance(names, Leaf)
    assert names.type == "numpy.ndarray"


def test_a_dtype_that_this_torch_does_not_have_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = opened(tmp_path, [view(STORAGE, 0, (4,), (1,))])["0"]
    monkeypatch.delitem(__import__("loader.formats.tensor", fromlist=["DTYPES"]).DTYPES, "float32")
    with open_checkpoint(tmp_path / "a.pt") as checkpoint, pytest.raises(CheckpointError) as refused:
        checkpoint.read(entry)
    assert refused.value.message == f"unsupported dtype float32: torch {torch.__version__} does not have it"
    assert refused.value.hint == "pip install --upgrade torch"


def test_a_tensor_of_a_dtype_that_not_every_torch_has_is_a_tensor(tmp_path: Path) -> None:
    name, like = "bcomplex32", torch.uint32
    path = tmp_path / "a.pt"
    torch.save({"a": torch.zeros(2, 3, dtype=like), "b": torch.ones(2)}, path)
    written = str(like).removeprefix("torch.").encode()
    rewritten(path, {"data.pkl": lambda pickled: pickled.replace(b"torch\n" + written, b"torch\n" + name.encode())})
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.root.tensors()
        assert (found["a"].dtype, found["a"].shape) == (name, (2, 3))
        assert checkpoint.read(found["b"]).tolist() == [1, 1]
        if hasattr(torch, name):
            assert checkpoint.read(found["a"]).dtype is getattr(torch, name)
            return
        with pytest.raises(CheckpointError, match=f"unsupported dtype {name}: torch"):
            checkpoint.read(found["a"])
