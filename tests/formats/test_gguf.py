from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loader.errors import CheckpointError
from loader.formats.tree import Leaf
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_read_or_refused, assert_same
from tests.formats.gguf_writer import written
from tests.jobs import carry_out
from tests.laws import examples

PLAIN = [np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64]
ONLY_WRITTEN = {kind for kind in Kind if kind.name in {"Q8_1", "Q8_K", "Q1_0"}}
"""The package writes them, where it knows them, and does not know the way back."""
QUANTISED = [kind for kind, (elements, _) in gguf.GGML_QUANT_SIZES.items() if elements > 1 and kind not in ONLY_WRITTEN]


@pytest.mark.parametrize("alignment", [0, 64, 4096])
def test_plain_types_are_read_as_they_are(alignment: int, tmp_path: Path) -> None:
    tensors: dict[str, Any] = {f"t.{kind.__name__}": np.arange(24).astype(kind).reshape(2, 3, 4) for kind in PLAIN}
    tensors["one"] = np.ones(1, np.float32)
    with open_checkpoint(written(tmp_path / "a.gguf", tensors, alignment=alignment)) as checkpoint:
        assert checkpoint.format == "gguf"
        ours = checkpoint.root.tensors()
        assert list(ours) == list(tensors)
        checkpoint.verify(ours.values())
        for name, entry in ours.items():
            for mmap in (True, False):
                assert_same(checkpoint.read(entry, mmap=mmap), torch.from_numpy(tensors[name]))


def test_bfloat16_stays_bfloat16(tmp_path: Path) -> None:
    values = torch.randn(3, 8).to(torch.bfloat16)
    raw = values.view(torch.uint8).numpy()
    with open_checkpoint(written(tmp_path / "a.gguf", {"w": raw}, {"w": Kind.BF16})) as checkpoint:
        assert_same(checkpoint.read(checkpoint.root.tensors()["w"]), values)


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_types_become_what_the_package_makes_of_them(kind: Kind, tmp_path: Path) -> None:
    elements, nbytes = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 60, (3, 2, 2 * nbytes), dtype=np.uint8)
    path = written(tmp_path / "a.gguf", {"w": raw, "b": np.ones(3, np.float32)}, {"w": kind})
    theirs = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "w")
    expected = torch.from_numpy(gguf.quants.dequantize(theirs.data, theirs.tensor_type))
    with open_checkpoint(path) as checkpoint:
        entry = checkpoint.root.tensors()["w"]
        assert (entry.dtype, entry.shape, entry.nbytes) == ("float32", (3, 2, 2 * elements), raw.nbytes)
        for mmap in (True, False):
            found = checkpoint.read(entry, mmap=mmap)
            assert found.shape == expected.shape
            assert torch.equal(found.view(torch.int32), expected.view(torch.int32))


def test_notes_are_entries_that_are_no_tensors(tmp_path: Path) -> None:
    with open_checkpoint(written(tmp_path / "a.gguf", {"w": np.ones(2, np.float32)})) as checkpoint:
        notes = {name: child.text for name, child in checkpoint.root.children.items() if isinstance(child, Leaf)}
    assert notes["general.architecture"] == "llama"
    assert notes["general.name"] == "a name"
    assert notes["llama.block_count"] == "2"
    assert notes["llama.rope.freq_base"] == "0.5"
    assert notes["tokenizer.ggml.add_bos_token"] == "True"
    assert notes["tokenizer.ggml.tokens"] == "3 values"
    assert notes["tokenizer.ggml.scores"] == "3 values"


def test_a_quantised_file_loads_into_a_model(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((2, 64), np.float32)
    raw = gguf.quants.quantize(weight, Kind.Q8_0)
    path = written(tmp_path / "a.gguf", {"weight": raw, "bias": np.ones(2, np.float32)}, {"weight": Kind.Q8_0})
    node = {"_target_": "torch.nn.Linear", "in_features": 64, "out_features": 2}
    for dtype in (None, "float16"):
        loaded = carry_out(node, path, verify={}, dtype=dtype)
        expected = torch.from_numpy(gguf.quants.dequantize(raw, Kind.Q8_0))
        found: Any = loaded.model.weight
        assert torch.equal(found, expected.to(found.dtype))
        assert {check.name: check.ok for check in loaded.report.verification.checks}["read back"]
    assert loaded.report.parts[""].other["general.architecture"] == "str"


def test_without_the_package_the_refusal_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = gguf.quants.quantize(np.ones((1, 32), np.float32), Kind.Q4_0)
    path = written(tmp_path / "a.gguf", {"w": raw}, {"w": Kind.Q4_0})
    plain = written(tmp_path / "b.gguf", {"w": np.ones(2, np.float32)})
    monkeypatch.setitem(sys.modules, "gguf.constants", None)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert refusal.value.message == (
        f"{path} holds tensors that ggml has quantized, such as 'w', and the package gguf, which turns them into "
        "float32, is not installed"
    )
    assert refusal.value.hint == "pip install 'hydra-loader[gguf]'"
    with open_checkpoint(plain) as checkpoint:
        assert_same(checkpoint.read(checkpoint.root.tensors()["w"]), torch.ones(2))


def test_what_the_package_cannot_turn_back_is_refused(tmp_path: Path) -> None:
    raw = np.zeros((1, gguf.GGML_QUANT_SIZES[Kind.Q8_1][1]), np.uint8)
    path = written(tmp_path / "a.gguf", {"w": raw}, {"w": Kind.Q8_1})
    with (
        open_checkpoint(path) as checkpoint,
        pytest.raises(CheckpointError, match="unsupported quantization Q8_1: the package gguf cannot dequantize it"),
    ):
        checkpoint.read(checkpoint.root.tensors()["w"])


def text(content: str | bytes) -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return struct.pack("<Q", len(raw)) + raw


def tensor(name: str = "w", dimensions: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, kind, offset)


def note(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def made(
    *tensors: bytes, notes: tuple[bytes, ...] = (), counts: tuple[int, int] | None = None, version: int = 3
) -> bytes:
    many, few = counts or (len(tensors), len(notes))
    head = struct.pack("<4sIQQ", b"GGUF", version, many, few) + b"".join((*notes, *tensors))
    return head + bytes(-len(head) % 32) + bytes(64)


def test_a_file_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    nested = struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 8, 2) + text("a") + text("b")
    path.write_bytes(made(tensor(), tensor("x", kind=99), notes=(note("n", 9, nested),), version=2))
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.root.tensors()) == ["w"]
        assert checkpoint.root.children["x"] == Leaf("ggml type 99", "[4]")
        assert checkpoint.root.children["n"].text == "1 value"  # type: ignore[union-attr]


ALIGNMENT = "general.alignment"
MANY = 1 << 60
LIES = {
    "tensors": (made(counts=(MANY, 0)), "its header declares 1,152,921,504,606,846,976 tensors"),
    "notes": (made(counts=(0, MANY)), "its header declares 1,152,921,504,606,846,976 notes"),
    "name": (made(struct.pack("<Q", MANY)), "a name in its header declares"),
    "text": (made(notes=(note("n", 8, struct.pack("<Q", MANY)),)), "is cut off"),
    "list": (made(notes=(note("n", 9, struct.pack("<IQ", 0, MANY)),)), "is cut off"),
    "texts": (made(notes=(note("n", 9, struct.pack("<IQ", 8, MANY)),)), "a list in its header declares"),
    "some texts": (made(notes=(note("n", 9, struct.pack("<IQ", 8, 9_000)),)), "9,000 values in a list"),
    "deep": (made(notes=(note("n", 9, struct.pack("<IQ", 9, 1) * 5),)), "invalid type of a value in its header: 9"),
    "type": (made(notes=(note("n", 13, b""),)), "invalid type of a value in its header: 13"),
    "no text": (made(notes=(note("n", 8, text(b"\xff")),)), "a text in its header is not UTF-8"),
    "twice": (made(tensor(), tensor(offset=32)), "its header names 'w' twice"),
    "note and tensor": (made(tensor("n"), notes=(note("n", 0, b"1"),)), "its header names 'n' twice"),
    "dimensions": (made(text("w") + struct.pack("<I", 1 << 31)), "declares 2,147,483,648 dimensions"),
    "shape": (made(tensor(dimensions=(1 << 62, 1 << 62))), "is cut off"),
    "size": (made(tensor(dimensions=((1 << 64) - 1, 0))), "invalid shape of tensor 'w'"),
    "offset": (made(tensor(offset=MANY)), "is cut off"),
    "overlap": (made(tensor(), tensor("x", offset=8)), "'x' overlaps the tensor before it"),
    "rows": (made(tensor(kind=2)), "the rows of tensor 'w' are not a multiple of Q4_0's 32 elements"),
    "no alignment": (made(notes=(note(ALIGNMENT, 4, struct.pack("<I", 3)),)), "its alignment is 3; a power of two"),
    "alignment": (made(notes=(note(ALIGNMENT, 8, text("32")),)), "its alignment is 32; a power of two"),
    "version": (made(version=1), "is a GGUF file of version 1; version 2 or 3 was expected"),
    "big": (made(version=3 << 24), "is a GGUF file for big-endian machines"),
    "cut": (made(tensor())[:50], "is cut off: 50 bytes are there"),
    "start": (b"GGUF\x03", "is cut off: 5 bytes are there, 24 or more are declared"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_headers_that_lie_are_refused(case: str, tmp_path: Path) -> None:
    content, fault = LIES[case]
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert fault in refusal.value.message


@given(st.data())
@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_byte_says_the_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    raw = gguf.quants.quantize(np.ones((2, 64), np.float32), Kind.Q4_0)
    path = written(tmp_path / "a.gguf", {"w": raw, "b": np.ones(3, np.float32)}, {"w": Kind.Q4_0})
    assert_read_or_refused(path, data)
