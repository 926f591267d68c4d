from __future__ import annotations

import os
import sys

import pytest

from loader.runtime import find_modules_in, restored, safe_path
from tests.command import REPOSITORY


@pytest.mark.parametrize("own", [None, ".", f"{REPOSITORY}:."])
def test_processes_find_the_package_before_what_lies_around(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    if own is not None:
        monkeypatch.setenv("PYTHONPATH", own)
    before = dict(os.environ)
    with safe_path() as variables:
        assert os.environ["PYTHONSAFEPATH"] == "1"
        assert os.environ["PYTHONPATH"].split(":")[0] == str(REPOSITORY)
        assert restored(os.environ, variables) == before
        with safe_path():
            assert restored({**os.environ, "OWN": "1"}, variables)["OWN"] == "1"
        monkeypatch.setenv("PYTHONPATH", "set since")
        assert restored(os.environ, variables) == {**before, "PYTHONPATH": "set since"}
    assert dict(os.environ) == before


def test_the_users_modules_come_last_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/packages"])
    find_modules_in("/own")
    find_modules_in("/own")
    assert sys.path == ["/packages", "/own"]
