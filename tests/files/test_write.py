from __future__ import annotations

import os
from pathlib import Path

import pytest

from loader.files.write import write_whole


def test_what_stood_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in (b"one", b"two"):
        write_whole(tmp_path / "a", content)
        assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", content)]


def test_an_existing_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "a").symlink_to(victim)
    (tmp_path / f".a.{os.getpid()}").symlink_to(victim)
    write_whole(tmp_path / "a", b"new")
    assert (victim.read_bytes(), (tmp_path / "a").read_bytes()) == (b"mine", b"new")


def test_a_name_as_long_as_the_folder_takes_is_taken(tmp_path: Path) -> None:
    write_whole(tmp_path / ("é" * 127), b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"new"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_draft: Path, _path: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "replace", denied)
    with pytest.raises(PermissionError):
        write_whole(tmp_path / "a", b"new")
    assert list(tmp_path.iterdir()) == []
