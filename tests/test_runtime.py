"""The garbage collector, paused, and signals to end."""

from __future__ import annotations

import gc
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

import loader
from loader.runtime import collector_paused, find_modules_in, importing, restored, safe_path, terminable
from tests.command import REPOSITORY, heeded, run


@collector_paused()
def interrupted() -> None:
    assert not gc.isenabled()
    raise KeyError


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was_found(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError):
            interrupted()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_it_rests_while_a_model_is_built_and_runs_again_after_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    build = torch.nn.Linear.reset_parameters

    def reset_parameters(self: torch.nn.Linear) -> None:
        seen.append(gc.isenabled())
        build(self)

    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", reset_parameters)
    model = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2}
    loader.load_model(model, tmp_path / "weights.pt")
    assert seen == [False]
    assert gc.isenabled()


FRESH = """
import gc, sys
from loader.runtime import importing

collections = []
gc.callbacks.append(lambda phase, _: collections.append(phase))
with importing():
    before = len(collections)
    import torch
    assert len(collections) == before, "torch is collected while it is imported"
assert gc.isenabled()
print(gc.get_freeze_count() > 100_000)
"""


def test_nothing_is_collected_while_torch_is_imported_and_what_it_made_is_left_alone(tmp_path: Path) -> None:
    done = run(sys.executable, "-c", FRESH, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_process_that_has_torch_keeps_its_objects_collected() -> None:
    frozen = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_an_import_that_fails_leaves_the_collector_as_it_was() -> None:
    with pytest.raises(ImportError), importing():
        raise ImportError
    assert gc.isenabled()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_end_lets_everything_be_tidied_up(number: signal.Signals) -> None:
    with heeded(number):
        before = signal.getsignal(number)
        with pytest.raises(SystemExit) as ended, terminable():
            os.kill(os.getpid(), number)
        assert ended.value.code == 128 + number
        assert signal.getsignal(number) == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
