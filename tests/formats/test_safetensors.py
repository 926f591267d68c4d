from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from loader.errors import CheckpointError
from loader.formats.safetensors import DTYPES
from loader.formats.tree import Leaf
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same, knows

ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def written(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    return caught.value.message


@pytest.mark.parametrize("dtype", sorted(filter(knows, {*DTYPES.values()})))
def test_every_dtype_equals_what_the_library_loads(dtype: str, tmp_path: Path) -> None:
    width = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
    raw = torch.randint(0, 2, (3, 4, width), dtype=torch.uint8)
    tensor = raw[..., 0].bool() if dtype == "bool" else raw.view(getattr(torch, dtype)).reshape(3, 4)
    path = tmp_path / "a.safetensors"
    save_file({"a": tensor, "scalar": tensor[0, 0].clone(), "empty": torch.empty(0, 3, dtype=tensor.dtype)}, path)
    theirs = load_file(path)
    with open_checkpoint(path) as checkpoint:
        entries = checkpoint.root.tensors()
        assert set(entries) == set(theirs)
        for key, entry in entries.items():
            for mmap in (True, False):
                assert_same(checkpoint.read(entry, mmap=mmap), theirs[key])


def test_the_metadata_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(1)}, path, {"format": "pt"})
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.root.record == {"format": "pt"}
        assert list(checkpoint.root.children) == ["a"]


def test_a_file_without_tensors_is_a_file(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path / "a", b"{}")) as checkpoint:
        assert checkpoint.root.children == {}


def test_misaligned_tensors_are_copied(tmp_path: Path) -> None:
    header = {"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, "a": {**ONE, "data_offsets": [1, 9]}}
    with open_checkpoint(written(tmp_path / "a", header, b"\1" + struct.pack("<2f", 1, 2))) as checkpoint:
        assert checkpoint.read(checkpoint.root.tensors()["a"]).tolist() == [1, 2]


def test_a_type_below_a_byte_is_named_and_not_read(tmp_path: Path) -> None:
    header = {"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}
    with open_checkpoint(written(tmp_path / "a", header, b"12")) as checkpoint:
        assert checkpoint.root.children["a"] == Leaf("safetensors F4", "[4]")


LIES = {
    "cut": ({"a": ONE}, b"1234567", "is cut off: "),
    "longer": ({"a": ONE}, b"123456789", "1 bytes follow its last tensor"),
    "size": ({"a": {**ONE, "shape": [3]}}, b"12345678", "tensor 'a' has 8 bytes; F32 [3] needs 12"),
    "huge": ({"a": {**ONE, "shape": [1 << 62, 1 << 62]}}, b"12345678", "tensor 'a' has 8 bytes; F32 [4611686"),
    "negative": ({"a": {**ONE, "shape": [-2]}}, b"12345678", "invalid shape for tensor 'a': ["),
    "fraction": ({"a": {**ONE, "shape": [2.0]}}, b"12345678", "invalid shape for tensor 'a': ["),
    "true": ({"a": {**ONE, "shape": [True]}}, b"12345678", "invalid shape for tensor 'a': ["),
    "many": ({"a": {**ONE, "shape": [1] * 65}}, b"12345678", "invalid shape or dtype for tensor 'a'"),
    "type": ({"a": {**ONE, "dtype": 3}}, b"12345678", "invalid shape or dtype for tensor 'a'"),
    "order": ({"a": {**ONE, "data_offsets": [8, 0]}}, b"12345678", "invalid data_offsets for tensor 'a': ["),
    "below": ({"a": {**ONE, "data_offsets": [-8, 0]}}, b"12345678", "invalid data_offsets for tensor 'a': ["),
    "gap": ({"a": {**ONE, "data_offsets": [4, 12]}}, b"1" * 12, "'a' leaves a gap before it (bytes 4 to 12)"),
    "overlap": (
        {"a": ONE, "b": {**ONE, "data_offsets": [4, 12]}},
        b"1" * 12,
        "'b' overlaps the tensor before it (bytes 4 to 12)",
    ),
    "nothing": ({"a": {"dtype": "F32"}}, b"", "invalid header entry for tensor 'a'"),
    "list": ({"a": [1]}, b"", "invalid header entry for tensor 'a'"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "invalid __metadata__ in its header"),
    "twice": (b'{"a": 1, "a": 2}', b"", "its header names 'a' twice"),
    "twice inside": (b'{"a": {"dtype": "F32", "dtype": "F64"}}', b"", "its header names 'dtype' twice"),
    "no json": (b'{"a": ', b"", "its header is not JSON"),
    "nan": (b'{"a": NaN}', b"", "NaN is not JSON"),
    "deep": (b'{"a":' + b"[" * 100_000, b"", "its header is not JSON"),
    "digits": (b'{"a": ' + b"9" * 10_000 + b"}", b"", "its header is not JSON"),
    "no text": (b'{"\xff": 1}', b"", "its header is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_headers_that_lie_are_refused(case: str, tmp_path: Path) -> None:
    header, data, reason = LIES[case]
    message = refusal(written(tmp_path / "a.safetensors", header, data))
    assert reason in message
    assert message.count(str(tmp_path)) == 1


def test_a_header_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a", b"{}", length=100_000_001)
    assert "its header declares 100,000,001 bytes; at most 100,000,000 are allowed" in refusal(path)


def test_a_cut_file_is_refused_at_every_place(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2)}, path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        message = refusal(path)
        if length > 8:
            assert f"is cut off: {length:,} bytes are there" in message


def test_names_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    message = refusal(written(tmp_path / "a", {"\x1b[2J\n" + "x" * 1000: [1]}))
    assert "\x1b" not in message
    assert "\n" not in message
    assert len(message) < 300
