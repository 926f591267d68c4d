"""cuda:* is every CUDA device that torch sees; this process imports no torch to know it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from loader.config import devices
from loader.config.devices import cuda_devices
from loader.config.rewrite import rewrite
from loader.errors import ConfigError


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    cuda_devices.cache_clear()
    yield
    cuda_devices.cache_clear()


def count(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(devices, "cuda_devices", lambda: number)


def test_each_device_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, 2)
    assert rewrite(["device=cuda:*"], sweep=True) == ["device=cuda:0,cuda:1"]
    assert rewrite(["device=cpu,cuda:*", "seed=1"], sweep=True) == ["device=cpu,cuda:0,cuda:1", "seed=1"]


def test_one_device_suits_a_single_run(monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, 1)
    assert rewrite(["device=cuda:*"]) == ["device=cuda:0"]


def test_several_devices_need_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, 2)
    with pytest.raises(ConfigError) as caught:
        rewrite(["device=cuda:*"])
    assert caught.value.message == "'device=cuda:*' stands for cuda:0, cuda:1, but a single run accepts one"
    assert caught.value.hint == "-m 'device=cuda:*'   # one job for each"


def test_without_a_device_the_job_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    count(monkeypatch, 0)
    assert rewrite(["device=cpu,cuda:*"], sweep=True) == ["device=cpu,cuda:*"]


def test_a_machine_without_a_driver_starts_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_DRIVERS", ("libno_such_driver.so.1",))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process was started"))
    assert cuda_devices() == 0


def test_torch_itself_counts_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_has_driver", lambda: True)
    assert cuda_devices() == torch.cuda.device_count()


@pytest.mark.parametrize(("code", "out", "number"), [(0, "a warning\n3\n", 3), (0, "", 0), (1, "3", 0)])
def test_only_an_answer_counts(monkeypatch: pytest.MonkeyPatch, code: int, out: str, number: int) -> None:
    def answer(command: list[str], **_others: Any) -> SimpleNamespace:
        assert "-P" in command
        return SimpleNamespace(returncode=code, stdout=out)

    monkeypatch.setattr(devices, "_has_driver", lambda: True)
    monkeypatch.setattr(subprocess, "run", answer)
    assert cuda_devices() == number


def test_a_process_that_cannot_be_started_sees_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: Any, **_others: Any) -> None:
        raise OSError

    monkeypatch.setattr(devices, "_has_driver", lambda: True)
    monkeypatch.setattr(subprocess, "run", fail)
    assert cuda_devices() == 0
