from __future__ import annotations

import io
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from loader.remote.download import bar
from tests.command import REPOSITORY
from tests.remote.asking import value
from tests.remote.server import Server


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_how_far_a_download_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with bar("[red]a.pt") as advance:
        advance(500_000, 1_000_000)
        advance(1_000_000, 1_000_000)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "[red]a.pt" in plain
    assert "1.0/1.0 MB" in plain
    assert capsys.readouterr().out == ""


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
