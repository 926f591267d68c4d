"""A web server in a thread that serves files well, or as badly as a test wants it to."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass
class Served:
    """What is to be had under one path, and how."""

    content: bytes = b""
    etag: str | None = "auto"
    modified: str | None = None
    ranges: bool = True
    head: bool = True
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    """Given one by one before `status`."""
    kind: str = "application/octet-stream"
    breaks: list[int] = field(default_factory=list)
    """One by one: after how many bytes of the body the connection ends."""
    declared: int | None = None
    """What a HEAD says the length is."""
    length: bool = True
    """Whether a GET says how long it is."""
    if_range: bool = True
    """Whether it looks at which version a range is wanted of."""
    sized: bool = True
    """Whether a range says how long the whole file is."""
    redirect: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def tag(self) -> str | None:
        return f'"{hashlib.sha256(self.content).hexdigest()[:12]}"' if self.etag == "auto" else self.etag


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    range: str
    authorization: str


CERTIFICATE = Path(__file__).with_name("localhost.pem")
"""The certificate of the server that speaks TLS; no client trusts it by default."""


class Server:
    """Serves `files`, by their path with the query, and remembers what it was asked for.

    Args:
        tls: Whether it speaks https.
    """

    def __init__(self, *, tls: bool = False) -> None:
        self.files: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self._server = _Web(self)
        self._scheme = "https" if tls else "http"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_port}"

    def add(self, path: str, content: bytes = b"", **how: object) -> str:
        """Serves a file, and returns its URL."""
        self.files[path] = Served(content, **how)  # type: ignore[arg-type]
        return self.url + path

    def methods(self) -> list[str]:
        return [one.method for one in self.asked]

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread.is_alive():
            self.stop()


class _Web(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: Server) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is nothing to write about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Web

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def answer(self, method: str) -> None:
        wanted = self.headers.get("Range", "")
        owner = self.server.owner
        owner.asked.append(Asked(method, self.path, wanted, self.headers.get("Authorization", "")))
        file = owner.files.get(self.path, Served(b"<html>nothing here</html>", status=404, kind="text/html"))
        if file.redirect:
            self.start(302, {"Location": file.redirect, "Content-Length": "0"})
            return
        status = file.statuses.pop(0) if file.statuses else file.status
        self.send(file, 405 if method == "HEAD" and not file.head else status, wanted, method)

    def send(self, file: Served, status: int, wanted: str, method: str) -> None:
        content, headers = file.content, {"Content-Type": file.kind, **file.headers}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        fresh = not file.if_range or self.headers.get("If-Range") in {None, file.tag, file.modified}
        if span and file.ranges and fresh and status == 200 and int(span[1]) < len(content):
            start, end = int(span[1]), min(int(span[2] or len(content)) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content) if file.sized else '*'}"
            content, status = content[start:end], 206
        elif span and file.ranges and fresh and int(span[1]) >= len(file.content):
            content, status, headers["Content-Range"] = b"", 416, f"bytes */{len(file.content)}"
        headers |= {"ETag": file.tag} if file.tag else {}
        headers |= {"Last-Modified": file.modified} if file.modified else {}
        declared = file.declared if method == "HEAD" and file.declared is not None else len(content)
        self.start(status, headers | ({"Content-Length": str(declared)} if file.length else {"Connection": "close"}))
        if method == "GET":
            self.body(content, file)

    def start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def body(self, content: bytes, file: Served) -> None:
        cut = file.breaks.pop(0) if file.breaks else None
        self.wfile.write(content[:cut])
        if cut is not None or not file.length:
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def answering(answer: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """Has a function of the test's own answer the request of every connection; yields a URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # the listening socket is closed in the end, a client hangs up before
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=one, args=(connection,), daemon=True).start()

        def one(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                answer(connection, connection.recv(1 << 16))

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/a.safetensors"
        listening.shutdown(socket.SHUT_RDWR)
