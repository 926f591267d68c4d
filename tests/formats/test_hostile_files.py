from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from loader.errors import CheckpointError
from loader.formats import open_checkpoint
from tests.formats.comparing import entries_below
from tests.formats.hostile import Call, pickled, torch_zip

LEGACY_HEAD = b"".join(
    pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001})
)


def legacy(path: Path, content: bytes) -> Path:
    path.write_bytes(LEGACY_HEAD + content + pickle.dumps([], 2))
    return path


def exercise(path: Path) -> None:
    """Does with a file all that can be done without admitting anything."""
    with contextlib.suppress(CheckpointError), open_checkpoint(path) as checkpoint:
        entries = entries_below(checkpoint.root)
        checkpoint.will_need(list(entries.values()))
        checkpoint.verify(entries.values())
        for entry in entries.values():
            for mmap in (True, False):
                checkpoint.read(entry, mmap=mmap)


MARK = "open('{}', 'w').close()"
TOUCH = "touch {}"
RUNNING = {
    "reduce": b"cos\nsystem\n(V{touch}\ntR.",
    "reduce of eval": b"c__builtin__\neval\n(V{mark}\ntR.",
    "reduce of exec": b"cbuiltins\nexec\n(V{mark}\ntR.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93(V{touch}\ntR.",
    "instance": b"(V{touch}\nios\nsystem\n.",
    "object": b"(cos\nsystem\nV{touch}\no.",
    "new object": b"cos\nsystem\n(V{touch}\nt\x81.",
    "new object with keywords": b"cos\nsystem\n(V{touch}\nt}\x92.",
    "build": b"cos\nsystem\n)R(V__setstate__\ncos\nsystem\ndb.",
    "build of a name": b"cos\n_wrap_close\n)\x81}V__setstate__\ncos\nsystem\nsbV{touch}\nb.",
    "key": b"}(cos\nsystem\n(V{touch}\ntRK\x01u.",
    "popped": b"cos\nsystem\n(V{touch}\ntR0N.",
    "persistent id": b"(Vstorage\ncos\nsystem\nV{touch}\nVcpu\nK\x01tQ.",
    "text persistent id": b"Pos.system('{touch}')\n.",
    "extension": b"\x82\x01(V{touch}\ntR.",
    "getattr": b"c__builtin__\ngetattr\n(cos\nsystem\nV__call__\ntR(V{touch}\ntR.",
    "rebuild of a type": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nctorch\nTensor\n(V{touch}\ntNtR.",
    "parameter of a call": b"ctorch._utils\n_rebuild_parameter\n(cos\nsystem\n(V{touch}\ntRI01\nNtR.",
    "torch's own": b"ctorch.utils.collect_env\nrun\n(V{touch}\ntR.",
    "ordered": b"ccollections\nOrderedDict\n((V{touch}\ncos\nsystem\nttR.",
    "default": b"ccollections\ndefaultdict\n(cos\nsystem\ntR(V{touch}\nNu.",
    "array": b"cnumpy.core.multiarray\n_reconstruct\n(cos\nsystem\n(V{touch}\ntRtR.",
    "second pickle": b"N.cos\nsystem\n(V{touch}\ntR.",
}  # fmt: skip


@pytest.mark.parametrize("form", [torch_zip, legacy])
@pytest.mark.parametrize("case", RUNNING)
def test_no_code_of_a_file_runs(case: str, form: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    content = RUNNING[case].replace(b"{touch}", f"touch {mark}".encode()).replace(b"{mark}", MARK.format(mark).encode())
    exercise(form(tmp_path / "harmless.pt", b"(Va\nS'x'\nt."))  # brings in what our own reading needs
    before = set(sys.modules)
    exercise(form(tmp_path / "a.pt", content))
    assert not mark.exists()
    assert set(sys.modules) == before


@pytest.mark.parametrize("form", [torch_zip, legacy])
def test_the_marks_would_be_made_by_a_reader_that_runs_code(form: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    pickle.loads(RUNNING["reduce"].replace(b"{touch}", f"touch {mark}".encode()))
    assert mark.exists()


def test_no_module_that_a_file_names_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "marking_module.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w').close()\nclass Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    exercise(torch_zip(tmp_path / "a.pt", b"cmarking_module\nNet\n)\x81."))
    assert "marking_module" not in sys.modules
    assert not (tmp_path / "mark").exists()


def nested(opening: bytes, depth: int, closing: bytes = b"") -> bytes:
    return opening * depth + closing * depth + b"."


def doubled(levels: int) -> bytes:
    return b"](K\x01l" + b"2\x86" * levels + b"."


def bombs(folder: Path) -> dict[str, Path]:
    """Files of at most a few megabytes that ask for far more."""
    deep = b"N" + b"\x85" * 1_000_000
    made = {
        "nested tuples": deep + b".",
        "key of nested tuples": b"}" + deep + b"K\x01s.",
        "nested lists": b"]" * 500_000 + b"a" * 499_999 + b".",
        "nested dicts": b"}" + b"K\x01}" * 300_000 + b"s" * 300_000 + b".",
        "doubled tuples": doubled(5000),
        "key of doubled tuples": b"}" + b")" + b"2\x86" * 5000 + b"K\x01s.",
        "set of doubled tuples": b"\x8f(" + b")" + b"2\x86" * 5000 + b"\x90.",
        "marks": b"(" * 1_000_000 + b".",
        "empty lists": b"]" * 1_000_000 + b".",
        "memo": b"N" + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - i) for i in range(200_000)) + b".",
        "huge text": b"X\xff\xff\xff\xff.",
        "huge bytes": b"\x8e" + b"\xff" * 7 + b"\x7f.",
        "huge byte array": b"\x96\x00\x00\x00\x00\xff\x00\x00\x00.",
        "huge number": b"\x8b\xff\xff\xff\x7f.",
        "big number": b"\x8b" + struct.pack("<i", 3_000_000) + b"\x7f" * 3_000_000 + b".",
        "digits": b"I" + b"9" * 3_000_000 + b"\n.",
        "quoted": b"S'" + b"\\x41" * 500_000 + b"'\n.",
        "colliding keys": b"}(" + b"".join(
            b"\x8a\x0a" + (i * (2**61 - 1)).to_bytes(10, "little") + b"N" for i in range(50_000)) + b"u.",
        "one key many times": b"}(" + b"X\x01\x00\x00\x00aN" * 300_000 + b"u.",
        "long path of keys": b"}(X\x40\x42\x0f\x00" + b"k" * 1_000_000 + b"}(" + b"".join(
            b"X\x06\x00\x00\x00%06d}" % i for i in range(50_000)) + b"uu.",
        "call with a huge count": b"ccollections\nCounter\n(J\xff\xff\xff\x7ftR.",
        "bytes of a huge size": b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.",
        "many objects": b"]" + b"cm\nN\n)\x81}ba" * 50_000 + b".",
        "appended one by one": b"cm\nN\n)R" + b"K\x01a" * 300_000 + b".",
        "stored one by one": b"cm\nN\n)R" + b"K\x01K\x02s" * 300_000 + b".",
    }  # fmt: skip
    paths = {name: torch_zip(folder / f"{name}.pt", content) for name, content in made.items()}
    for name in ("nested lists", "marks", "huge text", "big number", "memo"):
        paths[f"old {name}"] = legacy(folder / f"old {name}.pt", made[name])
    return paths | zip_bombs(folder) | header_bombs(folder)


def zip_bombs(folder: Path) -> dict[str, Path]:
    index, side, many = folder / "index.pt", folder / "side.pt", folder / "many.pt"
    with zipfile.ZipFile(index, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as member:
        for _ in range(300):
            member.write(b"]" * (1 << 20))
    with zipfile.ZipFile(side, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N.")
        archive.writestr("a/byteorder", b" " * (300 << 20))
    with zipfile.ZipFile(many, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        for number in range(30_000):
            archive.writestr(f"a/data/{number}", b"")
    return {"deflated index": index, "deflated side record": side, "many records": many}


def header_bombs(folder: Path) -> dict[str, Path]:
    deep, wide = folder / "deep.safetensors", folder / "wide.safetensors"
    for path, header in (
        (deep, b'{"a":' * 500_000),
        (wide, b"{" + b",".join(b'"%d":[]' % i for i in range(200_000)) + b"}"),
    ):
        path.write_bytes(struct.pack("<Q", len(header)) + header)
    return {"deep header": deep, "wide header": wide}


CHILD = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
from loader.errors import CheckpointError
from loader.formats import open_checkpoint
before = set(sys.modules) | {"loader.formats.sniff"}
for path in sys.argv[1:]:
    try:
        checkpoint = open_checkpoint(path)
        outcome = f"{len(list(checkpoint.root.walk()))} containers"
        checkpoint.close()
    except CheckpointError as error:
        assert len(error.message) < 500, len(error.message)
        outcome = "refused"
    print(path, outcome, sep="|")
assert "torch" not in sys.modules
assert "numpy" not in sys.modules
"""


def test_bombs_stay_small_in_time_and_memory(tmp_path: Path) -> None:
    """All of them in one process of bounded memory and processor time, which must come to its own end."""
    paths = bombs(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths.values())],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = dict(line.split("|") for line in done.stdout.splitlines())
    assert set(outcomes) == set(map(str, paths.values()))
    assert outcomes[str(paths["deflated index"])] == "refused"
    assert outcomes[str(paths["deflated side record"])] == "refused"
    assert outcomes[str(paths["many records"])] == "1 containers"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("samples")
    state = {"model": torch.nn.Linear(2, 3), "state": {"a": torch.ones(2, 2).t(), "b": [torch.arange(3), 1, "x"]}}
    torch.save(state, folder / "zip")
    torch.save(state, folder / "legacy", _use_new_zipfile_serialization=False)
    save_file({"a": torch.ones(2, 2), "b": torch.arange(3)}, folder / "safetensors", {"k": "v"})
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lengths(content: bytes) -> Iterator[int]:
    """Every place up to the end of the pickles, and some of the rest."""
    yield from range(min(1200, len(content)))
    yield from range(1200, len(content), 7)
    yield from range(max(1200, len(content) - 100), len(content))


@pytest.mark.parametrize("name", ["zip", "legacy", "safetensors"])
def test_a_cut_file_is_refused_wherever_it_is_cut(name: str, samples: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "cut"
    for length in lengths(samples[name]):
        path.write_bytes(samples[name][:length])
        with pytest.raises(CheckpointError) as refusal:
            open_checkpoint(path)
        if length > 200:
            assert any(word in refusal.value.message for word in ("is cut off: ", "is damaged: ")), length


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", ["zip", "legacy", "safetensors"])
def test_a_changed_file_is_read_or_refused(
    name: str, samples: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(samples[name])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed"
    path.write_bytes(content)
    exercise(path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_index_is_read_or_refused(samples: dict[str, bytes], tmp_path: Path, data: st.DataObject) -> None:
    """The same inside the pickle of a zip file, where checksums would otherwise catch it."""
    source = tmp_path / "zip"
    source.write_bytes(samples["zip"])
    with zipfile.ZipFile(source) as archive:
        members = {name: bytearray(archive.read(name)) for name in archive.namelist()}
    index = members["zip/data.pkl"]
    for _ in range(data.draw(st.integers(1, 4))):
        index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "changed"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, bytes(content))
    exercise(path)


def test_nothing_but_the_named_file_is_opened(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 16)
    path = torch_zip(tmp_path / "a.pt", pickled([Call(open, str(secret)), Call(os.unlink, str(secret))]))
    exercise(path)
    assert secret.exists()
