from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import loader
from loader.files.file import CheckpointFile
from loader.text.progress import Voice, speaking


@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_that_takes_long_shows_how_far_it_is(
    mmap: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("loader.text.progress._SILENCE", 0.0)
    model = nn.Linear(1000, 3000)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    with speaking(Voice.LINES):
        loader.load_into(model, {"path": tmp_path / "a.pt", "mmap": mmap})
        CheckpointFile(tmp_path / "a.pt").sha256()
    lines = capsys.readouterr().err.splitlines()
    last = {line.partition("  ")[0]: line for line in lines}
    assert last["reading"].startswith("reading  2 of 2 tensors (100%)")
    if mmap:  # else the checksums are compared while it is read
        assert last["checking a.pt"].startswith("checking a.pt  12.0 MB of 12.0 MB (100%)")
    assert last["sha256 of a.pt"].startswith("sha256 of a.pt  12.0 MB of 12.0 MB (100%)")
