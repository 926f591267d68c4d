from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loader.config.globs import expand_glob
from loader.errors import ConfigError
from loader.files.path import natural


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("1/last.ckpt", "2/last.ckpt", "10/last.ckpt", "10/best.pt", "10/deep/epoch=3-step=10.ckpt"):
        file = tmp_path / "runs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "runs" / "10" / "best.golden.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("glob(runs/*/last.ckpt)", ["runs/1/last.ckpt", "runs/2/last.ckpt", "runs/10/last.ckpt"]),
        ("glob( runs/10/*.ckpt , runs/1*/last.ckpt )", ["runs/1/last.ckpt", "runs/10/last.ckpt"]),
        ("glob([runs/1/*,runs/2/*])", ["runs/1/last.ckpt", "runs/2/last.ckpt"]),
        ("glob(runs/*/last.ckpt,exclude=runs/1*)", ["runs/2/last.ckpt"]),
        ("glob(runs/*/last.ckpt,exclude=[runs/1/*,runs/2/*])", ["runs/10/last.ckpt"]),
        ("glob(runs/**/epoch=*.ckpt)", ["runs/10/deep/epoch=3-step=10.ckpt"]),
        ("glob('runs/**/*=3*.ckpt')", ["runs/10/deep/epoch=3-step=10.ckpt"]),
        ("glob(runs/[12]/last.ckpt)", ["runs/1/last.ckpt", "runs/2/last.ckpt"]),
        ("glob(runs/10/best.*)", ["runs/10/best.pt"]),
        ("glob(runs/10/*.golden.safetensors)", ["runs/10/best.golden.safetensors"]),
        ("glob(runs/1/last.ckpt)", ["runs/1/last.ckpt"]),
    ],
)
def test_files_come_in_natural_order(runs: Path, call: str, found: list[str]) -> None:
    assert expand_glob("checkpoint.path", call) == found


def test_home_and_absolute_folders_are_found(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(runs))
    assert expand_glob("checkpoint.path", "glob(~/runs/1/*)") == [f"{runs}/runs/1/last.ckpt"]


def test_no_match_names_the_pattern_and_the_folder(runs: Path) -> None:
    expected = f"no file matches 'runs/*/nope.ckpt' for checkpoint.path (searched {runs}/runs)"
    with pytest.raises(ConfigError, match=re.escape(expected)) as caught:
        expand_glob("checkpoint.path", "glob(runs/*/nope.ckpt)")
    assert caught.value.message == expected
    assert caught.value.hint == "'checkpoint.path=glob(FOLDER/*.pt)'"
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            "glob(nowhere/*.pt)",
            "no file matches 'nowhere/*.pt' for parts.a.path (searched {}/nowhere, which does not exist)",
        ),
        ("glob(*.pt,runs/*.pt)", "no file matches '*.pt', 'runs/*.pt' for parts.a.path (searched {0} and {0}/runs)"),
        ("glob(plain.pt)", "no file matches 'plain.pt' for parts.a.path (searched {})"),
        ("glob()", "no file matches glob() without a pattern for parts.a.path"),
    ],
)
def test_other_ways_to_match_nothing(runs: Path, call: str, message: str) -> None:
    with pytest.raises(ConfigError, match="no file matches") as caught:
        expand_glob("parts.a.path", call)
    assert caught.value.message == message.format(runs)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**6), unique=True))
def test_numbers_in_names_order_as_numbers(numbers: list[int]) -> None:
    names = [f"runs/epoch={number}-last.ckpt" for number in numbers]
    assert sorted(names, key=natural) == [f"runs/epoch={number}-last.ckpt" for number in sorted(numbers)]


@settings(deadline=None)
@given(st.data(), st.lists(st.text(max_size=8)))
def test_any_names_have_one_order(data: st.DataObject, names: list[str]) -> None:
    assert sorted(data.draw(st.permutations(names)), key=natural) == sorted(names, key=natural)
