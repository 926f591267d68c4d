from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from loader.remote import transport
from tests.remote.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; nothing is waited for, and no proxy is asked."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOADER_CACHE", str(folder))
    monkeypatch.setattr(transport, "PAUSES", (0.0, 0.0, 0.0, 0.0))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder
