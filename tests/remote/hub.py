"""A Hugging Face Hub in a thread: one repository at one commit, as far as its library asks."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY = "org/model"


@dataclass
class Hub:
    """What is in the repository, and what was asked for."""

    files: dict[str, bytes]
    url: str
    asked: list[str] = field(default_factory=list)

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def downloads(self) -> list[str]:
        """The files whose content was asked for since the last call."""
        found = [line.rpartition("/")[2] for line in self.asked if re.match("GET .*/resolve/", line)]
        self.asked.clear()
        return found


class _Web(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Web

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.server.hub, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {self.path}")
        revision = f"(main|{hub.commit})"
        resolved = re.fullmatch(rf"/{REPOSITORY}/resolve/{revision}/(.+)", path)
        if resolved:
            self.file(resolved[2])
        elif re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/{revision})?", path):
            self.json({"id": REPOSITORY, "sha": hub.commit, "siblings": [], "private": False})
        elif re.fullmatch(rf"/api/models/{REPOSITORY}/tree/{revision}", path):
            self.json([entry(name, content) for name, content in hub.files.items()])
        else:
            self.json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def file(self, name: str) -> None:
        content = self.server.hub.files.get(name)
        if content is None:
            self.json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": self.server.hub.commit}
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if span:
            start, end = int(span[1]), min(int(span[2]) + 1, len(content))
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            content = content[start:end]
        self.send(206 if span else 200, content, headers)

    def json(self, data: object, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send(status, json.dumps(data).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[Hub]:
    """Serves a repository."""
    server = _Web(("127.0.0.1", 0), _Handler)
    server.hub = Hub(dict(files), f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def entry(name: str, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    large = {"oid": digest, "size": len(content), "pointerSize": 130}
    return {"type": "file", "path": name, "size": len(content), "oid": digest[:40], "lfs": large}
