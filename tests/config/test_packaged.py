"""A config in a package is read without importing the package."""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

import pytest
from hydra._internal.sources_registry import SourcesRegistry

from loader.config.compose import compose
from loader.config.packaged import unimported
from tests.command import run_loader


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with a config, which does not survive its import."""
    conf = tmp_path / "zz_package" / "conf"
    (conf / "experiment").mkdir(parents=True)
    for home in (conf.parent, conf):
        (home / "__init__.py").write_text("import pathlib; pathlib.Path('marker').touch()\n")
    (conf / "experiment" / "theirs.yaml").write_text("# @package _global_\nseed: 7\n")
    return tmp_path


def test_a_searchpath_imports_nothing(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    assert compose(["hydra.searchpath=[pkg://zz_package.conf]", "experiment=theirs"])["seed"] == 7
    assert not {"zz_package", "zz_package.conf"} & sys.modules.keys()


def test_a_config_of_anothers_that_names_a_searchpath_runs_nothing(package: Path) -> None:
    (package / "others").mkdir()
    (package / "others" / "sp.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {searchpath: ['pkg://zz_package.conf']}\n"
    )
    typed = ("--config-dir", "others", "--config-name", "sp", "trusted_targets=[loader.*]", "mode=plan")
    done = run_loader(*typed, "experiment=theirs", cwd=package)
    assert (done.code, done.err) == (0, "")
    assert "seed: 7" in (package / "run" / ".hydra" / "config.yaml").read_text()
    assert not (package / "marker").exists()


def test_a_package_that_is_not_there_is_told_by_hydra() -> None:
    with pytest.warns(UserWarning, match=r"path=zz_nowhere\.conf is not available"):
        compose(["hydra.searchpath=[pkg://zz_nowhere.conf]"])


def test_hydra_is_left_as_it_was() -> None:
    names = SourcesRegistry.instance().resolve("pkg").load_config.__globals__
    with unimported():
        assert names["resources"] is not resources
    assert names["resources"] is resources
