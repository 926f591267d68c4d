"""What a web server can do wrong, and what is said of it; for downloads and for headers alike."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from fsspec.implementations.http import HTTPFileSystem
from safetensors.torch import save

from loader.errors import CheckpointError
from loader.parts.open import open_checkpoint
from loader.remote import web
from loader.remote.transport import Interrupted, Unreachable
from loader.remote.urls import parse_url
from tests.remote.asking import files_in, refusal, value
from tests.remote.server import CERTIFICATE, Server

SMALL = save({"a": torch.arange(4.0)})
PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
both = pytest.mark.parametrize("data", [True, False])


@both
def test_a_missing_file_is_reported(data: bool, server: Server) -> None:
    url = f"{server.url}/gone.safetensors"
    error = refusal(url, data=data)
    assert error.message == f"{url} does not exist: the server answered 404 Not Found"
    assert error.hint == "checkpoint.path=http://…   # check the URL"


@both
@pytest.mark.parametrize(("status", "reason"), [(401, "Unauthorized"), (403, "Forbidden")])
def test_a_file_that_may_not_be_read_is_reported(status: int, reason: str, data: bool, server: Server) -> None:
    url = server.add("/a.safetensors", PAGE, status=status, kind="text/html")
    error = refusal(url, data=data)
    assert error.message == f"access to {url} was denied: the server answered {status} {reason}"
    assert error.hint == "credentials belong in ~/.netrc\na signed URL may have expired"


@both
@pytest.mark.parametrize("sent", ["", "pages 1-2/3", f"bytes 0-0/{'9' * 4_400}", f"bytes {'9' * 4_400}-0/1"])
def test_a_part_that_does_not_say_which_it_is_is_refused(sent: str, data: bool, server: Server) -> None:
    url = server.add("/a.safetensors", SMALL, head=False, status=206, headers={"Content-Range": sent})
    error = refusal(url, data=data)
    shown = sent if len(sent) < 60 else f"{sent[:59]}…"
    assert error.message == (
        f"the server sent a part of {url} with an invalid Content-Range: '{shown}' (expected 'bytes FIRST-LAST/SIZE')"
    )
    assert error.hint == "checkpoint.path=FILE   # after downloading it by other means"


def test_on_the_hub_the_hint_names_its_token() -> None:
    from loader.remote.urls import not_allowed

    error = not_allowed(parse_url("https://huggingface.co/org/model/resolve/main/a.safetensors"), "403")
    assert error.hint == "checkpoint.path=hf://ORGANIZATION/MODEL/FILE   # uses HF_TOKEN"
    assert "HF_TOKEN" in not_allowed(parse_url("hf://org/model/a.safetensors"), "403").hint


@both
def test_a_server_that_fails_is_asked_several_times_and_then_reported(data: bool, server: Server) -> None:
    url = server.add("/a.safetensors", PAGE, status=500, kind="text/html")
    error = refusal(url, data=data)
    assert error.message == f"{url} is unavailable now: the server answered 500 Internal Server Error"
    assert error.hint == "try again later, or look at the URL in a browser"
    assert len(server.asked) == 5


def test_another_answer_without_a_file_is_reported(server: Server) -> None:
    url = server.add("/a.safetensors", b"", status=418)
    error = refusal(url)
    assert error.message == f"{url} could not be read: the server answered 418 I'm a Teapot"
    assert error.hint == "look at the URL in a browser"


@both
def test_a_page_in_the_place_of_a_file_is_reported_with_the_status(data: bool, server: Server, cache: Path) -> None:
    url = server.add("/a.safetensors", PAGE, kind="text/html; charset=utf-8")
    error = refusal(url, data=data)
    status = "HTTP 200" if data else "HTTP 206"
    assert error.message == f"{url} is a web page, as a failed download leaves them ({status}, text/html)"
    assert error.hint == "download the file again, from its raw link and with the access it needs"
    assert [name for name in files_in(cache) if not name.startswith("locks")] == []


def test_other_files_that_are_no_checkpoints_are_called_by_their_url(server: Server) -> None:
    url = server.add("/a.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert refusal(url).message.startswith(f"{url} is a Git LFS pointer")
    url = server.add("/b.pt", b"")
    assert refusal(url).message == f"{url} is empty (0 bytes)"
    url = server.add("/c.safetensors", SMALL[:-1])
    assert refusal(url).message.startswith(f"{url} is cut off: {len(SMALL) - 1} bytes are there")


@both
@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/a", "data:,a", "javascript:1"])
def test_a_redirect_that_leaves_the_web_is_not_followed(target: str, data: bool, server: Server) -> None:
    url = server.add("/a.safetensors", redirect=target)
    error = refusal(url, data=data)
    scheme = target.partition(":")[0]
    assert error.message == (f"{url} redirects to a {scheme}: URL, which is not followed")
    assert error.hint == "checkpoint.path=URL   # the URL of the file itself"


def test_a_redirect_to_a_local_path_asks_the_server_for_it(server: Server) -> None:
    url = server.add("/a.safetensors", redirect="/etc/passwd")
    assert refusal(url).message == f"{url} does not exist: the server answered 404 Not Found"
    assert server.asked[-1].path == "/etc/passwd"


def test_a_redirect_to_another_server_is_followed_without_the_credentials(server: Server) -> None:
    with Server() as other:
        target = other.add("/b", SMALL).replace("127.0.0.1", "localhost")
        url = server.add("/a.safetensors", redirect=target).replace("://", "://me:password@")
        assert value(url).tolist() == [0, 1, 2, 3]
        assert {one.authorization for one in other.asked} == {""}
    assert all(one.authorization for one in server.asked)


def test_redirects_in_a_circle_are_reported(server: Server) -> None:
    url = server.add("/a.safetensors", redirect="/a.safetensors")
    assert refusal(url).message == f"{url} redirects more than 5 times"


def test_a_redirect_from_https_to_http_is_refused() -> None:
    class Step:
        def __init__(self, url: str) -> None:
            from yarl import URL

            self.url, self.history = URL(url), ()

    response: Any = Step("http://host/a")
    with pytest.raises(CheckpointError) as caught:
        web._refuse_detour(parse_url("https://host/a"), response)
    assert caught.value.message == (
        "https://host/a redirects from https to http, which is not followed: anyone on the network path "
        "could modify the file"
    )
    web._refuse_detour(parse_url("http://host/a"), response)


@both
@pytest.mark.parametrize("hops", [0, 1])
def test_a_redirect_from_https_to_http_is_not_even_asked(
    hops: int, data: bool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = partial(HTTPFileSystem, ssl=ssl.create_default_context(cafile=CERTIFICATE))
    monkeypatch.setattr(web, "HTTPFileSystem", trusting)
    target = server.add("/b.safetensors?sig=secret", SMALL)
    with Server(tls=True) as trusted:
        if hops:
            target = trusted.add("/c.safetensors", redirect=target)
        url = trusted.add("/a.safetensors", redirect=target)
        assert refusal(url, data=data).message == (
            f"{url} redirects from https to http, which is not followed: anyone on the network path "
            "could modify the file"
        )
        assert trusted.asked != []
    assert server.asked == []


def test_a_redirect_on_a_trusted_server_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = partial(HTTPFileSystem, ssl=ssl.create_default_context(cafile=CERTIFICATE))
    monkeypatch.setattr(web, "HTTPFileSystem", trusting)
    with Server(tls=True) as trusted:
        for path, target in (("/a", "/b"), ("/b", trusted.url + "/c")):
            trusted.add(path, redirect=target)
        trusted.add("/c", SMALL)
        assert value(trusted.url + "/a").tolist() == [0, 1, 2, 3]


def test_a_packed_answer_is_refused(server: Server) -> None:
    url = server.add("/a.safetensors", SMALL, headers={"Content-Encoding": "gzip"})
    error = refusal(url)
    assert error.message == f"{url} was sent with Content-Encoding gzip, though the plain file was requested"


def test_nobody_listening_is_reported_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.safetensors"
    error = refusal(url)
    assert error.message.startswith(f"{url} cannot be reached: ")
    assert error.hint == "check the host, the port and the network"


def test_a_host_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    url = parse_url("https://no-such-host.invalid/a?sig=secret")
    key: Any = type("Key", (), {"host": "no-such-host.invalid", "port": 443, "ssl": True})()
    with pytest.raises(Unreachable) as caught, web._refusing(url):
        raise aiohttp.ClientConnectorDNSError(key, OSError(-2, "Name or service not known"))
    assert caught.value.how == "cannot be reached: host no-such-host.invalid not found"
    assert str(caught.value.fix) == "check the URL and the network"


def test_a_server_without_tls_is_reported_and_how_to_ask_it(server: Server) -> None:
    url = server.add("/a.safetensors", b"{}")
    error = refusal(url.replace("http:", "https:"))
    assert error.message == (
        f"{url.replace('http:', 'https:')} cannot be read: the server does not speak TLS, which https requires"
    )
    assert error.hint == f"checkpoint.path={url}   # if you trust the network"


def test_a_server_whose_certificate_nobody_trusts_is_reported() -> None:
    with Server(tls=True) as unknown:
        error = refusal(unknown.add("/a.safetensors", SMALL))
        assert error.message.startswith(f"{unknown.url}/a.safetensors has an untrusted certificate: ")
        assert "CERTIFICATE_VERIFY_FAILED" in error.message
        assert error.hint == (
            "check the name of the host\nexport SSL_CERT_FILE=FILE   # the certificates of an authority of your own"
        )


def test_a_certificate_that_is_not_trusted_is_reported() -> None:
    key: Any = type("Key", (), {"host": "host", "port": 443, "ssl": True})()
    with pytest.raises(CheckpointError) as caught, web._refusing(parse_url("https://host/a")):
        raise aiohttp.ClientConnectorCertificateError(key, ssl.SSLCertVerificationError("self-signed certificate"))
    assert caught.value.message.startswith("https://host/a has an untrusted certificate: ")
    assert "self-signed certificate" in caught.value.message
    assert "SSL_CERT_FILE" in caught.value.hint


def test_a_certificate_error_of_an_older_aiohttp_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 3.11 to 3.13.3 it has no `os_error`, and asking for one raises."""

    def lacking(error: aiohttp.ClientConnectorCertificateError) -> OSError:
        raise AttributeError("'ClientConnectorCertificateError' object has no attribute '_os_error'")

    monkeypatch.setattr(aiohttp.ClientConnectorCertificateError, "os_error", property(lacking), raising=False)
    with Server(tls=True) as unknown:
        error = refusal(unknown.add("/a.safetensors", SMALL))
    assert error.message.startswith(f"{unknown.url}/a.safetensors has an untrusted certificate: ")
    assert "CERTIFICATE_VERIFY_FAILED" in error.message


def test_silence_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_SILENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.safetensors"
        error = refusal(url)
    assert error.message == f"{url} did not answer within 0 seconds"


def test_an_answer_that_is_no_http_is_reported() -> None:
    with pytest.raises(Interrupted) as caught, web._refusing(parse_url("https://host/a")):
        raise aiohttp.ServerDisconnectedError
    assert caught.value.how == "was interrupted (ServerDisconnectedError)"


def test_a_file_is_opened_again_after_it_was_closed(server: Server) -> None:
    checkpoint = open_checkpoint(server.add("/a.safetensors", SMALL), data=False)
    checkpoint.close()
    checkpoint.close()
