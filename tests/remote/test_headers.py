from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint
from loader.remote import headers
from tests.remote.asking import files_in
from tests.remote.server import Server

STATE = {"a": torch.arange(1_000_000.0), "b": torch.ones(2, 3)}
LARGE = save(STATE)


def sharded(server: Server, folder: str = "/m", shards: dict[str, dict[str, torch.Tensor]] | None = None) -> str:
    """Serves a checkpoint of two shards, and returns the URL of its index."""
    held = shards or {"w-1-of-2.safetensors": {"a": STATE["a"]}, "sub/w-2-of-2.safetensors": {"b": STATE["b"]}}
    for name, state in held.items():
        server.add(f"{folder}/{name}", save(state))
    index = {"weight_map": {key: name for name, state in held.items() for key in state}}
    return server.add(f"{folder}/model.safetensors.index.json", json.dumps(index).encode())


def test_of_a_safetensors_file_only_the_header_is_fetched(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", LARGE)
    with open_checkpoint(url, data=False) as checkpoint:
        assert {key: entry.shape for key, entry in checkpoint.root.tensors().items()} == {
            "a": (1_000_000,),
            "b": (2, 3),
        }
        assert checkpoint.nbytes == len(LARGE)
        checkpoint.check_unchanged()
    assert [(one.method, one.range) for one in server.asked] == [("GET", "bytes=0-262143")]
    assert files_in(cache) == []


def test_a_long_header_is_fetched_in_ranges(server: Server) -> None:
    names = [f"{'x' * 100}{number}" for number in range(5000)]
    url = server.add("/a.safetensors", save({name: torch.ones(40) for name in names}))
    with open_checkpoint(url, data=False) as checkpoint:
        assert sorted(checkpoint.root.tensors()) == sorted(names)
    fetched = [one.range for one in server.asked]
    assert fetched[0] == "bytes=0-262143"
    assert 2 <= len(fetched) <= 4
    assert all(one.method == "GET" for one in server.asked)


def test_its_tensors_are_not_there_and_that_is_said(server: Server) -> None:
    url = server.add("/a.safetensors", LARGE)
    with open_checkpoint(url, data=False) as checkpoint:
        entry = checkpoint.root.tensors()["b"]
        for mmap in (True, False):
            with pytest.raises(CheckpointError) as caught:
                checkpoint.read(entry, mmap=mmap)
            assert caught.value.message == (f"{url} was opened for its header only; its tensors were not downloaded")
            assert caught.value.hint == "mode=load"
        checkpoint.will_need([entry])
        checkpoint.release(entry)


@pytest.mark.parametrize(
    ("name", "content", "how"),
    [
        ("a.safetensors", LARGE, {"ranges": False}),
        ("a.safetensors", LARGE, {"length": False, "ranges": False}),
        ("a.pt", None, {}),
    ],
)
def test_what_has_no_header_to_fetch_is_downloaded_and_the_log_says_so(
    name: str,
    content: bytes | None,
    how: dict[str, Any],
    server: Server,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if content is None:
        torch.save(STATE, tmp_path / name)
        content = (tmp_path / name).read_bytes()
    url = server.add(f"/{name}", content, **how)
    with caplog.at_level(logging.INFO, "loader"), open_checkpoint(url, data=False) as checkpoint:
        assert checkpoint.read(checkpoint.root.tensors()["b"]).tolist() == STATE["b"].tolist()
    assert f"{url}: its header cannot be read separately, so the whole file is downloaded" in caplog.messages
    assert len([path for path in files_in(cache) if path.startswith("blobs")]) == 1


def test_with_a_digest_all_of_it_is_checked(server: Server) -> None:
    url = server.add("/a.safetensors", LARGE)
    with pytest.raises(CheckpointError, match=r"but checkpoint\.sha256 is"):
        open_checkpoint(url, data=False, sha256="0" * 64)


def test_a_small_file_needs_no_ranges(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", save({"b": STATE["b"]}), ranges=False)
    with open_checkpoint(url, data=False) as checkpoint:
        assert list(checkpoint.root.tensors()) == ["b"]
    assert files_in(cache) == []


def test_a_file_that_changes_meanwhile_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'x' * 100}{number}" for number in range(5000)]
    path = "/a.safetensors"
    url = server.add(path, save({name: torch.ones(40) for name in names}))
    read_range = headers._read_range

    def changed_before(*asked: Any) -> bytes:
        server.add(path, server.files[path].content + b"x")
        return read_range(*asked)

    monkeypatch.setattr(headers, "_read_range", changed_before)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(url, data=False)
    assert caught.value.message == f"{url} changed while it was being read"
    assert caught.value.hint == "run it again once it is fully uploaded"


def test_a_break_is_mended(server: Server) -> None:
    url = server.add("/a.safetensors", LARGE, breaks=[0, 10])
    with open_checkpoint(url, data=False) as checkpoint:
        assert len(checkpoint.root.tensors()) == 2


def test_a_header_that_never_comes_is_reported(server: Server) -> None:
    url = server.add("/a.safetensors", LARGE, breaks=[10] * 9)
    with pytest.raises(CheckpointError, match="was interrupted"):
        open_checkpoint(url, data=False)


@pytest.mark.parametrize("data", [True, False])
def test_shards_are_fetched_from_their_indexs_folder(data: bool, server: Server, cache: Path) -> None:
    with open_checkpoint(sharded(server), data=data) as checkpoint:
        entries = checkpoint.root.tensors()
        assert {key: entry.shape for key, entry in entries.items()} == {"a": (1_000_000,), "b": (2, 3)}
        if data:
            assert checkpoint.read(entries["b"]).tolist() == STATE["b"].tolist()
            assert torch.equal(checkpoint.read(entries["a"], mmap=False), STATE["a"])
    assert {one.path for one in server.asked} == {
        "/m/model.safetensors.index.json",
        "/m/w-1-of-2.safetensors",
        "/m/sub/w-2-of-2.safetensors",
    }
    assert len([path for path in files_in(cache) if path.startswith("blobs")]) == (3 if data else 0)


def test_a_shard_that_is_gone_is_reported_by_its_url(server: Server) -> None:
    url = sharded(server)
    del server.files["/m/w-1-of-2.safetensors"], server.files["/m/sub/w-2-of-2.safetensors"]
    for data in (True, False):
        with pytest.raises(CheckpointError) as caught:
            open_checkpoint(url, data=data)
        assert caught.value.message == (
            f"2 of 2 shards are refused: {server.url}/m/sub/w-2-of-2.safetensors does not exist: the server answered "
            f"404 Not Found, {server.url}/m/w-1-of-2.safetensors does not exist: the server answered 404 Not Found"
        )


@pytest.mark.parametrize(
    "name", ["../b.safetensors", "/etc/passwd", "http://other/b.safetensors", "file:///etc/passwd"]
)
@pytest.mark.parametrize("data", [True, False])
def test_an_index_that_reaches_out_of_its_folder_is_refused(name: str, data: bool, server: Server) -> None:
    index = json.dumps({"weight_map": {"a": name}}).encode()
    url = server.add("/m/model.safetensors.index.json", index)
    with pytest.raises(CheckpointError, match="that must not be opened"):
        open_checkpoint(url, data=data)
    assert {one.path for one in server.asked} == {"/m/model.safetensors.index.json"}


def test_pickled_shards_are_downloaded_for_their_index(server: Server, tmp_path: Path, cache: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.bin")
    server.add("/m/w.bin", (tmp_path / "w.bin").read_bytes())
    url = server.add("/m/pytorch_model.bin.index.json", json.dumps({"weight_map": {"a": "w.bin"}}).encode())
    with open_checkpoint(url, data=False) as checkpoint:
        assert checkpoint.format == "torch-sharded"
        assert checkpoint.root.tensors()["a"].shape == (2,)
    assert len([path for path in files_in(cache) if path.startswith("blobs")]) == 1


def test_the_digest_of_a_sharded_checkpoint_is_that_of_all_its_files(server: Server) -> None:
    url = sharded(server)
    with open_checkpoint(url) as checkpoint:
        digest = checkpoint.sha256()
    with pytest.raises(CheckpointError, match=f"its sha256 is {digest}, checkpoint.sha256 says"):
        open_checkpoint(url, sha256="0" * 64)
    server.stop()
    with open_checkpoint(url, sha256=digest) as checkpoint:
        assert checkpoint.sha256() == digest
        assert checkpoint.read(checkpoint.root.tensors()["b"]).tolist() == STATE["b"].tolist()
    with pytest.raises(CheckpointError, match="cannot be reached"):
        open_checkpoint(url)


def test_a_shard_that_was_damaged_in_the_cache_is_not_used_for_the_digest(server: Server, cache: Path) -> None:
    url = sharded(server)
    with open_checkpoint(url) as checkpoint:
        digest, path = checkpoint.sha256(), checkpoint.path.parent / "w-1-of-2.safetensors"
    path.unlink()
    path.write_bytes(b"damaged")
    with open_checkpoint(url, sha256=digest) as checkpoint:
        assert checkpoint.sha256() == digest
        assert torch.equal(checkpoint.read(checkpoint.root.tensors()["a"]), STATE["a"])
