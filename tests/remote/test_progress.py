from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from loader.text.progress import Voice, speaking
from tests.command import REPOSITORY
from tests.remote.asking import value
from tests.remote.server import Server


def test_a_download_shows_how_far_it_is(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("loader.text.progress._SILENCE", 0.0)
    content = save({"a": torch.zeros(1_000_000)})
    with speaking(Voice.LINES):
        value(server.add("/a.safetensors", content))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("downloading")]
    assert lines[-1].startswith("downloading a.safetensors  4.0 MB of 4.0 MB (100%), ")


def test_a_resumed_download_counts_what_is_there(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("loader.text.progress._SILENCE", 0.0)
    content = save({"a": torch.zeros(1_000_000)})
    with speaking(Voice.LINES):
        value(server.add("/a.safetensors", content, breaks=[3_000_000]))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("downloading")]
    assert lines[-1].startswith("downloading a.safetensors  4.0 MB of 4.0 MB (100%), ")


def test_a_log_file_gets_nothing_of_it(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    value(server.add("/a.safetensors", save({"a": torch.ones(2)})))
    assert capsys.readouterr() == ("", "")


def test_nothing_of_a_protocol_is_imported_before_a_url_is_used() -> None:
    code = (
        "import sys, loader.cli.main, loader.files.path, loader.remote\n"
        "print(sorted({'fsspec', 'aiohttp', 'torch', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
