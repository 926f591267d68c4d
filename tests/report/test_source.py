"""The git tree that holds a model's source, and what asking about it never does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from loader.report import source
from loader.report.source import git_of, source_of
from tests.command import REPOSITORY, run_loader
from tests.models import Two

Git = Callable[..., str]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Git]:
    """A tree with the module `nets`, committed, and git in it."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "tree"
    folder.mkdir()

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (folder / "nets.py").write_text("class Net: ...\n")
    (folder / "notes.txt").write_text("a")
    git("add", ".")
    git("commit", "-qm", "first")
    source._described.cache_clear()
    return folder, git


def described(folder: Path) -> source.Git | None:
    source._described.cache_clear()
    return source._described(folder / "nets.py")


def test_the_commit_and_whether_the_folder_is_as_committed(tree: tuple[Path, Git]) -> None:
    folder, git = tree
    commit = git("rev-parse", "HEAD").strip()
    assert described(folder) == {"folder": str(folder), "commit": commit, "clean": True}
    (folder / "new.txt").write_text("untracked")
    assert described(folder) == {"folder": str(folder), "commit": commit, "clean": True}
    (folder / "nets.py").write_text("class Net: pass\n")
    assert described(folder) == {"folder": str(folder), "commit": commit, "clean": False}
    git("add", "nets.py")
    assert described(folder) == {"folder": str(folder), "commit": commit, "clean": False}


def test_only_the_folder_of_the_source_counts(tree: tuple[Path, Git]) -> None:
    folder, git = tree
    (folder / "inner").mkdir()
    git("mv", "nets.py", "inner/nets.py")
    git("commit", "-qm", "second")
    (folder / "notes.txt").write_text("changed")
    found = described(folder / "inner")
    assert found is not None
    assert found["clean"] is True


def test_a_tree_that_does_not_hold_the_source_is_not_its_tree(tree: tuple[Path, Git]) -> None:
    folder, git = tree
    git("rm", "-q", "--cached", "nets.py")
    assert described(folder) is None


def test_a_tree_without_a_commit(tree: tuple[Path, Git], tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=fresh, check=True)
    (fresh / "nets.py").write_text("")
    assert described(fresh) is None
    subprocess.run(["git", "add", "nets.py"], cwd=fresh, check=True)
    assert described(fresh) == {"folder": str(fresh), "commit": None, "clean": False}


def test_no_git_no_answer(tree: tuple[Path, Git], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = tree
    monkeypatch.setenv("PATH", "")
    assert described(folder) is None
    monkeypatch.undo()
    assert described(folder.parent) is None


def test_a_git_that_hangs_is_left(tree: tuple[Path, Git], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = tree
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:/usr/bin:/bin")
    monkeypatch.setattr(source, "_SECONDS", 0.2)
    assert described(folder) is None


def test_nothing_that_the_trees_configuration_names_is_run(tree: tuple[Path, Git], tmp_path: Path) -> None:
    folder, git = tree
    marker = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 $@ >> '{marker}'\ncat\n")
    program.chmod(0o755)
    (folder / ".gitattributes").write_text("*.py filter=evil diff=evil\n*.txt filter=E.v-1\n")
    git("add", ".")
    git("commit", "-qm", "attributes")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("post-index-change", "fsmonitor-watchman", "query-watchman"):
        (hooks / hook).symlink_to(program)
        (folder / ".git" / "hooks" / hook).symlink_to(program)
    for setting in (
        "core.fsmonitor", "filter.evil.clean", "filter.evil.process", "filter.evil.smudge", "filter.E.v-1.clean",
        "diff.evil.textconv", "diff.evil.command", "diff.external", "core.pager", "core.sshCommand", "core.editor",
        "core.askPass", "credential.helper", "alias.status", "alias.config", "core.gitProxy",
    ):  # fmt: skip
        git("config", setting, f"!{program}" if setting.startswith("alias") else str(program))
    git("config", "core.hooksPath", str(hooks))
    git("config", "filter.evil.required", "true")
    for name in ("nets.py", "notes.txt"):
        os.utime(folder / name, (1, 1))  # so that git has to look into them
    marker.unlink(missing_ok=True)
    found = described(folder)
    assert found is not None
    assert (found["clean"], len(str(found["commit"]))) == (True, 40)
    assert not marker.exists(), marker.read_text()
    for name in ("nets.py", "notes.txt"):
        os.utime(folder / name, (1, 1))
    subprocess.run(["git", "status"], cwd=folder, check=False, capture_output=True)
    assert marker.exists()  # the programs do run where nothing keeps git from it


def test_a_filter_that_cannot_be_turned_off_leaves_the_state_open(tree: tuple[Path, Git]) -> None:
    folder, git = tree
    git("config", "filter.a=b.clean", "false")
    found = described(folder)
    assert found is not None
    assert (found["clean"], len(str(found["commit"]))) == (None, 40)


def test_variables_about_another_tree_have_no_effect(
    tree: tuple[Path, Git], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, git = tree
    commit = git("rev-parse", "HEAD").strip()
    other = tmp_path / "other"
    subprocess.run(["git", "init", "-q", str(other)], check=True)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / "index"))
    found = described(folder)
    assert found is not None
    assert found["commit"] == commit


def test_the_source_is_where_the_class_is_defined() -> None:
    assert source_of(f"{Two.__module__}.Two") == REPOSITORY / "tests" / "models.py"
    assert source_of("loader.LoaderError") == REPOSITORY / "loader" / "errors.py"
    assert source_of("torch.nn.Linear") == Path(sys.modules[nn.Linear.__module__].__file__ or "")
    assert source_of("no_such_module.Net") is None
    assert source_of("") is None


def test_installed_code_has_no_tree_of_its_own() -> None:
    assert git_of("torch.nn.Linear") is None
    assert git_of("collections.OrderedDict") is None
    assert git_of(None) is None


def test_a_run_reports_its_environment(tmp_path: Path) -> None:
    found = run_loader(cwd=tmp_path).report["environment"]
    assert found["packages"]["hydra-loader"]
    assert found["devices"]["cpu"]
    assert found["threads"] > 0
    assert found["interop_threads"] > 0
    assert found["cpu_capability"]
    assert set(found["deterministic"]) == {
        "algorithms", "warn_only", "cudnn", "cudnn_benchmark", "float32_matmul_precision",
    }  # fmt: skip
    if (REPOSITORY / ".git").exists() and shutil.which("git"):
        assert len(found["git"]["commit"]) == 40
        assert found["git"]["folder"] == str(REPOSITORY / "loader" / "examples")
    else:
        assert found["git"] is None
