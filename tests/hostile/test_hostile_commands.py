"""Hostile files on the command line: one block on stderr, the exit code, the report, and nothing run."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from tests.command import run_loader
from tests.hostile.case import Case
from tests.hostile.running import MARKS
from tests.hostile.test_hostile_corpus import CORPUS

COMMANDS = [
    ("torchscript: __setstate__", "load", 4),
    ("bomb: smaller deflated index", "load", 3),
    ("index names one step out", "plan", 3),
    ("key of weights: a window title", "load", 4),
    ("torch-zip: GLOBAL and REDUCE", "inspect", 0),
]


def written(case: Case, parent: Path) -> Path:
    (parent / MARKS).mkdir()
    folder = case.folder(parent)
    folder.mkdir()
    return case.write(folder)


@pytest.mark.parametrize(("name", "mode", "code"), COMMANDS)
def test_a_hostile_file_on_the_command_line(name: str, mode: str, code: int, tmp_path: Path) -> None:
    path = written(CORPUS[name], tmp_path)
    model = ["model._target_=torch.nn.Linear", "+model.in_features=3", "+model.out_features=1", "+model.bias=false"]
    done = run_loader(
        f"mode={mode}", f"checkpoint.path={path}", *model, "verify.forward=false", "device=cpu", cwd=tmp_path
    )
    assert done.code == code
    assert done.report["exit_code"] == code
    assert not [*(tmp_path / MARKS).iterdir()]
    assert "Traceback" not in done.err
    assert bool(done.err) == bool(code)
    strange = {c for c in done.out + done.err if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c != "\n"}
    assert not strange
