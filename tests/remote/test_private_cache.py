"""The cache's folder: for this user alone, and nobody's links are followed in it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint
from loader.remote import cache_folder
from loader.remote.cache import Cache
from loader.remote.transport import Version
from loader.remote.urls import parse_url
from tests.remote.asking import refusal, value
from tests.remote.server import Server

SMALL = save({"a": torch.arange(4.0)})
LARGE = save({"a": torch.arange(1_000_000.0)})
OWN = "LOADER_CACHE=FOLDER   # an absolute path that this user can write to"


@pytest.mark.parametrize("made", [True, False])
def test_every_folder_that_is_made_is_for_this_user_alone(
    made: bool, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "above" / "cache"
    monkeypatch.setenv("LOADER_CACHE", str(root))
    if made:
        root.mkdir(parents=True)
    old = os.umask(0)
    try:
        value(server.add("/a.safetensors", SMALL))
        refusal(server.add("/b.safetensors", LARGE, breaks=[2_000_000, *[0] * 5]))
    finally:
        os.umask(old)
    folders = [folder for folder in (root.parent if not made else root).rglob("*") if folder.is_dir()]
    assert len(folders) >= 6
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders if folder != root} == {0o700}
    partial = next(path for path in (root / "partial").iterdir() if path.suffix != ".json")
    assert stat.S_IMODE(partial.stat().st_mode) == 0o600


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_link_that_is_planted_where_a_download_goes_is_not_followed(
    tagged: bool, link: Callable[[Path, Path], None], server: Server, cache: Path, tmp_path: Path
) -> None:
    url = server.add("/a.safetensors", SMALL)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    parsed, planted = parse_url(url), Cache(cache)
    if tagged:
        planted.note_partial(parsed, server_version(server))
    planted.partial(parsed).parent.mkdir(parents=True, exist_ok=True)
    link(planted.partial(parsed), victim)
    assert value(url).tolist() == [0, 1, 2, 3]
    assert victim.read_bytes() == b"mine"
    assert victim.stat().st_mode & 0o777 != 0o444


def server_version(server: Server) -> Version:
    served = server.files["/a.safetensors"]
    return Version(len(served.content), served.tag or "")


@pytest.mark.parametrize("folder", ["partial", "blobs", "urls", "files", "locks"])
def test_a_folder_that_is_a_link_is_refused(folder: str, server: Server, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    cache.mkdir()
    (cache / folder).symlink_to(tmp_path / "elsewhere")
    error = refusal(server.add("/a.safetensors", SMALL))
    assert error.message == (
        f"the cache {cache} cannot be written to: {folder} in it is not a folder (links are not followed)"
    )
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_lock_that_is_a_link_makes_nothing_elsewhere(server: Server, cache: Path, tmp_path: Path) -> None:
    url = server.add("/a.safetensors", SMALL)
    (cache / "locks").mkdir(parents=True)
    (cache / "locks" / parse_url(url).key).symlink_to(tmp_path / "made")
    assert refusal(url).message == f"the cache {cache} cannot be written to: {os.strerror(errno.ELOOP)}"
    assert not (tmp_path / "made").exists()


def test_a_note_that_is_a_pipe_is_not_waited_for(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", SMALL)
    (cache / "urls").mkdir(parents=True)
    os.mkfifo(cache / "urls" / f"{parse_url(url).key}.json")
    assert value(url).tolist() == [0, 1, 2, 3]


def test_a_cache_may_itself_be_a_link(server: Server, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    cache.symlink_to(tmp_path / "large disk")
    assert value(server.add("/a.safetensors", SMALL)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"LOADER_CACHE": "~no-such-user/c"}, "~no-such-user/c cannot be found: that user has no home folder"),
        ({"XDG_CACHE_HOME": "~no-such-user"}, "~no-such-user cannot be found: that user has no home folder"),
        ({}, "~/.cache cannot be found: that user has no home folder"),
    ],
)
def test_a_home_that_is_not_there_is_reported(
    variables: dict[str, str], fault: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOADER_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)

    def nobody(_user: int) -> object:
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", nobody)
    error = refusal(server.add("/a.safetensors", SMALL))
    assert (error.message, error.hint) == (f"the cache folder {fault}", OWN)
    assert server.asked == []


def test_a_working_folder_that_is_gone_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setenv("LOADER_CACHE", "c")
    with pytest.raises(
        CheckpointError, match="the cache folder c cannot be found: the working folder no longer exists"
    ):
        cache_folder()


@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_a_long_path_is_reported(sha256: str | None, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADER_CACHE", "/tmp/" + "x" * 300)
    error = refusal(server.add("/a.safetensors", SMALL), sha256=sha256)
    assert error.message.startswith("the cache /tmp/xxx")
    assert error.message.endswith(f"cannot be {'read' if sha256 else 'written to'}: File name too long")
    assert error.hint == "LOADER_CACHE=FOLDER   # a writable folder"


def test_a_cache_that_may_not_be_read_is_reported(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> object:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", denied)
    error = refusal(server.add("/a.safetensors", SMALL), sha256="0" * 64)
    assert error.message == f"the cache {cache} cannot be read: Permission denied"


def test_what_is_loaded_is_what_has_the_digest_whatever_stands_under_its_name(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/a.safetensors", SMALL)
    put = Cache.put

    def replaced(self: Cache, path: Path, digest: str) -> None:
        put(self, path, digest)
        path.unlink()
        path.write_bytes(save({"a": torch.full((4,), 666.0)}))

    monkeypatch.setattr(Cache, "put", replaced)
    with open_checkpoint(url) as checkpoint:
        digest = checkpoint.sha256()
    for _ in range(2):
        assert value(url, sha256=digest).tolist() == [0, 1, 2, 3]


def test_two_files_without_a_name_of_their_own_do_not_share_one(server: Server) -> None:
    first, second = (server.add(f"/m/{name}%00", save({"a": torch.full((2,), number)}))
                     for name, number in (("a", 1.0), ("b", 2.0)))  # fmt: skip
    with open_checkpoint(first) as one, open_checkpoint(second) as two:
        assert one.path != two.path
        read = [checkpoint.read(checkpoint.root.tensors()["a"]).tolist() for checkpoint in (one, two)]
    assert read == [[1, 1], [2, 2]]
