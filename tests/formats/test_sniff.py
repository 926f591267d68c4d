from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import shlex
import struct
import subprocess
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch.package.package_exporter import PackageExporter

from loader import examples
from loader.errors import CheckpointError, ConfigError
from loader.parts.open import open_checkpoint

SHIPPED = Path(examples.__file__).parent / "weights" / "simple_net.safetensors"


def zipped(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    length, size = b"", len(content)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def tarred(name: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


FOREIGN = {
    "empty": (b"", "is empty (0 bytes)", "download the file again"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer", "git lfs pull"
    ),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "is a web page", "from its raw link"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page", "from its raw link"),
    "json": (b'{"error": "Repository not found"}', "is a JSON text", "from its raw link"),
    "text": (b"Entry not found, sorry", 'is text that begins with "Entry not found, sorry"', "from its raw link"),
    "gzip": (gzip.compress(b"x"), "is a gzip archive", "once it is unpacked"),
    "bzip2": (bz2.compress(b"x"), "is a bzip2 archive", "once it is unpacked"),
    "xz": (lzma.compress(b"x"), "is an xz archive", "once it is unpacked"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"\x01" * 20, "is a Zstandard archive", "once it is unpacked"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + b"\x01" * 20, "is a 7-Zip archive", "once it is unpacked"),
    "tar": (tarred("readme"), "is a tar archive", "once it is unpacked"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(8), "is an HDF5 file, as Keras writes them", "loaded with Keras"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x05", "is an ONNX model", "initializers"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(20), "is a TensorFlow Lite model", "made from"),
    "keras": (zipped(**{"config.json": b"{}", "model.weights.h5": b"1"}), "is a Keras model", "loaded with Keras"),
    "pt2": (zipped(m__archive_format=b"pt2"), "is a package of compiled code (.pt2", "it was compiled from"),
    "onnx without a name": (b"\x08\x07" + field(7, b"x" * 300), "is an ONNX model", "initializers"),
    "saved model": (
        b"\x08\x01" + field(2, field(1, b"x" * 500)),
        "is a TensorFlow SavedModel", "tensorflow.saved_model.load('{folder}')",
    ),
    "frozen graph": (
        field(1, field(1, b"model/input") + field(2, b"Placeholder")), "is a frozen TensorFlow graph", "tf2onnx.convert"
    ),
    "tensorflow index": (
        bytes(90) + bytes.fromhex("57fb808b247547db"),
        "is the index of a TensorFlow checkpoint", "tensorflow.train.load_checkpoint('{path}')",
    ),
    "tensorflow note": (
        b'model_checkpoint_path: "model-7"\n', "is TensorFlow's note of the newest checkpoint",
        "tensorflow.train.load_checkpoint"
    ),
    "core ml": (b"\x08\x05" + field(2, field(1, b"x" * 200)), "is a Core ML model", "it was made from"),
    "flax": (b"\x81\xa6params\x82\xa5Dense\x81", "is a MessagePack file, as Flax writes them", "msgpack_restore"),
    "large flax": (b"\xde\x00\x20\xa7Dense_0\x82\xa4bias", "is a MessagePack file, as Flax", "open('{path}', 'rb')"),
    "ocdbt": (b"\x0c\xdb\x3a\x2a" + bytes(40), "is a part of an Orbax checkpoint", "restore('{folder}')"),
    "orbax": (b'{"tree_metadata": {}}', "is a part of an Orbax checkpoint", "restore('{folder}')"),
    "paddle": (
        pickle.dumps({"w": [0] * 5000, "StructuredToParameterName@@": {"w": "w_0"}}),
        "is a Paddle file", "paddle.load('{path}')",
    ),
    "joblib": (
        b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x13joblib.numpy_pickle\x94",
        "is a joblib or scikit-learn file", "loaded with joblib where you trust the file",
    ),
    "mxnet": (b"\x12\x01" + bytes(30), "is an MXNet file", "mxnet.nd.load('{path}')"),
    "executorch": (b"\x20\0\0\0ET12" + bytes(9), "is an ExecuTorch program", "it was made from"),
    "tensorrt": (b"ftrt" + bytes(9), "is a TensorRT engine", "it was made from"),
    "ggml": (b"tjgg\x03\0\0\0", "is a GGML file from before GGUF", "convert_llama_ggml_to_gguf.py"),
    "old torchscript": (
        zipped(**{"net/model.json": b"{}"}),
        "is a TorchScript archive from before torch 1.4", "torch.jit.load('{path}')",
    ),
    "zip": (zipped(**{"notes.txt": b"1"}), "is a zip archive that torch.save did not write", "once it is unpacked"),
    "zipped": (zipped(**{"net/a.pth": b"1"}), "did not write; it holds net/a.pth", "unpack it"),
    "no members": (zipped(), "is a zip archive that torch.save did not write", "once it is unpacked"),
    "pickle": (pickle.dumps({"a": 1}), "is a pickle that torch.save did not write", "torch.save(state_dict"),
    "old pickle": (pickle.dumps({"a": [1]}, 0), "is a pickle of protocol 0", "torch.save(state_dict"),
    "old pickle of an object": (pickle.dumps(Path("a"), 0), "is a pickle of protocol 0", "torch.save(state_dict"),
    "older pickle": (pickle.dumps({"a": [1]}, 1), "is a pickle of protocol 0", "torch.save(state_dict"),
    "text like a pickle": (b"class\nfoo\nbar", 'is text that begins with "class"', "from its raw link"),
    "zlib": (
        zlib.compress(pickle.dumps({"a": 1})),
        "is compressed by zlib; inside is a pickle that torch.save did not write",
        "zlib.decompress(open('{path}', 'rb').read())",
    ),
    "zlib of something": (zlib.compress(b"x" * 99, 1), "is compressed by zlib", "unpacks it"),
    "text like zlib": (b"x^2 + y^2", 'is text that begins with "x^2 + y^2"', "from its raw link"),
    "lua": (
        b"\4\0\0\0\1\0\0\0\3\0\0\0V 1\x0d\0\0\0nn.Sequential", "is a Lua Torch file (.t7)",
        "torchfile.load('{path}')",
    ),
    "lua table": (b"\3\0\0\0\1\0\0\0\2\0\0\0\2\0\0\0\5\0\0\0model", "is a Lua Torch file", "torchfile.load"),
    "lua text": (b"4\n1\n3\nV 1\n13\nnn.Sequential\n", "is a Lua Torch file", "torchfile.load"),
    "lua text table": (b"3\n1\n2\n2\n5\nmodel\n", "is a Lua Torch file", "torchfile.load"),
    "zeros": (bytes(100), "is nothing but zero bytes at its start", "download the file again"),
    "elf": (b"\x7fELF" + bytes(20), "is a program", "checkpoint.path=FILE"),
    "unknown": (b"\x01\x02\xfe\xff\x00" * 9, "is of no known format (it begins with the bytes 01 02 fe ff", "FILE"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOREIGN)
def test_what_is_not_a_checkpoint_is_named(case: str, tmp_path: Path) -> None:
    content, sentence, hint = FOREIGN[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert refusal.value.message.startswith(f"{path} is ")
    assert sentence in refusal.value.message
    assert hint.replace("{path}", str(path)).replace("{folder}", str(tmp_path)) in refusal.value.hint
    assert len(refusal.value.message) < 300 + len(str(path))


TORCH_ZIP = io.BytesIO()
torch.save({"a": torch.ones(1)}, TORCH_ZIP)
SAVED = TORCH_ZIP.getvalue()


def tar(mode: Literal["w", "w:gz"], **members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "/"))
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


INSIDE = {
    "gzip": (
        gzip.compress(SAVED), "net.pth.gz", "is a gzip archive; it holds net.pth",
        "gzip -dc {path} > net.pth   # unpack it\ncheckpoint.path=net.pth",
    ),
    "bzip2": (
        bz2.compress(SAVED), "net", "is a bzip2 archive; it holds net.unpacked",
        "bzip2 -dc {path} > net.unpacked   # unpack it\ncheckpoint.path=net.unpacked",
    ),
    "xz": (
        lzma.compress(SAVED), "net.pth.xz", "is an xz archive; it holds net.pth",
        "xz -dc {path} > net.pth   # unpack it\ncheckpoint.path=net.pth",
    ),
    "tar": (
        tar("w", config=b"1", run__net=b"2", **{"run__net.ckpt": SAVED}), "a.tar",
        "is a tar archive; it holds run/net.ckpt",
        "tar -xf {path} run/net.ckpt   # unpack it\ncheckpoint.path=run/net.ckpt",
    ),
    "tar.gz": (
        tar("w:gz", **{"a b.pt": b"1", "c.bin": b"2"}), "a.tgz", "is a gzip archive; it holds a b.pt, c.bin",
        "tar -xf {path} 'a b.pt'   # unpack it\n'checkpoint.path=\"a b.pt\"'   # or another of them",
    ),
    "zip": (
        zipped(readme=b"1", **{"run__net.ckpt": SAVED}), "a.zip",
        "is a zip archive that torch.save did not write; it holds run/net.ckpt",
        "unzip {path} run/net.ckpt   # unpack it\ncheckpoint.path=run/net.ckpt",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INSIDE)
def test_a_checkpoint_inside_an_archive_is_named_with_the_lines_that_take_it_out(case: str, tmp_path: Path) -> None:
    content, name, sentence, hint = INSIDE[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert refusal.value.message == f"{path} {sentence}"
    assert refusal.value.hint == hint.replace("{path}", str(path))


@pytest.mark.parametrize("case", INSIDE)
def test_those_lines_work(case: str, tmp_path: Path) -> None:
    content, name, _, _ = INSIDE[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    unpack, load = refusal.value.hint.splitlines()
    subprocess.run(unpack, shell=True, check=True, cwd=tmp_path, stdout=subprocess.DEVNULL)
    given = shlex.split(load, comments=True)[0].partition("=")[2].strip('"')
    assert (tmp_path / given).read_bytes() in {SAVED, b"1"}


@pytest.mark.parametrize("name", ["../a.pt", "/a.pt", "a\x1b.pt", "-rf.pt", "a/../../b.pt"])
def test_a_member_that_could_lead_elsewhere_is_not_offered(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar("w", **{name: b"1"}))
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert refusal.value.message == f"{path} is a tar archive"
    assert refusal.value.hint == "checkpoint.path=FILE   # the checkpoint inside, once it is unpacked"


def test_an_archive_of_torch_package_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with PackageExporter(path) as exporter:
            exporter.extern("torch.**")
            exporter.save_pickle("model", "model.pkl", torch.nn.Linear(2, 1))
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert (
        refusal.value.message == f"{path} is a torch.package archive, whose model is made by Python code in the archive"
    )
    assert f"torch.package.PackageImporter('{path}')" in refusal.value.hint


@pytest.mark.parametrize("damage", ["length", "length of a shard", "shifted", "huge"])
@pytest.mark.parametrize("notes", [None, {"format": "pt" * 4000}])
def test_safetensors_with_a_broken_header_length_are_damaged(
    damage: str, notes: dict[str, str] | None, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(3), "b": torch.ones(2)}, path, notes)
    raw = path.read_bytes()
    length = {"length": b"\xff" * 8, "length of a shard": b"\0" * 7 + b"\x80", "shifted": b"\0" * 9, "huge": b"9" * 8}
    path.write_bytes(length[damage] + raw[8:])
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    number = int.from_bytes(path.read_bytes()[:8], "little")
    assert refusal.value.message == (
        f"{path} is damaged: it is a safetensors file, and its first 8 bytes are not the length of its header: "
        f"they say {number:,}"
    )
    assert refusal.value.hint == "copy or download the file again"


def test_the_data_of_a_tensorflow_checkpoint_are_recognised_by_their_name(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt-7.data-00000-of-00001"
    path.write_bytes(bytes(range(3, 200)))
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert refusal.value.message.startswith(f"{path} is the data of a TensorFlow checkpoint, judging by its name")
    assert f"tensorflow.train.load_checkpoint('{tmp_path / 'model.ckpt-7'}')" in refusal.value.hint


def test_the_name_never_decides(tmp_path: Path) -> None:
    as_zip, as_safe, as_old = tmp_path / "a.safetensors", tmp_path / "b.pt", tmp_path / "c.html"
    torch.save({"a": torch.ones(1)}, as_zip)
    save_file({"a": torch.ones(1)}, as_safe)
    torch.save({"a": torch.ones(1)}, as_old, _use_new_zipfile_serialization=False)
    found = [open_checkpoint(path).format for path in (as_zip, as_safe, as_old)]
    assert found == ["torch-zip", "safetensors", "torch-legacy"]


@pytest.mark.parametrize(("name", "fault"), [("a.safetensors", True), ("a.PT", False), ("a.npz", True), ("a", False)])
def test_a_name_that_promises_something_else_is_reported(
    name: str, fault: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / name)
    open_checkpoint(tmp_path / name).close()
    assert caplog.messages == [f"{tmp_path / name} is in the torch-zip format, despite its name"] * fault


@pytest.mark.parametrize("protocol", range(6))
def test_the_old_format_is_recognised_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": 1}, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    assert open_checkpoint(path).format == "torch-legacy"


def test_another_format_than_the_config_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path, format="safetensors")
    assert refusal.value.message == f"{path} is a torch-zip file; checkpoint.format says safetensors"
    assert refusal.value.hint == "checkpoint.format=torch-zip"


@pytest.mark.parametrize(
    ("key", "value", "expected", "hint"),
    [
        (
            "format",
            "safetensor",
            "checkpoint.format is 'safetensor' (did you mean 'safetensors'?); one of auto, ",
            "checkpoint.format=safetensors",
        ),
        (
            "format",
            "zip",
            "checkpoint.format is 'zip' (did you mean 'torch-zip'?); one of auto, ",
            "checkpoint.format=torch-zip",
        ),
        ("format", "qqqq", "checkpoint.format is 'qqqq'; one of auto, ", "checkpoint.format=auto"),
        (
            "check",
            "crcs",
            "checkpoint.check is 'crcs' (did you mean 'crc'?); one of crc, structure, full was expected",
            "checkpoint.check=crc",
        ),
        ("sha256", "abc", "checkpoint.sha256 is 'abc'; 64 hexadecimal digits were expected", "sha256sum {path}"),
    ],
)
def test_wrong_settings_are_the_configs_fault(key: str, value: str, expected: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"a": torch.ones(1)}, path)
    settings: dict[str, Any] = {key: value}
    with pytest.raises(ConfigError) as refusal:
        open_checkpoint(path, **settings)
    assert expected in refusal.value.message
    assert refusal.value.hint == hint.format(path=path)


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("pkg://loader.examples/weights/simple_net.safetensors", f"sha256sum {shlex.quote(str(SHIPPED))}"),
        ("https://host/a.pt", "checkpoint.sha256=…   # as the publisher of the file states it"),
    ],
)
def test_the_digest_to_type_is_that_of_a_file_that_a_shell_can_read(path: str, hint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        open_checkpoint(path, sha256="abc")
    assert refusal.value.hint == hint


def test_a_short_file_that_looks_like_safetensors_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(struct.pack("<Q", 1000) + b'{"a":')
    with pytest.raises(CheckpointError, match="is cut off: 13 bytes are there, 1,008 or more are declared"):
        open_checkpoint(path)
