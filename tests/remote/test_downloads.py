from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from loader.errors import ConfigError
from loader.files.path import called
from loader.parts.open import open_checkpoint
from loader.remote.cache import Cache
from tests.remote.asking import files_in, refusal, value
from tests.remote.server import Server

SMALL = save({"a": torch.arange(4.0)})
LARGE = save({"a": torch.arange(1_000_000.0)})
DIGEST = hashlib.sha256(SMALL).hexdigest()


def test_a_file_is_downloaded_and_called_by_its_url(server: Server, cache: Path) -> None:
    url = server.add("/runs/epoch=3.safetensors", SMALL)
    with open_checkpoint(url) as checkpoint:
        assert checkpoint.read(checkpoint.root.tensors()["a"]).tolist() == [0, 1, 2, 3]
        assert called(checkpoint.path) == url
        assert checkpoint.path.name == "epoch=3.safetensors"
        assert checkpoint.sha256() == DIGEST
    blob = cache / "blobs" / DIGEST
    assert blob.read_bytes() == SMALL
    assert stat.S_IMODE(blob.stat().st_mode) == 0o444
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert blob.samefile(checkpoint.path)


def test_what_is_unchanged_is_not_downloaded_again(server: Server) -> None:
    url = server.add("/a.safetensors", SMALL)
    assert value(url).tolist() == value(url).tolist()
    assert server.methods() == ["HEAD", "GET", "HEAD"]


@pytest.mark.parametrize("how", [{"etag": None, "modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, {"etag": '"own"'}])
def test_a_date_or_a_tag_tells_that_it_is_unchanged(how: dict[str, Any], server: Server) -> None:
    url = server.add("/a.safetensors", SMALL, **how)
    value(url)
    value(url)
    assert server.methods() == ["HEAD", "GET", "HEAD"]


@pytest.mark.parametrize("tag", [None, 'W/"weak"'])
def test_without_anything_to_tell_by_it_is_downloaded_again(tag: str | None, server: Server) -> None:
    url = server.add("/a.safetensors", SMALL, etag=tag)
    value(url)
    value(url)
    assert server.methods() == ["HEAD", "GET", "HEAD", "GET"]


def test_what_changed_is_downloaded_again(server: Server) -> None:
    url = server.add("/a.safetensors", SMALL)
    assert value(url).tolist() == [0, 1, 2, 3]
    server.add("/a.safetensors", save({"a": torch.ones(4)}))
    assert value(url).tolist() == [1, 1, 1, 1]


def test_an_entry_whose_blob_is_gone_or_cut_is_downloaded_again(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", SMALL)
    value(url)
    blob = cache / "blobs" / DIGEST
    blob.chmod(0o644)
    blob.write_bytes(SMALL[:10])
    assert value(url).tolist() == [0, 1, 2, 3]
    for note in (cache / "urls").iterdir():
        note.write_text("{")
    assert value(url).tolist() == [0, 1, 2, 3]


def test_with_its_digest_a_cached_file_needs_no_network(server: Server) -> None:
    url = server.add("/a.safetensors", SMALL)
    value(url)
    server.stop()
    assert value(url, sha256=DIGEST.upper()).tolist() == [0, 1, 2, 3]
    error = refusal(url)
    assert error.message.startswith(f"{url} cannot be reached: ")
    assert error.hint == f"checkpoint.sha256={DIGEST}   # uses the cached copy, without network access"


def test_content_that_was_damaged_in_the_cache_is_downloaded_again_for_its_digest(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", SMALL)
    value(url)
    blob = cache / "blobs" / DIGEST
    blob.chmod(0o644)
    blob.write_bytes(SMALL[:-1] + b"x")
    assert value(url, sha256=DIGEST).tolist() == [0, 1, 2, 3]
    assert blob.read_bytes() == SMALL
    assert server.methods() == ["HEAD", "GET", "HEAD", "GET"]


def test_another_digest_is_refused_and_nothing_is_kept(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", SMALL)
    error = refusal(url, sha256="0" * 64)
    assert error.message == (f"{url} has sha256 {DIGEST}, but checkpoint.sha256 is {'0' * 64}; nothing was kept")
    assert error.hint == f"check its source\ncheckpoint.sha256={DIGEST}   # if this one is right"
    assert files_in(cache) == []


def test_a_digest_that_is_none_is_refused_before_anything_is_asked(server: Server) -> None:
    with pytest.raises(ConfigError, match="64 hexadecimal digits were expected"):
        open_checkpoint(server.add("/a.safetensors", SMALL), sha256="abc")
    assert server.asked == []


def test_a_broken_connection_is_taken_up_where_it_broke(server: Server) -> None:
    url = server.add("/a.safetensors", LARGE, breaks=[2_000_000, 1_500_000])
    assert value(url).sum() == torch.arange(1_000_000.0).sum()
    ranges = [one.range for one in server.asked if one.method == "GET"]
    assert len(ranges) == 3
    assert ranges[0] == ""
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in ranges[1:]]
    assert 1_000_000 < starts[0] <= 2_000_000 < starts[1] <= 3_500_000


def test_without_ranges_a_broken_download_starts_over(server: Server) -> None:
    url = server.add("/a.safetensors", LARGE, breaks=[2_000_000], ranges=False)
    assert value(url).sum() == torch.arange(1_000_000.0).sum()


def test_a_file_that_changes_during_a_break_starts_over(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.add("/a.safetensors", LARGE, breaks=[2_000_000])
    other = save({"a": torch.ones(1_000_000)})
    monkeypatch.setattr("time.sleep", lambda _: server.add("/a.safetensors", other))
    assert value(url).sum() == 1_000_000


def test_a_connection_that_always_breaks_is_given_up_and_a_later_run_goes_on(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", LARGE, breaks=[2_000_000, *[0] * 5])
    error = refusal(url)
    came = (cache / "partial").iterdir()
    there = max(path.stat().st_size for path in came)
    assert error.message == (
        f"{url} was interrupted (ClientPayloadError); {there:,} of {len(LARGE):,} declared bytes arrived in 6 attempts"
    )
    assert error.hint == "run it again: the download is resumed"
    assert not (cache / "blobs").exists()
    assert value(url).sum() == torch.arange(1_000_000.0).sum()
    assert server.asked[-1].range == f"bytes={there}-"
    assert [name for name in files_in(cache) if name.startswith("partial")] == []


def test_a_server_without_anything_to_tell_by_is_not_gone_on_with(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", LARGE, breaks=[2_000_000, *[0] * 5], etag=None, ranges=False)
    assert refusal(url).hint == "try again later, or look at the URL in a browser"
    server.files["/a.safetensors"].breaks.clear()
    assert value(url).sum() == torch.arange(1_000_000.0).sum()
    assert server.asked[-1].range == ""


@pytest.mark.parametrize("modified", [None, ""])
def test_without_anything_to_tell_by_two_versions_are_never_mixed(
    modified: str | None, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that gives ranges and says nothing of versions: the rest may be of another file."""
    url = server.add("/a.safetensors", LARGE, etag=None, breaks=[2_000_000])
    other = save({"a": torch.ones(1_000_000)})
    assert len(other) == len(LARGE)
    monkeypatch.setattr("time.sleep", lambda _: server.add("/a.safetensors", other, etag=None, modified=modified))
    assert value(url).sum() == 1_000_000
    assert [one.range for one in server.asked if one.method == "GET"] == ["", ""]


def test_a_server_that_goes_on_with_another_version_is_asked_for_all_of_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives the range that was asked for, although If-Range names a version that it has no more."""
    url = server.add("/a.safetensors", LARGE, breaks=[2_000_000])
    other = save({"a": torch.ones(1_000_000)})
    monkeypatch.setattr("time.sleep", lambda _: server.add("/a.safetensors", other, if_range=False))
    assert value(url).sum() == 1_000_000


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("more", [b"", b"x"])
def test_a_partial_file_that_is_complete_or_too_long_is_mended(
    more: bytes, length: bool, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.add("/a.safetensors", LARGE, length=length, declared=None if length else len(LARGE))
    if not length:
        server.files["/a.safetensors"].head = False
        server.files["/a.safetensors"].sized = False

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Cache, "keep", killed)
        with pytest.raises(KeyboardInterrupt):
            value(url)
    partial = next(path for path in (cache / "partial").iterdir() if path.suffix != ".json")
    assert partial.read_bytes() == LARGE
    partial.write_bytes(LARGE + more)
    assert value(url).sum() == torch.arange(1_000_000.0).sum()
    assert [name for name in files_in(cache) if name.startswith("partial")] == []


def test_a_wrong_length_is_refused(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", SMALL, declared=1000)
    error = refusal(url)
    assert error.message == f"{url} has the wrong length: 1,000 bytes were declared, {len(SMALL)} received"
    assert error.hint == "the file or the server is broken; try another source"
    assert not (cache / "blobs").exists()


def test_fewer_bytes_than_declared_are_refused(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", SMALL, breaks=[40] * 9, ranges=False)
    assert refusal(url).message.startswith(f"{url} was interrupted (ClientPayloadError)")
    assert not (cache / "blobs").exists()


def test_a_file_whose_length_is_not_declared_is_downloaded(server: Server) -> None:
    assert value(server.add("/a.safetensors", SMALL, length=False)).tolist() == [0, 1, 2, 3]


def test_a_server_without_head_is_asked_for_one_byte(server: Server) -> None:
    url = server.add("/a.safetensors", SMALL, head=False)
    assert value(url).tolist() == [0, 1, 2, 3]
    assert [(one.method, one.range) for one in server.asked] == [("HEAD", ""), ("GET", "bytes=0-0"), ("GET", "")]


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    assert value(server.add("/a.safetensors", SMALL, statuses=[503, 429, 200, 502])).tolist() == [0, 1, 2, 3]


def test_two_at_once_download_it_once(server: Server) -> None:
    url = server.add("/a.safetensors", LARGE)
    sums: list[float] = []
    threads = [threading.Thread(target=lambda: sums.append(float(value(url).sum()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == [float(torch.arange(1_000_000.0).sum())] * 3
    assert server.methods().count("GET") == 1


def test_the_log_says_what_happens_and_no_more(server: Server, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = server.add("/a.safetensors?sig=verysecret", SMALL).replace("://", "://me:password@")
    with caplog.at_level(logging.INFO, "loader"):
        value(url)
        value(url)
    shown = url.replace("me:password", "***").replace("verysecret", "***")
    assert [record.getMessage() for record in caplog.records] == [
        f"{shown}: downloading {len(SMALL)} B to {cache}",
        f"{shown}: downloaded, {len(SMALL)} B, sha256 {DIGEST}",
        f"{shown}: unchanged since it was downloaded; taken from the cache",
    ]
    assert server.asked[0].authorization.startswith("Basic ")


def test_the_cache_holds_no_credentials(server: Server, cache: Path) -> None:
    value(server.add("/a.safetensors?sig=verysecret", SMALL).replace("://", "://me:password@"))
    refusal(server.add("/b.safetensors?sig=verysecret", LARGE, breaks=[2_000_000, *[0] * 5]))
    texts = [path.read_text() for path in cache.rglob("*.json")]
    assert len(texts) == 2
    assert {json.loads(text)["url"].partition("?")[2] for text in texts} == {"sig=***"}
    everything = " ".join([*texts, *map(str, cache.rglob("*"))])
    assert "secret" not in everything
    assert "password" not in everything


def test_a_cache_that_cannot_be_written_is_reported(server: Server, cache: Path) -> None:
    cache.write_text("a file in its place")
    error = refusal(server.add("/a.safetensors", SMALL))
    assert error.message == f"the cache {cache} cannot be written to: File exists"
    assert error.hint == "LOADER_CACHE=FOLDER   # a writable folder"


def test_a_full_disk_is_reported(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_self: Cache, _url: object, _version: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Cache, "note_partial", full)
    error = refusal(server.add("/a.safetensors", SMALL))
    assert error.message == f"the disk of the cache {cache} is full (No space left on device)"
    assert error.hint == "LOADER_CACHE=FOLDER   # on a larger disk, or delete old files from the cache"


def test_a_file_that_is_larger_than_the_disk_is_not_begun(server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", SMALL, declared=1 << 60)
    error = refusal(url)
    assert error.message.startswith(f"{url} needs 1152921.5 TB more in the cache {cache}, which has ")
    assert server.methods() == ["HEAD"]


def test_without_hard_links_the_file_is_copied(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_self: Path, _target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    with caplog.at_level(logging.INFO, "loader"):
        assert value(server.add("/a.safetensors", SMALL)).tolist() == [0, 1, 2, 3]
    assert "copied, since a hard link failed (Operation not permitted)" in caplog.text


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LOADER_CACHE": "/own"}, "/own"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/hydra-loader"),
        ({"HOME": "/home/me"}, "/home/me/.cache/hydra-loader"),
    ],
)
def test_where_the_cache_is(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from loader.remote import cache_folder

    for name in ("LOADER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    assert cache_folder() == Path(expected)
