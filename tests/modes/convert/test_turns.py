"""Two conversions into one place."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from loader import ConfigError, LoaderError
from loader.files import write as lock
from loader.files.write import Drafts
from loader.modes.convert import turns
from loader.modes.convert.destination import destination
from loader.modes.convert.turns import turn
from loader.schema import ConvertConfig
from tests.jobs import assert_same_state, carry_out, save
from tests.models import Two, filled


class Second(threading.Thread):
    """A conversion into the same place that begins while the first one puts its files there."""

    def __init__(self, source: Path, out: Path) -> None:
        super().__init__()
        self.source, self.out = source, out
        self.refusal: LoaderError | None = None
        self.stopped = threading.Event()
        """Set once it waits, or is over."""

    def run(self) -> None:
        try:
            carry_out("Two", self.source, mode="convert", convert={"path": str(self.out), "shard_size": "80B"})
        except LoaderError as refusal:
            self.refusal = refusal
        finally:
            self.stopped.set()


def together(first: Path, second: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Second:
    """Lets a conversion begin in the middle of another one."""
    thread = Second(second, out)
    settle = Drafts.settle
    wait = turns.log.info

    def meanwhile(drafts: Drafts, before: Iterable[Path], after: Iterable[Path]) -> None:
        if thread.ident is None:
            thread.start()
            thread.stopped.wait()
        settle(drafts, before, after)

    def waits(*told: object) -> None:
        wait(*told)
        thread.stopped.set()

    monkeypatch.setattr(Drafts, "settle", meanwhile)
    monkeypatch.setattr(turns.log, "info", waits)
    carry_out("Two", first, mode="convert", convert={"path": str(out), "shard_size": "20B"})
    thread.join()
    return thread


def test_the_second_of_two_conversions_judges_what_the_first_one_wrote(
    source: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = save(filled(Two(), 2).state_dict(), tmp_path / "other.pt")
    with caplog.at_level(logging.INFO, "loader"):
        second = together(source, other, out, monkeypatch)
    assert f"{out}/model.safetensors: another conversion is writing there; waiting" in caplog.text
    assert second.refusal is not None
    assert f"{out}/model-00001-of-00004.safetensors already exists, and was converted from source.pt" in (
        second.refusal.message
    )
    assert_same_state(carry_out("Two", out).model, filled(Two()).state_dict())
    assert not list(out.glob(".*"))


def test_the_second_of_two_same_conversions_replaces_the_result(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert together(source, source, out, monkeypatch).refusal is None
    assert sorted(path.name for path in out.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert_same_state(carry_out("Two", out).model, filled(Two()).state_dict())


def test_what_a_process_that_died_has_left_is_no_obstacle(source: Path, out: Path) -> None:
    (out / ".model.lock").touch()
    carry_out("Two", source, mode="convert", convert={"path": str(out)})
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]


def test_a_file_that_lost_its_name_while_it_was_waited_for_keeps_nobody_away(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is then taken again, of the file that has the name now."""
    path = out / ".model.lock"
    real, inodes = lock.wait_for_lock, []

    def wait_for_lock(descriptor: int, waiting: Callable[[], None]) -> bool:
        locked = real(descriptor, waiting)
        inodes.append(os.fstat(descriptor).st_ino)
        if len(inodes) == 1:
            path.rename(out / "aside")
        return locked

    monkeypatch.setattr(turns, "wait_for_lock", wait_for_lock)
    with turn(destination(ConvertConfig(path=str(out)))):
        assert path.stat().st_ino == inodes[-1]
    assert len(set(inodes)) == 2
    assert not path.exists()


def test_a_link_in_the_place_of_the_lock_is_not_followed(source: Path, out: Path, tmp_path: Path) -> None:
    (out / ".model.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError) as refused:
        carry_out("Two", source, mode="convert", convert={"path": str(out)})
    assert (
        refused.value.message == f"the lock file {out}/.model.lock cannot be opened: Too many levels of symbolic links"
    )
    assert refused.value.hint == "convert.path=FILE   # in a writable folder"
    assert not (tmp_path / "elsewhere").exists()
