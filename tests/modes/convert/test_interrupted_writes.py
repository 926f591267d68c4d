"""A file is there as a whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from loader import ConfigError
from tests.jobs import assert_same_state, carry_out, detail, save
from tests.models import Two, filled


def convert(source: Path, out: Path, size: str = "20B") -> None:
    carry_out("Two", source, mode="convert", convert={"path": str(out), "shard_size": size})


class Failing:
    """A function, or a method, of which one call fails."""

    def __init__(self, real: Callable[..., object], after: int, error: BaseException) -> None:
        self.real, self.left, self.error = real, after, error

    def __call__(self, *arguments: object, **named: object) -> object:
        self.left -= 1
        if self.left == -1:
            raise self.error
        return self.real(*arguments, **named)

    def __get__(self, instance: object, owner: type) -> Callable[..., object]:
        return partial(self, instance)


@pytest.mark.parametrize("after", [0, 1, 2, 5, 8])
def test_a_full_disk_is_told_and_leaves_nothing(
    after: int, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "write", Failing(os.write, after, full))
    with pytest.raises(ConfigError) as refused:
        convert(source, out)
    monkeypatch.undo()
    name = [*(f"model-0000{n}-of-00004.safetensors" for n in range(1, 5)), "model.safetensors.index.json"][after // 2]
    assert refused.value.message == (
        f"{out}/{name} cannot be written: No space left on device; nothing was left behind"
    )
    assert refused.value.hint == "convert.path=FILE   # in a writable folder on a disk with enough space"
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("after", [0, 3, 8])
def test_an_interruption_leaves_nothing(after: int, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", Failing(os.write, after, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        convert(source, out)
    assert list(out.iterdir()) == []


def test_a_scheduler_that_ends_the_process_finds_it_tidy(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        convert(source, out)
    assert ended.value.code == 143
    assert list(out.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_somebody_elses_stays(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    monkeypatch.setattr(os, "fsync", lambda descriptor: signal.raise_signal(signal.SIGTERM))
    try:
        convert(source, out, "5GB")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [signal.SIGTERM] * 2
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("after", [0, 2, 4])
def test_an_interruption_between_two_files_leaves_none(
    after: int, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "replace", Failing(Path.replace, after, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        convert(source, out)
    assert list(out.iterdir()) == []


def test_what_stood_there_stays_until_the_new_is_complete(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(os, "fsync", Failing(os.fsync, 3, OSError(errno.EIO, "Input/output error")))
    with pytest.raises(ConfigError, match="cannot be written: Input/output error"):
        convert(source, out)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("error", [OSError(errno.EPERM, "Operation not permitted"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("size", ["20B", "80B"])
def test_what_stood_there_is_back_where_a_new_file_does_not_take_its_place(
    size: str, after: int, error: BaseException, linked: bool, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, out)
    before = kept(out)
    replaced: list[Path] = []

    def replace(draft: Path, path: Path) -> Path:
        """Fails for one of the new files; what is set aside, or put back later, is let pass."""
        if not path.name.startswith("."):
            replaced.append(path)
            if len(replaced) == after + 1:
                raise error
        return real(draft, path)

    real = Path.replace
    monkeypatch.setattr(Path, "replace", replace)
    if not linked:
        monkeypatch.setattr(os, "link", Failing(os.link, 0, OSError(errno.EPERM, "Operation not permitted")))
    files = 5 if size == "20B" else 3
    if after >= files:
        convert(source, out, size)
        assert len(kept(out)) == files
        return
    with pytest.raises((ConfigError, KeyboardInterrupt)) as caught:
        convert(source, out, size)
    assert kept(out) == before
    if isinstance(caught.value, ConfigError):
        assert caught.value.message.startswith(
            f"{replaced[after]} cannot be written: Operation not permitted; nothing was left behind, and the previous"
        )


def test_what_stood_there_is_said_to_be_in_its_place_again(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, out)
    before = kept(out)
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "replace", Failing(Path.replace, 2, denied))
    with pytest.raises(ConfigError) as refused:
        convert(source, out)
    monkeypatch.undo()
    assert refused.value.message == (
        f"{out}/model-00003-of-00004.safetensors cannot be written: Permission denied; nothing was left behind, "
        "and the previous files are restored"
    )
    assert kept(out) == before


def test_what_cannot_be_put_back_is_told_with_the_name_under_which_it_is_kept(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(source, out)
    first = out / "model-00001-of-00004.safetensors"
    before = first.read_bytes()
    real, left = Path.replace, [1]

    def denied(draft: Path, path: Path) -> Path:
        if left:
            left.pop()
            return real(draft, path)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "replace", denied)
    with pytest.raises(ConfigError) as refused:
        convert(source, out)
    monkeypatch.undo()
    told = refused.value.message.split(f"; {first} could not be restored (Permission denied) and is kept as ")
    assert told[0] == f"{out}/model-00002-of-00004.safetensors cannot be written: Permission denied"
    aside, index = told[1].split(", ", 1)
    assert Path(aside).read_bytes() == before
    assert index.startswith(f"{out}/model.safetensors.index.json could not be restored (Permission denied) and is kept")


def test_an_old_file_that_cannot_be_removed_is_told(source: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(source, out)
    monkeypatch.setattr(Path, "unlink", Failing(Path.unlink, 2, PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(ConfigError) as refused:
        convert(source, out, "5GB")
    monkeypatch.undo()
    assert refused.value.message == (
        f"{out}/model-00001-of-00004.safetensors, from an earlier conversion, cannot be removed: Permission denied"
    )
    assert refused.value.hint == f"rm {out}/model-00001-of-00004.safetensors"
    assert_same_state(carry_out("Two", out / "model.safetensors").model, filled(Two()).state_dict())


def test_files_have_the_rights_that_the_user_gives_to_files(source: Path, out: Path) -> None:
    old = os.umask(0o027)
    try:
        convert(source, out, "5GB")
    finally:
        os.umask(old)
    assert (out / "model.safetensors").stat().st_mode & 0o777 == 0o640


class Complex(Two):
    """A model that no safetensors file holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("phase", torch.zeros(1, dtype=torch.complex128))


RECORDED = {"verify": {"input": {"shape": [5, 4]}, "record": True}}


def recorded(path: Path, model: str | dict[str, str]) -> Path:
    carry_out(model, path, verify={"input": {"shape": [2, 4]}, "record": True})
    return path.with_name(f"{path.name}.golden.safetensors")


def test_a_model_that_cannot_be_written_leaves_the_golden_record_of_its_file(tmp_path: Path, out: Path) -> None:
    source = save(filled(Complex()).state_dict(), tmp_path / "complex.pt")
    model = {"_target_": f"{__name__}.Complex"}
    record = recorded(source, model)
    before = record.read_bytes()
    with pytest.raises(ConfigError, match="safetensors cannot hold 1 entry of the model"):
        carry_out(model, source, mode="convert", convert={"path": str(out)}, **RECORDED)
    assert record.read_bytes() == before
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("after", range(3))
def test_a_file_that_does_not_take_its_place_leaves_the_golden_record(
    after: int, source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result, the copy of the record beside it, and the record itself: all of them or none."""
    record = recorded(source, "Two")
    before = kept(source.parent), kept(out)
    denied = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(Path, "replace", Failing(Path.replace, after, denied))
    with pytest.raises(ConfigError) as refused:
        carry_out("Two", source, mode="convert", convert={"path": str(out)}, **RECORDED)
    monkeypatch.undo()
    place = [out / "model.safetensors", out / "model.safetensors.golden.safetensors", record][after]
    assert refused.value.message.startswith(f"{place} cannot be written: Permission denied; nothing was left")
    elsewhere = "convert.path=FILE   # in a writable folder on a disk with enough space"
    assert refused.value.hint == ("verify.record=false" if place == record else elsewhere)
    assert (kept(source.parent), kept(out)) == before


def test_the_golden_record_is_written_with_the_result(source: Path, out: Path) -> None:
    report = carry_out("Two", source, mode="convert", convert={"path": str(out)}, **RECORDED).report
    record = source.with_name("source.pt.golden.safetensors")
    assert detail(report, "golden record") == f"written to {record}"
    assert record.read_bytes() == (out / "model.safetensors.golden.safetensors").read_bytes()
