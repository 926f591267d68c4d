"""s3, gs and hf: their own way through fsspec, with file systems of the tests in the place of the real ones."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry, register_implementation
from omegaconf import OmegaConf
from safetensors.torch import save

from loader.errors import CheckpointError
from loader.files.path import called
from loader.parts.open import open_checkpoint
from loader.remote import source, storage
from loader.remote.urls import parse_url
from tests.command import REPOSITORY
from tests.remote.asking import files_in, refusal, value

SMALL = save({"a": torch.arange(4.0)})
LARGE = save({"a": torch.arange(100_000.0)})


class Fake(MemoryFileSystem):  # type: ignore[misc]  # fsspec ships no types
    """A file system in memory that reports versions as a cloud's does, and fails on request."""

    store: dict[str, Any] = {}  # noqa: RUF012  # as in the class that it extends
    pseudo_dirs = [""]  # noqa: RUF012  # as in the class that it extends
    failures: list[Exception] = []  # noqa: RUF012  # the test's own
    reported: dict[str, Any] = {}  # noqa: RUF012  # the test's own
    reads: list[tuple[int, int]] = []  # noqa: RUF012  # the test's own

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.partition("://")[2].strip("/") if "://" in path else path

    def info(self, path: str, **settings: Any) -> dict[str, Any]:
        if self.failures:
            raise self.failures.pop(0)
        found = dict(super().info(path, **settings))
        found.pop("created", None)
        if found["type"] == "file":
            found |= {"ETag": str(hash(self.store[path].getvalue()))} | self.reported
        return found

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **settings: Any) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        self.reads.append((start or 0, end or 0))
        return bytes(super().cat_file(path, start=start, end=end, **settings))


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Fake]]:
    """Stands in for s3, gs and hf, with nothing in the Hub's cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    before = {scheme: _registry.get(scheme) for scheme in ("s3", "gs", "hf")}
    for scheme in before:
        register_implementation(scheme, Fake, clobber=True)
    Fake.store, Fake.failures, Fake.reported, Fake.reads = {}, [], {}, []
    Fake.pseudo_dirs = [""]
    yield Fake
    for scheme, kind in before.items():
        _registry.pop(scheme)
        if kind is not None:
            _registry[scheme] = kind


def put(path: str, content: bytes) -> None:
    Fake(skip_instance_cache=True).pipe_file(f"/{path}", content)


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf"])
def test_a_file_is_downloaded_once_and_called_by_its_url(scheme: str, cache: Path) -> None:
    put("org/model/a.safetensors", SMALL)
    url = f"{scheme}://org/model/a.safetensors"
    with open_checkpoint(url) as checkpoint:
        assert checkpoint.read(checkpoint.root.tensors()["a"]).tolist() == [0, 1, 2, 3]
        assert called(checkpoint.path) == url
    Fake.reads.clear()
    assert value(url).tolist() == [0, 1, 2, 3]
    assert Fake.reads == []
    put("org/model/a.safetensors", save({"a": torch.ones(4)}))
    assert value(url).tolist() == [1, 1, 1, 1]


def test_of_a_safetensors_file_only_the_header_is_fetched(cache: Path) -> None:
    put("bucket/a.safetensors", save({"a": torch.zeros(1_000_000)}))
    with open_checkpoint("s3://bucket/a.safetensors", data=False) as checkpoint:
        assert checkpoint.root.tensors()["a"].shape == (1_000_000,)
    assert Fake.reads == [(0, 256 << 10)]
    assert files_in(cache) == []


def test_large_files_come_in_blocks_and_a_break_loses_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_BLOCK", 150_000)
    put("bucket/a.safetensors", LARGE)
    cat_file, breaks = Fake.cat_file, [2]

    def breaking(self: Fake, path: str, start: int, end: int) -> bytes:
        if start and breaks[0]:
            breaks[0] -= 1
            raise ConnectionResetError("reset by peer")
        return cat_file(self, path, start, end)

    monkeypatch.setattr(Fake, "cat_file", breaking)
    assert torch.equal(value("gs://bucket/a.safetensors"), torch.arange(100_000.0))
    assert [start for start, _ in Fake.reads] == [0, 150_000, 300_000]


def test_a_file_that_changes_between_its_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_BLOCK", 150_000)
    put("bucket/a.safetensors", LARGE)
    cat_file = Fake.cat_file

    def changing(self: Fake, path: str, start: int, end: int) -> bytes:
        found = cat_file(self, path, start, end)
        put("bucket/a.safetensors", LARGE[:-1] + b"x" * (1 + len(Fake.reads) % 2))
        return found

    monkeypatch.setattr(Fake, "cat_file", changing)
    assert refusal("s3://bucket/a.safetensors").message == "s3://bucket/a.safetensors changed while it was being read"


@pytest.mark.parametrize("data", [True, False])
def test_a_folder_is_its_index_and_the_shards_beside_it(data: bool, caplog: pytest.LogCaptureFixture) -> None:
    put("org/model/w-1.safetensors", save({"a": torch.ones(2)}))
    put("org/model/w-2.safetensors", save({"b": torch.ones(3)}))
    index = {"weight_map": {"a": "w-1.safetensors", "b": "w-2.safetensors"}}
    put("org/model/model.safetensors.index.json", json.dumps(index).encode())
    put("org/model/config.json", b"{}")
    put("org/model/pytorch_model.bin", b"old")
    with caplog.at_level(logging.INFO, "loader"), open_checkpoint("hf://org/model", data=data) as checkpoint:
        assert {key: entry.shape for key, entry in checkpoint.root.tensors().items()} == {"a": (2,), "b": (3,)}
        assert called(checkpoint.path) == "hf://org/model/model.safetensors.index.json"
        if data:
            assert checkpoint.read(checkpoint.root.tensors()["b"]).tolist() == [1, 1, 1]
    assert "hf://org/model: model.safetensors.index.json is the checkpoint in it" in caplog.messages


def test_a_folder_with_one_checkpoint_of_any_name_is_that() -> None:
    put("bucket/run/last.safetensors", SMALL)
    put("bucket/run/log.txt", b"")
    assert value("s3://bucket/run/").tolist() == [0, 1, 2, 3]


def test_a_folder_with_several_checkpoints_or_none_is_reported() -> None:
    put("bucket/run/a.pt", b"")
    put("bucket/run/b.pt", b"")
    error = refusal("s3://bucket/run")
    assert error.message == "s3://bucket/run is a folder with 2 checkpoints (expected one): a.pt, b.pt"
    assert error.hint == "checkpoint.path=s3://bucket/run/a.pt\ncheckpoint.path=s3://bucket/run/b.pt"
    put("bucket/none/log.txt", b"")
    error = refusal("s3://bucket/none")
    assert error.message.startswith("s3://bucket/none is a folder without a checkpoint (expected model.safetensors, ")
    assert error.hint == "checkpoint.path=s3://bucket/none/FILE"


def test_a_missing_file_is_reported() -> None:
    error = refusal("gs://bucket/a.safetensors")
    assert error.message == "gs://bucket/a.safetensors does not exist: no such file"


class NoCredentialsError(Exception):
    """As botocore's."""


class HubError(OSError):
    """As huggingface_hub's, with the server's answer."""

    def __init__(self) -> None:
        super().__init__("401 Client Error")
        self.response = type("Response", (), {"status_code": 401})


@pytest.mark.parametrize(
    ("scheme", "failure", "said", "hint"),
    [
        ("s3", PermissionError("Access Denied"), "PermissionError: Access Denied", "FSSPEC_S3_ANON=true"),
        ("s3", NoCredentialsError("no keys"), "NoCredentialsError: no keys", "FSSPEC_S3_ANON=true"),
        ("gs", PermissionError("Forbidden"), "PermissionError: Forbidden", "FSSPEC_GS_TOKEN=anon"),
        ("hf", HubError(), "HubError: 401 Client Error", "hf auth login   # or HF_TOKEN in the environment"),
    ],
)
def test_a_file_that_may_not_be_read_is_reported(scheme: str, failure: Exception, said: str, hint: str) -> None:
    Fake.failures.append(failure)
    error = refusal(f"{scheme}://bucket/a")
    assert error.message == f"access to {scheme}://bucket/a was denied: {said}"
    assert hint in error.hint


class ReadTimeoutError(Exception):
    """As botocore's, which is no OSError."""


@pytest.mark.parametrize("failure", [TimeoutError("slow"), ConnectionError("reset"), ReadTimeoutError("slow")])
def test_what_passes_while_it_is_read_is_waited_for(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    put("bucket/a.safetensors", SMALL)
    cat_file, failures = Fake.cat_file, [failure, failure]

    def failing(self: Fake, path: str, start: int, end: int) -> bytes:
        if failures:
            raise failures.pop()
        return cat_file(self, path, start, end)

    monkeypatch.setattr(Fake, "cat_file", failing)
    assert value("s3://bucket/a.safetensors").tolist() == [0, 1, 2, 3]


def test_a_storage_that_does_not_answer_is_reported_at_once() -> None:
    Fake.failures += [TimeoutError("slow")]
    error = refusal("s3://bucket/a.safetensors")
    assert error.message == "s3://bucket/a.safetensors was interrupted: TimeoutError: slow"
    assert error.hint == "try again later, and check the network"


@pytest.mark.parametrize("asleep", ["__init__", "info", "ls", "cat_file"])
def test_a_storage_that_is_silent_is_not_waited_for_without_end(asleep: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put("bucket/run/a.safetensors", SMALL)
    waking = Event()
    monkeypatch.setattr(storage, "_ANSWER", 0.3)
    monkeypatch.setattr(storage, "_WHOLE_BLOCK", 0.1)
    monkeypatch.setattr(Fake, asleep, lambda *_args, **_settings: waking.wait(60))
    error = refusal("gs://bucket/run")
    waking.set()
    seconds = "0.1" if asleep == "cat_file" else "0.3"
    assert "gs://bucket/run" in error.message
    assert f"was interrupted: TimeoutError: no answer within {seconds} seconds" in error.message
    assert error.hint == "try again later, and check the network"


def test_what_a_storage_logs_with_a_traceback_stays_off_the_terminal() -> None:
    """The refusal says it; the config of a run's log is what hears it or not."""
    file = OmegaConf.load(REPOSITORY / "conf" / "hydra" / "job_logging" / "loader.yaml")
    settings: Any = OmegaConf.to_container(file, resolve=False)
    logger = logging.getLogger("gcsfs")
    before = logger.level
    try:
        loggers = {"gcsfs": settings["loggers"]["gcsfs"]}
        logging.config.dictConfig({"version": 1, "incremental": True, "loggers": loggers})
        assert not logger.isEnabledFor(logging.ERROR)
    finally:
        logger.setLevel(before)


def test_whatever_else_a_file_system_raises_is_reported() -> None:
    Fake.failures.append(ValueError("no such bucket name"))
    assert refusal("s3://b/a").message == "s3://b/a cannot be read: ValueError: no such bucket name"


def test_a_wrong_length_is_refused(cache: Path) -> None:
    put("bucket/a.safetensors", SMALL)
    Fake.reported = {"size": len(SMALL) + 7}
    error = refusal("s3://bucket/a.safetensors")
    assert error.message == (
        "s3://bucket/a.safetensors was interrupted; "
        f"{len(SMALL):,} of {len(SMALL) + 7:,} declared bytes arrived in 5 attempts"
    )
    assert not (cache / "blobs").exists()


def test_the_digest_that_the_hub_knows_tells_versions_apart() -> None:
    assert storage._tag({"lfs": {"sha256": "abc"}, "ETag": "e"}) == "abc"
    assert storage._tag({"generation": 7, "updated": "now"}) == "7"
    assert storage._tag({"size": 3}) == ""


@pytest.mark.parametrize("scheme", ["https", "s3", "gs", "hf"])
def test_a_package_that_is_not_installed_is_named_with_its_line(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, importing: Any = None, *rest: Any) -> Any:
        if name in {"web", "storage"} and importing["__name__"] == source.__name__:
            raise ImportError("No module named 'fsspec'", name="fsspec")
        return real(name, importing, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CheckpointError) as caught:
        source.connect(parse_url(f"{scheme}://host/a"))
    assert caught.value.message == (
        f"reading {scheme}:// needs a package that is not installed (No module named 'fsspec')"
    )
    assert caught.value.hint == "pip install 'hydra-loader[remote]'"


def test_the_package_of_one_protocol_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(storage, "get_filesystem_class", missing)
    error = refusal("s3://bucket/a.safetensors")
    assert error.message == "reading s3:// needs a package that is not installed (Install s3fs to access S3)"
    assert error.hint == "pip install 'hydra-loader[remote]'"
