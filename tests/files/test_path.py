from __future__ import annotations

import sys
from pathlib import Path

import pytest

from loader.errors import CheckpointError
from loader.files import path
from loader.files.path import resolve_path


def refusal(text: str | Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        resolve_path(text)
    return caught.value


def test_relative_paths_start_at_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.chdir(tmp_path)
    assert resolve_path("./x/../a.pt") == tmp_path / "a.pt"


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pt").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("~/a.pt") == tmp_path / "a.pt"


def test_names_with_equal_signs_and_spaces_are_names(tmp_path: Path) -> None:
    path = tmp_path / "epoch=3 step=10.ckpt"
    path.touch()
    assert resolve_path(path) == path


def test_a_file_in_a_package_is_found() -> None:
    assert resolve_path("pkg://loader.formats/tree.py").name == "tree.py"


def test_a_missing_file_is_reported_with_close_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model_best.pt").touch()
    monkeypatch.chdir(tmp_path)
    error = refusal("model_bets.pt")
    assert error.message == (
        f"no such file: {tmp_path}/model_bets.pt (checkpoint.path is model_bets.pt); similar names there: model_best.pt"
    )
    assert error.hint == f"checkpoint.path={tmp_path}/model_best.pt"


def test_a_missing_folder_is_reported(tmp_path: Path) -> None:
    error = refusal(tmp_path / "a" / "b" / "x.pt")
    assert error.message == f"no such file: {tmp_path}/a/b/x.pt; the folder {tmp_path}/a/b does not exist either"


def test_a_missing_example_file_is_reported_with_how_to_make_it(tmp_path: Path) -> None:
    error = refusal(tmp_path / "my files" / "simple_net.pth")
    assert error.hint == f"python -m loader.examples '{tmp_path}/my files'   # writes the example files"


@pytest.mark.parametrize("text", ["", "a\0b"])
def test_what_is_not_a_path_is_refused(text: str) -> None:
    assert "the path of a file was expected" in refusal(text).message


def test_a_copy_is_called_by_its_origin(tmp_path: Path) -> None:
    plain = tmp_path / "a.pt"
    copy = path.CopyPath.of(plain, "https://host/a.pt")
    assert (path.called(plain), path.is_copy(plain)) == (str(plain), False)
    assert (path.called(copy), path.shown_path(copy), path.is_copy(copy)) == (*["https://host/a.pt"] * 2, True)
    assert copy == plain
    beside = copy.with_name("b.pt")
    assert (path.called(beside), path.is_copy(beside)) == (str(tmp_path / "b.pt"), False)


@pytest.mark.parametrize(
    "text", ["pkg://", "pkg://loader", "pkg://loader/../x.pt", "pkg:///x.pt", "pkg://loader//etc/passwd"]
)
def test_package_paths_stay_in_their_package(text: str) -> None:
    assert "pkg://package.name/folder/file was expected" in refusal(text).message


@pytest.mark.parametrize("package", ["no_such_package", "no_such_package.sub", "json.decoder"])
def test_a_package_that_is_not_there_is_named(package: str) -> None:
    error = refusal(f"pkg://{package}/x.pt")
    assert f"there is no package '{package}' on the Python path" in error.message
    assert "PYTHONPATH" in error.hint


@pytest.mark.parametrize("package", ["zz_shipped", "zz_shipped.sub", "zz_shipped.sub.folder"])
def test_naming_a_file_in_a_package_imports_nothing(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "zz_shipped" / "sub" / "folder"
    folder.mkdir(parents=True)
    for home in (folder.parents[1], folder.parent):
        (home / "__init__.py").write_text("raise AssertionError('it ran')\n")
    inside = tmp_path.joinpath(*package.split(".")) / "x.pt"
    inside.touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_path(f"pkg://{package}/x.pt") == inside
    assert "zz_shipped" not in sys.modules


@pytest.mark.parametrize("package", ["loader..formats", ".loader", "loader.", "loader.formats-x"])
def test_what_is_not_a_package_name_is_not_one(package: str) -> None:
    assert "and there is no package" in refusal(f"pkg://{package}/base.py").message


def test_a_file_that_is_not_in_its_package_is_reported() -> None:
    assert "similar names there: tree.py" in refusal("pkg://loader.formats/tere.py").message


def test_names_cannot_act_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "evil\x1b[31m.pt").touch()
    error = refusal(tmp_path / "evil\x1b[31.pt")
    assert "\x1b" not in str(error)
    assert "\\x1b" in error.message


@pytest.mark.parametrize("typed", ["ck/h*.pt", "model_?.pt"])
def test_a_pattern_is_answered_with_the_sweep_that_takes_it(
    typed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        resolve_path(typed)
    assert refusal.value.message.endswith("; several files are a sweep")
    assert refusal.value.hint == f"-m 'checkpoint.path=glob({typed})'"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("https:/host/f.pt", "https://host/f.pt"), ("s3:bucket/f.pt", "s3://bucket/f.pt"), ("hf:/a/b", "hf://a/b")],
)
def test_a_url_without_its_slashes_is_answered_with_them(
    typed: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="; a URL has two slashes") as refusal:
        resolve_path(typed)
    assert refusal.value.hint == f"checkpoint.path={meant}"
