"""``https://`` and ``http://``, through fsspec's session.

Guarantees: redirects are followed to http and https only, and never from https to http, which is checked before the
next host is asked; a compressed answer is refused, since its size means nothing; no wait for an answer or for its next
bytes is longer than `_SILENCE`; a web page in the place of a file is reported with the server's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp
import yarl
from fsspec.asyn import sync
from fsspec.exceptions import FSTimeoutError
from fsspec.implementations.http import HTTPFileSystem

from ..errors import CheckpointError
from ..text.lines import Fix, line
from ..text.wording import safe_text
from .transport import SILENCE, Interrupted, OutOfRange, Unreachable, Version
from .urls import Url, not_allowed, not_found

_CONNECTING = 15.0
_SILENCE = SILENCE
"""Seconds to wait for an answer, and for its next bytes."""
_TRICKLE = 16 << 10
"""Fewer bytes in that time count as silence."""
_BUFFER = 256 << 10
_MOST_REDIRECTS = 5
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes of temporary failures."""
_NO_HEAD = frozenset({400, 403, 405, 501})
"""Status codes of servers that do not support HEAD; a signed URL is often for GET only."""
_NUMBER = r"[0-9]{1,19}"
"""An offset or a size; longer numbers are not sizes of files, and Python may refuse to parse them."""
_RANGE = re.compile(rf"bytes ({_NUMBER})-{_NUMBER}/({_NUMBER}|\*)")
_AGAIN = Fix(note="try again later, or look at the URL in a browser")


class WebAnswer:
    """The answer to a GET; its creator closes the response."""

    def __init__(self, url: Url, response: aiohttp.ClientResponse, loop: asyncio.AbstractEventLoop) -> None:
        self._url, self._response, self._loop = url, response, loop
        found = _range(url, response) if response.status == 206 else None
        self.start = int(found[1]) if found else 0
        self.partial = found is not None
        size = found[2] if found else response.headers.get("Content-Length", "")
        self.version = Version(int(size) if re.fullmatch(_NUMBER, size) else None, _tag(response))
        self.said = f"HTTP {response.status}, {safe_text(response.content_type)}"

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they arrive."""
        with _refusing(self._url):
            since, came = time.monotonic(), 0
            while chunk := sync(self._loop, self._response.content.readany):
                yield chunk
                came += len(chunk)
                if (waited := time.monotonic() - since) >= _SILENCE:
                    if came < _TRICKLE:
                        raise Interrupted(f"sent only {came:,} bytes in {waited:.0f} seconds", _AGAIN)
                    since, came = time.monotonic(), 0


class WebTransport:
    """A session with web servers, with fsspec's own settings for http."""

    def __init__(self) -> None:
        self._files: Any = None
        self._session: aiohttp.ClientSession | None = None

    def look(self, url: Url) -> Version:
        """Sends HEAD, or if the server does not support it, requests the first byte."""
        with self._response("HEAD", url, {}) as response:
            refused = response.status in _NO_HEAD
            if not refused:
                _refuse_status(url, response)
                return WebAnswer(url, response, self._files.loop).version
        with self.open(url, 0, 1) as answer:
            return answer.version

    @contextmanager
    def open(self, url: Url, start: int = 0, end: int | None = None, tag: str = "") -> Iterator[WebAnswer]:
        """Sends GET, with a range unless all bytes are requested."""
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        if start and tag:
            headers["If-Range"] = tag
        with self._response("GET", url, headers) as response:
            _refuse_status(url, response, partly=start > 0)
            yield WebAnswer(url, response, self._files.loop)

    def names(self, url: Url) -> None:
        """Returns None: web servers have no folders."""

    def version_copy(self, url: Url, tag: str) -> None:
        """Returns None: no other program has copies."""

    def latest_copy(self, url: Url) -> None:
        """Returns None: no other program has copies."""

    def close(self) -> None:
        """Closes the session; the next request opens a new one."""
        if self._session is not None:
            sync(self._files.loop, self._session.close)
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._files = HTTPFileSystem(skip_instance_cache=True)
            hops = aiohttp.TraceConfig()
            hops.on_request_redirect.append(_look_at_hop)
            # Proxies and ~/.netrc apply, as in other programs.
            self._files.client_kwargs = {"trust_env": True, "trace_configs": [hops], **self._files.client_kwargs}
            self._session = sync(self._files.loop, self._files.set_session)
        return self._session

    @contextmanager
    def _response(self, method: str, url: Url, headers: dict[str, str]) -> Iterator[aiohttp.ClientResponse]:
        with _refusing(url):
            session = self._opened()
            response = sync(self._files.loop, self._request, session, method, url.text, headers)
        try:
            _refuse_detour(url, response)
            _refuse_packed(url, response)
            yield response
        finally:
            response.close()

    async def _request(
        self, session: aiohttp.ClientSession, method: str, text: str, headers: dict[str, str]
    ) -> aiohttp.ClientResponse:
        settings: dict[str, Any] = {
            "timeout": aiohttp.ClientTimeout(total=None, connect=_CONNECTING * 2, sock_connect=_CONNECTING,
                                             sock_read=_SILENCE),
            "allow_redirects": True,
            "max_redirects": _MOST_REDIRECTS,
            "read_bufsize": _BUFFER,
            **self._files.kwargs,
        }  # fmt: skip
        settings["headers"] = {**settings.get("headers", {}), "Accept-Encoding": "identity", **headers}
        # One deadline for all before the body: a server may send "100 Continue" for ever.
        return await asyncio.wait_for(session.request(method, self._files.encode_url(text), **settings), _SILENCE)


def _range(url: Url, response: aiohttp.ClientResponse) -> re.Match[str]:
    """Parses the range of a partial answer, and the size of the file."""
    header = response.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(header)
    if found is None:
        raise CheckpointError(
            f"the server sent a part of {url.shown} with an invalid Content-Range: '{safe_text(header, 60)}' "
            "(expected 'bytes FIRST-LAST/SIZE')",
            Fix("checkpoint.path=FILE", "after downloading it by other means"),
        )
    return found


def _tag(response: aiohttp.ClientResponse) -> str:
    """The strong ETag, else the time of the last change: a weak ETag does not promise the same bytes."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


@contextmanager
def _refusing(url: Url) -> Iterator[None]:
    """Raises aiohttp's errors as refusals that a user can act on, without their texts, which contain the full URL."""
    try:
        yield
    except (aiohttp.RedirectClientError, aiohttp.TooManyRedirects) as error:
        raise _no_way(url, error) from None
    except _LeavesTls:
        raise _detour(url) from None
    except aiohttp.InvalidURL:
        raise CheckpointError(f"{url.shown} is not a valid URL", Fix("checkpoint.path=https://HOST/FILE")) from None
    except aiohttp.ClientConnectorDNSError:
        host = safe_text(url.host)
        raise Unreachable(
            f"cannot be reached: host {host} not found", Fix(note="check the URL and the network")
        ) from None
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
        # A certificate error has no os_error before aiohttp 3.13.4: asking for it raises AttributeError.
        certificate = isinstance(error, aiohttp.ClientConnectorCertificateError)
        reason = error.certificate_error if certificate else error.os_error
        if "WRONG_VERSION_NUMBER" in str(reason):
            plain = re.sub(r"^https", "http", url.shown, flags=re.IGNORECASE)
            raise CheckpointError(
                f"{url.shown} cannot be read: the server does not speak TLS, which https requires",
                line("checkpoint.path", plain, note="if you trust the network"),
            ) from None
        raise CheckpointError(
            f"{url.shown} has an untrusted certificate: {safe_text(reason, 160)}",
            Fix(note="check the name of the host"),
            Fix("export SSL_CERT_FILE=FILE", "the certificates of an authority of your own"),
        ) from None
    except aiohttp.ClientConnectorError as error:
        reason = safe_text(error.os_error.strerror or type(error.os_error).__name__, 120)
        raise Unreachable(
            f"cannot be reached: {reason}", Fix(note="check the host, the port and the network")
        ) from None
    except (TimeoutError, FSTimeoutError):
        raise Interrupted(f"did not answer within {_SILENCE:.0f} seconds", _AGAIN) from None
    except (aiohttp.ClientError, ConnectionError) as error:
        raise Interrupted(f"was interrupted ({type(error).__name__})", _AGAIN) from None


def _no_way(url: Url, error: Exception) -> CheckpointError:
    if isinstance(error, aiohttp.TooManyRedirects):
        what = f"more than {_MOST_REDIRECTS} times"
    else:
        what = f"to a {safe_text(str(error).partition(':')[0])}: URL, which is not followed"
    return CheckpointError(f"{url.shown} redirects {what}", Fix("checkpoint.path=URL", "the URL of the file itself"))


class _LeavesTls(Exception):  # noqa: N818  # raised as an error where the typed URL is known
    """A redirect leads from https to http."""


async def _look_at_hop(_session: object, _context: object, hop: aiohttp.TraceRequestRedirectParams) -> None:
    """Stops before the next host is asked: the request alone may contain a signed query."""
    headers = hop.response.headers
    with contextlib.suppress(ValueError):  # an invalid URL is not followed
        target = yarl.URL(headers.get("Location") or headers.get("URI") or "", encoded=True)
        if hop.url.scheme == "https" and target.scheme.lower() == "http":
            hop.response.close()
            raise _LeavesTls


def _refuse_detour(url: Url, response: aiohttp.ClientResponse) -> None:
    steps = [step.url for step in (*response.history, response)]
    if url.scheme == "https" and any(step.scheme != "https" for step in steps):
        raise _detour(url)


def _detour(url: Url) -> CheckpointError:
    return CheckpointError(
        f"{url.shown} redirects from https to http, which is not followed: anyone on the network path "
        "could modify the file",
        Fix("checkpoint.path=http://HOST/FILE", "if intended, with checkpoint.sha256"),
    )


def _refuse_packed(url: Url, response: aiohttp.ClientResponse) -> None:
    packing = response.headers.get("Content-Encoding", "identity").lower()
    if packing not in {"", "identity"}:
        raise CheckpointError(
            f"{url.shown} was sent with Content-Encoding {safe_text(packing)}, though the plain file was requested",
            Fix("checkpoint.path=FILE", "after downloading it by other means"),
        )


def _refuse_status(url: Url, response: aiohttp.ClientResponse, *, partly: bool = False) -> None:
    status = response.status
    if status in {200, 206}:
        return
    said = f"{status} {safe_text(response.reason or '')}".strip()
    if status in {401, 403, 407}:
        raise not_allowed(url, f"the server answered {said}")
    if status in {404, 410}:
        raise not_found(url, f"the server answered {said}")
    if status == 416 and partly:
        raise OutOfRange("is shorter than the part received before", _AGAIN)
    if status in _LATER:
        raise Interrupted(f"is unavailable now: the server answered {said}", _AGAIN)
    raise CheckpointError(
        f"{url.shown} could not be read: the server answered {said}", Fix(note="look at the URL in a browser")
    )
