from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loader import load_into
from loader.errors import CheckpointError, FitError
from loader.formats.pickle.storages import NUMPY_DTYPES
from loader.formats.tree import Container, Leaf
from loader.parts.open import open_checkpoint
from loader.schema import Check
from tests.formats.comparing import assert_same
from tests.jobs import carry_out

ARRAYS: dict[str, Any] = {
    **{name: np.arange(6).astype(name).reshape(2, 3) for name in NUMPY_DTYPES},
    "turned": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "swapped": np.arange(6.0).astype(">f4").reshape(2, 3),
    "swapped complex": (np.arange(6) * (1 + 2j)).astype(">c16").reshape(3, 2).T,
    "swapped half": np.arange(3).astype(">f2"),
    "scalar": np.float32(2.5),
    "empty": np.zeros((0, 3), np.int16),
    "Transformer/encoder/kernel": np.ones(5),
}


def as_torch(array: Any) -> torch.Tensor:
    order = array.dtype.newbyteorder("=")
    made = torch.from_numpy(np.asarray(array).astype(order))
    return (
        made if made.numel() else torch.empty_like(made, memory_format=torch.contiguous_format)
    )  # NumPy has strides 0


def saved(array: Any, version: tuple[int, int] | None = None) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), version)
    return stream.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("check", ["crc", "full", "structure"])
def test_arrays_are_those_that_numpy_gives(save: Any, check: Check, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    save(path, **ARRAYS)
    with np.load(path) as theirs, open_checkpoint(path, check=check) as checkpoint:
        ours = checkpoint.root.tensors()
        assert checkpoint.format == "npz"
        assert list(ours) == list(theirs)
        checkpoint.verify(ours.values())
        for name, entry in ours.items():
            for mmap in (True, False):
                assert_same(checkpoint.read(entry, mmap=mmap), as_torch(theirs[name]))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("name", ARRAYS)
def test_a_single_array_is_read(name: str, version: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    path.write_bytes(saved(ARRAYS[name], version))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "npy"
        assert_same(checkpoint.read(checkpoint.root.tensors()[""]), as_torch(ARRAYS[name]))


def test_an_archive_loads_into_a_model(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, weight=np.ones((2, 3), np.float32), bias=np.zeros(2, np.float32))
    node = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
    loaded = carry_out(node, path, verify={})
    assert torch.equal(loaded.model.weight, torch.ones(2, 3))  # type: ignore[arg-type]


def test_a_flipped_bit_is_reported_with_the_array(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.full(1000, 7.0), b=np.zeros(3))
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<d", 7.0)) + 80] ^= 1
    path.write_bytes(content)
    with open_checkpoint(path) as checkpoint:
        checkpoint.verify([checkpoint.root.tensors()["b"]])
        with pytest.raises(CheckpointError, match=r"read: a.npy; damaged with them: a\n"):
            checkpoint.verify(checkpoint.root.tensors().values())


def test_what_torch_has_no_type_for_is_shown_as_such(tmp_path: Path) -> None:
    fields = np.zeros(2, [("a", "<f4"), ("b", "<i4", (2,))])
    path = tmp_path / "a.npz"
    np.savez(
        path,
        w=np.ones(2),
        text=np.array(["a", "bc"]),
        when=np.zeros(1, "M8[s]"),
        fields=fields,
        many=np.array([{}, None]),
    )
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.root.tensors()) == ["w"]
        others = {name: child for name, child in checkpoint.root.children.items() if name != "w"}
    assert others == {
        "text": Leaf("numpy <U2", "[2]"),
        "when": Leaf("numpy <M8[s]", "[1]"),
        "fields": Leaf("numpy [('a', '<f4'), ('b'…", "[2]"),
        "many": Leaf("numpy |O", "[2]"),
    }


class Marking:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


def test_arrays_of_objects_are_refused_and_run_nothing(tmp_path: Path) -> None:
    objects = np.array([Marking(tmp_path / "mark")], dtype=object)
    np.savez(tmp_path / "a.npz", one=objects, two=objects)
    np.save(tmp_path / "b.npy", objects)
    for path, names in ((tmp_path / "a.npz", "one, two"), (tmp_path / "b.npy", "b.npy")):
        with pytest.raises(CheckpointError) as refusal:
            open_checkpoint(path)
        assert refusal.value.message == (f"{path} holds only arrays of Python objects, which are pickles: {names}")
        assert refusal.value.hint == (
            "numpy.savez('new.npz', **arrays)   # saves the arrays by name, where you trust the file"
        )
    assert not (tmp_path / "mark").exists()


def test_types_that_only_another_package_knows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, w=np.zeros(3, "V2"), v=np.zeros(3, "V1"), u=np.ones(1))  # as ml_dtypes' bfloat16 and float8 come out
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert refusal.value.message == (
        f"{path} holds 2 arrays of a type that NumPy does not have, as raw bytes: w (|V2), v (|V1); "
        "the file does not say which type (bfloat16, float8 …)"
    )
    assert "array.astype('float32')" in refusal.value.hint


def header(text: str, body: bytes = bytes(24)) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode("latin1") + body


PLAIN = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
LIES = {
    "more": (header(PLAIN.replace("2", "20") + " " * 58), "is cut off: 152 bytes are there, 368 or more are declared"),
    "less": (header(PLAIN.replace("2", "1") + " " * 59), "array 'a.npy' has 24 bytes; float32 [1, 3] needs 12"),
    "huge": (header(PLAIN.replace("2, 3", "9" * 18 + ", " + "9" * 18) + " " * 25), "is cut off"),
    "digits": (header(PLAIN.replace("2", "9" * 5000)), "invalid shape of array 'a.npy'"),
    "dimensions": (header(PLAIN.replace("2, 3", "1, " * 65)), "invalid header of array 'a.npy'"),
    "negative": (header(PLAIN.replace("2", "-2")), "invalid header of array 'a.npy'"),
    "code": (header(PLAIN.replace("False", "print(1)")), "invalid header of array 'a.npy'"),
    "twice": (header(PLAIN.replace("shape", "descr")), "invalid header of array 'a.npy'"),
    "long": (header(PLAIN + " " * 20_000), "invalid header of array 'a.npy'"),
    "cut": (header(PLAIN, b"")[:30], "invalid header of array 'a.npy'"),
    "short": (b"\x93NUMPY", "invalid header of array 'a.npy'"),
    "lists": (header("{'descr': [" + "], 'descr': [" * 700), "invalid header of array 'a.npy'"),
    "crooked": (header(PLAIN), "is not aligned for float32"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_headers_that_lie_are_refused(case: str, tmp_path: Path) -> None:
    content, fault = LIES[case]
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as refusal:
        open_checkpoint(path)
    assert fault in refusal.value.message


def test_records_that_lie_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for packing in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        for content in (header(PLAIN + " " * 59, bytes(20)), b"", b"text"):
            with zipfile.ZipFile(path, "w", packing) as archive:
                archive.writestr("w.npy", content)
            with pytest.raises(CheckpointError, match="array 'w'"):
                open_checkpoint(path)


def test_headers_in_another_order_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    text = "{'shape': (2L, 3L), 'descr': '<f4', 'fortran_order': True}"
    path.write_bytes(header(text + " " * (-(10 + len(text)) % 64)))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.root.tensors()[""].stride == (1, 2)


KEPT = {name: array for name, array in ARRAYS.items() if name != "scalar"}
"""A scalar of NumPy's is a number next to the weights, not a tensor."""


def assert_same_arrays(root: Container, read: Any, arrays: dict[str, Any]) -> None:
    ours = root.tensors()
    assert list(ours) == list(arrays)
    for name, entry in ours.items():
        for mmap in (True, False):
            assert_same(read(entry, mmap=mmap), as_torch(arrays[name]))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_in_a_plain_pickle_are_tensors(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(ARRAYS, protocol))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "pickle"
        assert_same_arrays(checkpoint.root, checkpoint.read, KEPT)
        scalar = checkpoint.root.children["scalar"].type  # type: ignore[union-attr]
        assert scalar in {"numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"}  # NumPy 2, and 1


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_in_a_file_of_torch_are_tensors(protocol: int, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    content = {"state_dict": ARRAYS, "one": torch.ones(1)}
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.root.children["state_dict"]
        assert isinstance(found, Container)
        assert_same_arrays(found, checkpoint.read, KEPT)


def test_arrays_in_an_array_of_objects_are_tensors(tmp_path: Path) -> None:
    dict_of, list_of, nested = tmp_path / "dict.npy", tmp_path / "list.npy", tmp_path / "nested.npy"
    np.save(dict_of, ARRAYS, allow_pickle=True)  # type: ignore[arg-type]
    several = np.empty(2, dtype=object)
    several[:] = [np.arange(3.0), np.ones((2, 2), np.int8)]
    np.save(list_of, several)
    np.save(nested, {"net": {"w": several}, "names": ["a"]}, allow_pickle=True)  # type: ignore[arg-type]
    for path in (dict_of, list_of, nested):
        with open_checkpoint(path) as checkpoint:
            assert checkpoint.format == "npy"
            root = checkpoint.root
            if path == nested:
                root = dict(root.walk())["net.w"]
            assert_same_arrays(
                root, checkpoint.read, KEPT if path == dict_of else dict(zip("01", several, strict=True))
            )


def test_what_is_no_array_of_numbers_stays_an_entry(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    odd = {
        "texts": np.array(["a"]), "fields": np.zeros(1, [("a", "f4")]), "dates": np.array(["2020"], "M8[D]"),
        "objects": np.array([1, "a"], object), "long": np.zeros(1, np.longdouble),
    }  # fmt: skip
    for protocol in (2, 5):
        path.write_bytes(pickle.dumps({**odd, "w": np.ones(1)}, protocol))
        with open_checkpoint(path) as checkpoint:
            assert [*checkpoint.root.tensors()] == ["w"]
            assert {n.type for n in checkpoint.root.children.values() if isinstance(n, Leaf)} == {"numpy.ndarray"}


CROOKED: dict[str, Any] = {
    "a shape that needs more bytes": lambda s: (s[0], (1 << 62,), *s[2:]),
    "a negative shape": lambda s: (s[0], (-3,), *s[2:]),
    "no shape": lambda s: (s[0], 3, *s[2:]),
    "less bytes": lambda s: (*s[:4], s[4][:-1]),
    "another type": lambda s: (*s[:2], np.dtype("f4"), *s[3:]),
    "text for bytes": lambda s: (*s[:4], "x" * len(s[4])),
}


@pytest.mark.parametrize("lie", CROOKED)
def test_an_array_whose_parts_do_not_match_is_not_one(lie: str, tmp_path: Path) -> None:
    class Lying(np.ndarray[Any, Any]):
        def __reduce__(self) -> Any:
            made: Any = np.array(self).__reduce__()
            function, arguments, state = made
            return function, arguments, CROOKED[lie](state)

    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"lie": np.ones(3).view(Lying), "w": np.ones(3)}, 2))
    with open_checkpoint(path) as checkpoint:
        assert [*checkpoint.root.tensors()] == ["w"]


def test_arrays_fill_a_model_and_are_compared_by_what_they_hold(tmp_path: Path) -> None:
    weight, bias = np.arange(6.0, dtype=np.float32).reshape(3, 2).T, np.ones(2, np.float32)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"weight": weight, "bias": bias}))
    loaded = carry_out({"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}, path)
    assert torch.equal(loaded.model.state_dict()["weight"], torch.from_numpy(weight.copy()))
    assert loaded.report.parts[""].format == "pickle"
    path.write_bytes(pickle.dumps({"first.weight": np.ones((2, 2)), "second.weight": np.zeros((2, 2))}))
    tied = torch.nn.ModuleDict({"first": torch.nn.Linear(2, 2, bias=False)})
    tied["second"] = tied["first"]
    with pytest.raises(FitError, match="the model ties names that hold different values in the file"):
        load_into(tied, path)


def test_extra_state_that_is_an_array_stays_one(tmp_path: Path) -> None:
    class Counting(torch.nn.Linear):
        seen: Any = None

        def get_extra_state(self) -> Any:
            return np.arange(3)

        def set_extra_state(self, state: Any) -> None:
            self.seen = state

    torch.save(Counting(2, 1).state_dict(), tmp_path / "a.pt")
    module = Counting(2, 1)
    load_into(module, tmp_path / "a.pt")
    assert isinstance(module.seen, np.ndarray)
    assert module.seen.tolist() == [0, 1, 2]


def test_a_pickle_without_arrays_is_named_and_nothing_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    for protocol, what in (
        (0, "a pickle of protocol 0, as Python 2 wrote it"),
        (4, "a pickle that torch.save did not"),
    ):
        path.write_bytes(pickle.dumps({"a": Marking(tmp_path / "mark")}, protocol))
        with pytest.raises(CheckpointError) as refusal:
            open_checkpoint(path)
        assert refusal.value.message.startswith(f"{path} is {what}")
        assert refusal.value.message.endswith(", and holds no array of numbers")
    assert not (tmp_path / "mark").exists()
