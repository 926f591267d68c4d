"""The loader where Python lacks what only POSIX systems have: Windows, emulated on this one."""

from __future__ import annotations

import errno
import json
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loader.errors import CheckpointError
from loader.files.descriptors import _system_mmap, map_private, read_at, read_into_at
from loader.files.write import try_lock
from loader.runtime import open_file_limit, peak_memory
from tests.command import REPOSITORY, run, run_loader
from tests.formats.sharding import write_shards
from tests.remote.asking import refusal
from tests.remote.server import Server
from tests.sweep.sweeping import without_progress

AS_WINDOWS = {
    "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests" / "as_windows"), str(REPOSITORY)]),
    "PYTHONWARNDEFAULTENCODING": "1",
}

FROM_PYTHON = """
import sys
from pathlib import Path

import torch
from torch import nn

import loader
from loader.files import descriptors

folder, url = Path(sys.argv[1]), sys.argv[2]
net = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}
want = torch.load(folder / "a.pt")

def check(module, name):
    for key, value in module.state_dict().items():
        assert torch.equal(value, want[key]), (name, key)
    print(name)

assert not hasattr(descriptors.os, "pread") and descriptors._system_mmap() is None
for name, settings in {
    "a.pt": {"check": "full"},
    "sharded": {},
    "a.safetensors": {"mmap": False},
    "a.tar": {},
    "url": {"path": url},
}.items():
    checkpoint = {"path": str(folder / name), **settings}
    check(loader.load_model(model=net, checkpoint=checkpoint, device="cpu"), name)
module = nn.Linear(3, 2)
loader.load_into(module, folder / "a.pt")
check(module, "load_into")
out = folder / "out" / "b.safetensors"
out.parent.mkdir()
for times in range(2):
    loader.load({"mode": "convert", "model": net, "checkpoint": {"path": str(folder / "a.pt")}, "device": "cpu",
                 "convert": {"path": str(out)}, "verify": {"golden": None}})
check(loader.load_model(model=net, checkpoint={"path": str(out)}, device="cpu"), "convert")
assert [path.name for path in out.parent.iterdir()] == ["b.safetensors"], list(out.parent.iterdir())
record = {"verify": {"record": True}}
for settings in ({"mode": "inspect", "model": None}, {"mode": "plan"}, record, record, {}):
    path = {"checkpoint": {"path": str(folder / "a.safetensors")}}
    report = loader.load({"model": net, "device": "cpu", **path, **settings}).report
    assert report.status == "ok", report
assert (folder / "a.safetensors.golden.safetensors").is_file() and "golden" in str(report.verification.checks)
print("modes")
"""


def test_the_main_job_runs(tmp_path: Path) -> None:
    done = run_loader("device=cpu", cwd=tmp_path, **AS_WINDOWS)
    assert (done.code, done.err) == (0, "")
    assert done.report["memory"] == {"peak_rss_bytes": None}


def test_files_of_every_kind_and_urls_load_into_models_of_every_kind(tmp_path: Path) -> None:
    state = torch.nn.Linear(3, 2).state_dict()
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "a.tar", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "a.safetensors")
    (tmp_path / "sharded").mkdir()
    write_shards(tmp_path / "sharded", {"weight": state["weight"]}, {"bias": state["bias"]})
    cache = tmp_path / "cache"
    with Server() as server:
        url = server.add("/nul.safetensors", (tmp_path / "a.safetensors").read_bytes(), breaks=[100])
        command = [sys.executable, "-c", FROM_PYTHON, str(tmp_path), url]
        done = run(*command, cwd=tmp_path, LOADER_CACHE=str(cache), **AS_WINDOWS)
    assert done.stderr == ""
    assert done.stdout.split() == ["a.pt", "sharded", "a.safetensors", "a.tar", "url", "load_into", "convert", "modes"]
    assert [path.name for path in (cache / "partial").iterdir()] == []


def test_the_jobs_of_a_sweep_start_in_fresh_processes(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "run.py"), "-m", "device=cpu", "seed=1,2", "hydra.sweep.dir=sweep"]
    done = run(*command, cwd=tmp_path, **AS_WINDOWS)
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    summary = json.loads((tmp_path / "sweep" / "summary.json").read_text())
    assert [job["status"] for job in summary["jobs"]] == ["ok", "ok"]
    assert not (tmp_path / "sweep" / ".jobs").exists()
    reports = [json.loads(path.read_text()) for path in tmp_path.glob("sweep/*/report.json")]
    assert [report["memory"] for report in reports] == [{"peak_rss_bytes": None}] * 2


def test_reads_at_an_offset_share_a_descriptor_among_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread")
    monkeypatch.delattr(os, "preadv")
    path = tmp_path / "a.bin"
    path.write_bytes(content := os.urandom(1 << 16))
    number = os.open(path, os.O_RDONLY)
    os.lseek(number, 7, os.SEEK_SET)
    wrong: list[int] = []

    def read(start: int) -> None:
        for offset in range(start, 1 << 16, 1021):
            target = bytearray(64)
            count = read_into_at(number, memoryview(target), offset)
            if not read_at(number, 64, offset) == content[offset : offset + 64] == bytes(target[:count]):
                wrong.append(offset)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert os.lseek(number, 0, os.SEEK_CUR) == 7
    os.close(number)


@pytest.fixture
def no_system_mmap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    _system_mmap.cache_clear()
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    yield
    _system_mmap.cache_clear()


@pytest.mark.usefixtures("no_system_mmap")
def test_a_mapping_by_python_alone_never_writes_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"content")
    with path.open("rb") as file:
        mapping = map_private(file.fileno(), 7)
    mapping[0:3] = b"XXX"
    assert (mapping[:], path.read_bytes()) == (b"XXXtent", b"content")


def test_without_the_module_resource_there_are_no_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    assert (peak_memory(), open_file_limit()) == (None, None)


def test_a_file_system_without_locks_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(descriptor: int, *, blocking: bool = True) -> bool:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("filelock.lock_descriptor", no_locks)
    with (tmp_path / "lock").open("wb") as file:
        assert try_lock(file.fileno()) is None
    monkeypatch.setenv("LOADER_CACHE", str(tmp_path / "cache"))
    with Server() as server:
        error: CheckpointError = refusal(server.add("/a.safetensors", b""))
    assert error.message == f"the cache {tmp_path / 'cache'} cannot be written to: {os.strerror(errno.ENOLCK)}"
