from __future__ import annotations

import io
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.errors import CheckpointError
from loader.formats.tree import ITEMSIZE, Container, Leaf
from loader.parts.open import open_checkpoint
from loader.schema import Check
from tests.formats.comparing import assert_loads_like_torch, assert_same
from tests.laws import examples

ZIP = {"_use_new_zipfile_serialization": True}
LEGACY = {"_use_new_zipfile_serialization": False}
DTYPES = sorted(name for name in ITEMSIZE if hasattr(torch, name) and name not in {"qint8", "quint8", "qint32"})


@pytest.fixture(params=[ZIP, LEGACY], ids=["zip", "legacy"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def saved(found: Any, **more: Any) -> Path:
        path = tmp_path / "saved.pt"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(found, path, **request.param, **more)
        return path

    return saved


def some(dtype: str, *shape: int) -> torch.Tensor:
    raw = torch.randint(0, 2 if dtype == "bool" else 120, (*shape, ITEMSIZE[dtype]), dtype=torch.uint8)
    if dtype == "bool":
        return raw.bool().reshape(shape)
    return raw.view(getattr(torch, dtype)).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.filterwarnings("ignore:ComplexHalf support")
def test_every_dtype_that_torch_can_write(save: Any, dtype: str) -> None:
    found = {"a": some(dtype, 3, 5), "scalar": some(dtype, 1).reshape(()), "none": some(dtype, 0, 4)}
    path = save(found)
    # torch writes its newer dtypes into the old format, and cannot read them back.
    assert_loads_like_torch(path, found if "legacy" in open_format(path) else None)


def open_format(path: Path) -> str:
    with open_checkpoint(path) as checkpoint:
        return checkpoint.format


VIEWS = {
    "transposed": lambda t: t.t(),
    "sliced": lambda t: t[1:, ::2],
    "column": lambda t: t[:, 1],
    "last": lambda t: t[-1, -1],
    "expanded": lambda t: t[:1].expand(7, -1),
    "permuted": lambda t: t.reshape(2, 3, 4).permute(2, 0, 1),
    "empty": lambda t: t[3:3],
    "diagonal": lambda t: t.diagonal(),
    "windows": lambda t: t.reshape(-1).unfold(0, 5, 2),
    "channels last": lambda t: t.reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "shifted": lambda t: t.reshape(-1)[5:].reshape(19),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_keep_their_strides(save: Any, view: str) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(6, 4)
    assert_loads_like_torch(save({"base": base, "view": VIEWS[view](base), "alone": VIEWS[view](base.clone())}))


def coo() -> torch.Tensor:
    return torch.eye(4).to_sparse()


LAYOUTS: dict[str, Callable[[], torch.Tensor]] = {
    "coo": coo,
    "coo not coalesced": lambda: torch.sparse_coo_tensor(torch.tensor([[0, 0]]), torch.tensor([1.0, 2.0]), (3,)),
    "coo hybrid": lambda: torch.sparse_coo_tensor(torch.tensor([[0, 2]]), torch.ones(2, 5), (3, 5)).coalesce(),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "csc": lambda: torch.eye(4).to_sparse_csc(),
    "bsr": lambda: torch.eye(4).to_sparse_bsr((2, 2)),
    "bsc": lambda: torch.eye(4).to_sparse_bsc((2, 2)),
    "quantized": lambda: torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 5, torch.quint8),
    "quantized signed": lambda: torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 0, torch.qint8),
    "quantized wide": lambda: torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 0, torch.qint32),
    "quantized transposed": lambda: torch.quantize_per_tensor(torch.randn(3, 4), 0.1, 5, torch.quint8).t(),
    "quantized by channel": lambda: torch.quantize_per_channel(
        torch.randn(3, 4), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 1, 2]), 0, torch.qint8
    ),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2, 3), torch.zeros(1, 3)]),
    "conjugated": lambda: torch.randn(3, dtype=torch.complex64).conj(),
    "negative": lambda: torch.randn(3, dtype=torch.complex64).conj().imag,
    "parameter": lambda: torch.nn.Parameter(torch.randn(3)),
    "frozen parameter": lambda: torch.nn.Parameter(torch.ones(3, dtype=torch.int32), requires_grad=False),
    "with gradient": lambda: torch.randn(3, requires_grad=True),
    "meta": lambda: torch.empty(3, 2, device="meta"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:.*(Sparse|nested tensors|quantize|deprecated|TypedStorage).*")
def test_every_layout_that_torch_can_write(save: Any, layout: str) -> None:
    found = {"a": LAYOUTS[layout](), "beside": torch.ones(2)}
    path = save(found)
    # torch's reader of the old format makes nested tensors of memory that it has not filled yet.
    assert_loads_like_torch(path, found if layout == "nested" and "legacy" in open_format(path) else None)


CONTAINERS = {
    "dict": {"a": torch.ones(2)},
    "ordered": OrderedDict(a=torch.ones(2), b=torch.zeros(3)),
    "nested": {"state": {"model": OrderedDict(w=torch.ones(2)), "epoch": 3}, "opt": [{"m": torch.zeros(1)}]},
    "list": [torch.ones(1), torch.ones(2)],
    "tuple": (torch.ones(1), {"b": torch.ones(2)}),
    "numbered": {0: torch.ones(1), 1: {2: torch.zeros(2)}},
    "tensor": torch.arange(3),
    "empty": {},
    "many": {f"k{i}": torch.full((1,), float(i)) for i in range(3000)},
    "shared": [torch.ones(4)] * 3,
}


@pytest.mark.parametrize(
    ("container", "protocol"), [(name, protocol) for name in CONTAINERS for protocol in (2, 3, 4, 5)]
)
def test_every_container_in_every_protocol(save: Any, container: str, protocol: int) -> None:
    path = save(CONTAINERS[container], pickle_protocol=protocol)
    # torch's own safe reader knows protocol 2 alone.
    assert_loads_like_torch(path, None if protocol == 2 else CONTAINERS[container])


@settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_strided_view_of_any_storage(tmp_path: Path, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "int8", "bfloat16", "complex64", "bool", "int16"]))
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    stride = [data.draw(st.integers(0, 6)) for _ in shape]
    offset = data.draw(st.integers(0, 5))
    reach = 1 + sum(max(0, size - 1) * step for size, step in zip(shape, stride, strict=True))
    base = some(dtype, offset + reach + data.draw(st.integers(0, 3)))
    path = tmp_path / "view.pt"
    torch.save([base.as_strided(shape, stride, offset)], path, **data.draw(st.sampled_from([ZIP, LEGACY])))
    assert_loads_like_torch(path)


def test_a_tensor_looks_into_the_file_and_writing_to_it_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(1000)}, path)
    before = path.read_bytes()
    with open_checkpoint(path) as checkpoint:
        entry = checkpoint.root.tensors()["a"]
        first, second = checkpoint.read(entry), checkpoint.read(entry)
        owned = checkpoint.read(entry, mmap=False)
        first.fill_(7)
    assert second[0] == 7  # both look at the same bytes
    assert owned[0] == 1
    assert path.read_bytes() == before


def test_tensors_outlive_the_closed_checkpoint(save: Any) -> None:
    with open_checkpoint(save({"a": torch.arange(1000)})) as checkpoint:
        tensor = checkpoint.read(checkpoint.root.tensors()["a"])
    assert torch.equal(tensor, torch.arange(1000))


def test_a_slice_does_not_keep_its_large_storage(save: Any) -> None:
    with open_checkpoint(save({"a": torch.arange(1000)[10:13]})) as checkpoint:
        for mmap in (True, False):
            tensor = checkpoint.read(checkpoint.root.tensors()["a"], mmap=mmap)
            assert tensor.untyped_storage().nbytes() == 3 * 8
            assert not tensor._is_view()


def test_the_tree_names_what_is_no_tensor(save: Any) -> None:
    path = save(
        {"epoch": 3, "lr": 0.5, "name": "run", "betas": (0.9, 0.99), "none": None, "model": {"w": torch.ones(1)}}
    )
    with open_checkpoint(path) as checkpoint:
        children = checkpoint.root.children
    assert {key: (child.type, child.text) for key, child in children.items() if isinstance(child, Leaf)} == {
        "epoch": ("int", "3"),
        "lr": ("float", "0.5"),
        "name": ("str", "run"),
        "betas": ("tuple", "[0.9, 0.99]"),
        "none": ("NoneType", "None"),
    }
    model = children["model"]
    assert isinstance(model, Container)
    assert (model.kind, model.type) == ("dict", "dict")


def test_metadata_is_kept_without_the_switch_that_makes_torch_assign(save: Any) -> None:
    state = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()
    state._metadata["0"]["assign_to_params_buffers"] = True  # type: ignore[attr-defined]
    with open_checkpoint(save({"state": state})) as checkpoint:
        node = checkpoint.root.children["state"]
    assert isinstance(node, Container)
    assert node.type == "collections.OrderedDict"
    assert node.metadata == {"": {"version": 1}, "0": {"version": 2}}


def test_storage_tags_are_text(tmp_path: Path) -> None:
    path = tmp_path / "cuda.pt"
    torch.save({"a": torch.ones(3)}, path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("cuda/data.pkl")
    tagged = pickled.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, tagged if name.endswith("data.pkl") else source.read(name))
    with open_checkpoint(path) as checkpoint:
        entry = checkpoint.root.tensors()["a"]
        assert entry.location == "cuda:0"
        assert_same(checkpoint.read(entry), torch.ones(3))


def test_an_index_that_deflates_too_well_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"]" * (2 << 20) + b".")
        packed = archive.getinfo("a/data.pkl").compress_size
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert refusal.value.message == (
        f"{path} holds its index (a/data.pkl) deflated from 2,097,153 bytes to {packed:,}; at most 16-fold was expected"
    )
    assert refusal.value.hint == "where you trust it, unzip it, and pack it again without deflating: zip -0 -r"


def test_deflated_archives_are_read(tmp_path: Path) -> None:
    path, packed = tmp_path / "a.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.arange(1000), "b": torch.zeros(3_000_000)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    assert_loads_like_torch(packed)


@pytest.mark.parametrize("dtype", ["float32", "int16", "complex64", "float64", "uint8"])
def test_big_endian_files_are_swapped(tmp_path: Path, dtype: str) -> None:
    path, swapped = tmp_path / "a.pt", tmp_path / "big.pt"
    tensor = some(dtype, 3, 4)
    torch.save({"a": tensor}, path)
    width = ITEMSIZE[dtype] // (2 if dtype.startswith("complex") else 1)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("/byteorder"):
                content = b"big"
            if name.endswith("/data/0"):
                content = b"".join(content[i : i + width][::-1] for i in range(0, len(content), width))
            target.writestr(name, content)
    with open_checkpoint(swapped) as checkpoint:
        for mmap in (True, False):
            assert_same(checkpoint.read(checkpoint.root.tensors()["a"], mmap=mmap), tensor)


def test_misaligned_elements_are_copied(tmp_path: Path) -> None:
    for padding in range(4):
        path = tmp_path / ("a" * padding + ".pt")
        torch.save({"b" * padding: torch.arange(10.0)}, path, **LEGACY)
        assert_loads_like_torch(path)
        with open_checkpoint(path) as checkpoint:
            (entry,) = checkpoint.root.tensors().values()
            assert checkpoint.read(entry).data_ptr() % 4 == 0


def test_old_storage_views_are_read(tmp_path: Path) -> None:
    """The oldest writers shared a storage by a view of it inside the persistent id."""
    path = tmp_path / "view.pt"
    torch.save([torch.arange(6.0)], path, **LEGACY)
    data = path.read_bytes()
    # … numel 6, no view, end of tuple, persistent id  →  numel 6, view ("v", 2, 3)
    old = b"K\x06Nt"
    assert data.count(old) == 1
    view = data.replace(old, b"K\x06X\x01\x00\x00\x00vK\x02K\x03\x87t").replace(b"QK\x00K\x06\x85", b"QK\x00K\x03\x85")
    path.write_bytes(view)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.read(checkpoint.root.tensors()["0"]).tolist() == [2.0, 3.0, 4.0]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_file_that_is_cut_off_says_how_much_was_declared(share: float, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(10_000), "b": torch.ones(500, dtype=torch.float64), "c": 3}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    there, declared = f"{int(share * len(whole)):,} bytes are there", "44,000 or more are declared"
    assert refusal.value.message == (
        f"{path} is cut off: {there}, {declared}"
        if share * len(whole) < 44_000
        else f"{path} is cut off: {there}, and the table of contents at the end of the zip file is missing"
    )
    assert refusal.value.hint == "copy or download the file again, or wait: it may not be completely written yet"


@pytest.mark.parametrize("length", [4, 29, 40, 200])
def test_a_file_whose_index_is_cut_off_says_that(length: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(10_000)}, path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=rf"is cut off: {length} bytes are there, and the table of contents"):
        open_checkpoint(path)


def test_a_download_that_stopped_in_a_file_of_full_length_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(100_000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[:100_000] + bytes(len(content) - 100_000))
    with pytest.raises(CheckpointError, match="is cut off: it ends in zero bytes, and the table of contents"):
        open_checkpoint(path)


POLICY = {"mlp.0.weight": torch.arange(6.0).reshape(2, 3), "mlp.0.bias": torch.tensor([1.0, -1.0])}


def baselines(path: Path, *names: str, method: int = zipfile.ZIP_STORED) -> Path:
    """What stable-baselines3 writes: files of torch.save in one archive, and its settings."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            if name.endswith(".pth"):
                with archive.open(name, "w", force_zip64=True) as stream:
                    torch.save(POLICY if name == "policy.pth" else {"state": {}}, stream)
            else:
                archive.writestr(name, "2.3.0")
    return path


@pytest.mark.parametrize("check", ["crc", "structure", "full"])
def test_the_policy_of_an_archive_of_stable_baselines3_is_read(check: Check, tmp_path: Path) -> None:
    names = ["data", "pytorch_variables.pth", "policy.pth", "policy.optimizer.pth", "_stable_baselines3_version"]
    with open_checkpoint(baselines(tmp_path / "agent.zip", *names), check=check) as checkpoint:
        assert checkpoint.format == "torch-zip"
        assert checkpoint.note == (
            "read from policy.pth in the stable-baselines3 archive; not from pytorch_variables.pth, "
            "policy.optimizer.pth"
        )
        entries = checkpoint.root.tensors()
        checkpoint.verify(entries.values())
        for mmap in (True, False):
            found = {key: checkpoint.read(entry, mmap=mmap) for key, entry in entries.items()}
            for key, value in POLICY.items():
                assert_same(found[key], value)


def test_a_flipped_bit_in_a_policy_is_reported(tmp_path: Path) -> None:
    path = baselines(tmp_path / "agent.zip", "data", "policy.pth")
    raw = path.read_bytes()
    where = raw.index(bytes(POLICY["mlp.0.weight"].view(torch.uint8).flatten().tolist()))
    path.write_bytes(raw[: where + 7] + bytes([raw[where + 7] ^ 1]) + raw[where + 8 :])
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(
            CheckpointError, match=r"is damaged: checksum mismatch in 1 record of 2 read: .* with them: mlp\.0\.weight"
        ),
    ):
        checkpoint.verify(checkpoint.root.tensors().values())


@pytest.mark.parametrize(
    ("names", "method"), [(["policy.pth", "notes"], zipfile.ZIP_STORED), (["data", "policy.pth"], zipfile.ZIP_DEFLATED)]
)
def test_another_archive_with_such_a_file_is_named_with_the_line_that_unpacks_it(
    names: list[str], method: int, tmp_path: Path
) -> None:
    path = baselines(tmp_path / "agent.zip", *names, method=method)
    with pytest.raises(CheckpointError, match=r"that torch\.save did not write; it holds policy\.pth") as refusal:
        open_checkpoint(path)
    assert refusal.value.hint == f"unzip {path} policy.pth   # unpack it\ncheckpoint.path=policy.pth"
