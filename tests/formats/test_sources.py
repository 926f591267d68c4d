"""The files that a job reads are known under every name."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from loader.formats.find import Sources
from loader.parts.open import open_checkpoint
from tests.formats.sharding import write_shards
from tests.hostile.samples import distributed
from tests.jobs import save

STATE = nn.Linear(2, 1).state_dict()


def test_a_file_is_known_by_its_links(tmp_path: Path) -> None:
    path = save(STATE, tmp_path / "a.pt")
    (tmp_path / "hard").hardlink_to(path)
    (tmp_path / "soft").symlink_to(path)
    asked = [path, tmp_path / "hard", tmp_path / "soft", tmp_path / "none", save(STATE, tmp_path / "b.pt")]
    with open_checkpoint(path) as checkpoint:
        assert Sources([checkpoint]).among(asked) == asked[:3]


def test_every_shard_is_known_and_nothing_else_of_the_folder(tmp_path: Path) -> None:
    write_shards(tmp_path, *({key: value} for key, value in STATE.items()))
    read = sorted(tmp_path.iterdir())
    with open_checkpoint(tmp_path) as checkpoint:
        assert len(read) == 3
        assert Sources([checkpoint]).among([*read, save(STATE, tmp_path / "b.pt")]) == read


def test_a_folder_that_is_read_as_a_whole_is_all_that_is_in_it(tmp_path: Path) -> None:
    folder = distributed(tmp_path, STATE)
    with open_checkpoint(folder) as checkpoint:
        read = sorted(folder.iterdir())
        assert read
        assert Sources([checkpoint]).among([*read, tmp_path / "other"]) == read


def test_the_files_of_inputs_are_known_however_deep_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = save(STATE, tmp_path / "x.pt")
    for inputs in ({"path": "~/x.pt"}, [{"path": str(path)}], {"a": {"x": {"path": str(path)}}}):
        assert Sources((), inputs).among([path]) == [path]
    others: list[object] = [None, [], {"path": "https://host/x.pt"}, {"path": "~no-such-user/x.pt"}, {"shape": [1]}]
    for nothing in others:
        assert Sources((), nothing).among([path]) == []
