from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loader.config.compose import compose
from loader.errors import CheckpointError, ConfigError
from loader.files.path import is_url
from loader.parts.open import open_checkpoint
from loader.remote.urls import parse_url

EXPECTED = "expected https://, http://, s3://, gs://, hf:// or a path"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://host/a.pt", True),
        ("S3://bucket/a.pt", True),
        ("whatever://x", True),
        ("pkg://loader.examples/a.pt", False),
        ("runs/epoch=3.ckpt", False),
        ("a/b://c", False),
        (Path("/tmp/a.pt"), False),
    ],
)
def test_what_counts_as_a_url(text: str | Path, url: bool) -> None:
    assert is_url(text) is url


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "htps://host/a.pt",
            f"checkpoint.path is htps://host/a.pt, but 'htps://' is not supported (did you mean 'https'?); {EXPECTED}",
            "checkpoint.path=https://HOST/FILE",
        ),
        (
            "file:///etc/passwd",
            "checkpoint.path is file:///etc/passwd; local files are given by path",
            "checkpoint.path=/etc/passwd",
        ),
        (
            "https:///a.pt",
            "checkpoint.path is https:///a.pt, a URL that has no host",
            "checkpoint.path=https://HOST/FILE",
        ),
        (
            "https://me:secret@host:port/a.pt",
            "checkpoint.path is https://…, a URL that has an invalid host or port",
            "checkpoint.path=https://HOST/FILE",
        ),
        ("s3://", "checkpoint.path is s3://, a URL that has no file name", "checkpoint.path=s3://BUCKET/FILE"),
        (
            "hf://a b",
            "checkpoint.path is hf://a b, a URL that contains spaces or unprintable characters",
            "checkpoint.path=hf://ORGANIZATION/MODEL/FILE",
        ),
    ],
)
def test_what_is_no_url_that_is_read_is_reported(text: str, message: str, hint: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(text)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("text", ["hf://a", "hf://a/", "hf://datasets/a", "hf:///a/b", "hf://a:b/c/d.pt"])
def test_a_url_of_the_hub_without_a_repository_is_a_wrong_config(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_checkpoint(text)
    assert caught.value.message == f"checkpoint.path is {text}, a URL that names no repository"
    assert caught.value.hint == "checkpoint.path=hf://ORGANIZATION/MODEL/FILE"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "text", ["hf://a/b", "hf://a/b-1.c@main/d/e.pt", "hf://datasets/a/b/c.pt", "hf://a/b@refs%2Fpr%2F1/x.pt"]
)
def test_repositories_of_the_hub_with_and_without_a_file_are_read(text: str) -> None:
    assert parse_url(text).text == text


@pytest.mark.parametrize(
    "url",
    [
        "https://host/a=b.pt?x=1",
        "https://me:p%40ss@host:8080/runs/epoch=3,step=10.ckpt?x=1&y=a+b",
        "https://host/(1)/a~b.pt?list=[1,2]&map={a:b}",
        "https://host/it's.pt#x",
        "hf://org/model@main/a.safetensors",
    ],
)
def test_a_url_reaches_the_job_as_it_was_typed(url: str) -> None:
    assert compose([f"checkpoint.path={url}"])["checkpoint"]["path"] == url
    assert compose([f"+parts.a.path={url}"])["parts"]["a"]["path"] == url


def test_a_shard_is_asked_for_where_its_index_is_with_the_same_credentials() -> None:
    index = parse_url("https://me:pass@host/a%20b/model.safetensors.index.json?sig=abcdef#top")
    shard = index.sibling("model-1 of#2.safetensors")
    assert shard.text == "https://me:pass@host/a%20b/model-1%20of%232.safetensors?sig=abcdef"
    assert shard.folder_key == index.folder_key
    assert index.shown == "https://***@host/a%20b/model.safetensors.index.json?sig=***"
    assert parse_url("hf://org/model/a.index.json").sibling("sub/b.bin").text == "hf://org/model/sub/b.bin"


def test_user_and_password_make_no_other_file_and_a_query_does() -> None:
    keys = {
        parse_url(text).key for text in ("https://h/a.pt", "https://me:x@h/a.pt", "https://h/a.pt#b", "HTTPS://h/a.pt")
    }
    assert len(keys) == 1
    assert parse_url("https://h/a.pt?v=1").key not in keys


@given(st.text(max_size=300))
def test_a_name_in_the_cache_stays_in_its_folder(path: str) -> None:
    for scheme in ("https://host/", "hf://org/model/"):
        try:
            name = parse_url(scheme + path).name
        except CheckpointError:
            continue
        assert name not in {"", ".", ".."}
        assert Path("/cache/files", name).parent == Path("/cache/files")
        assert len(name.encode()) <= 200


@pytest.mark.parametrize("path", ["a%3Ab", "a%2A.pt", "%3Ca%3E.pt", "a.pt.", "a.pt%20", "NUL", "nul.pt", "com1.tgz"])
def test_a_name_that_windows_refuses_is_replaced(path: str) -> None:
    assert parse_url(f"https://host/folder/{path}").name == "file"
    assert parse_url("https://host/folder/null.pt").name == "null.pt"


@pytest.mark.parametrize("path", ["%2e%2e%2fetc", "..%2f..%2fa.pt", "a%00b", "..", "x" * 300, "a%0ab"])
def test_a_name_that_would_lead_elsewhere_is_replaced(path: str) -> None:
    assert parse_url(f"https://host/folder/{path}").name == "file"
