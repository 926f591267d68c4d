"""Lists of files of which some are not on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from loader import CheckpointError, load, load_into
from loader.report.writing import write_report
from tests.remote.server import Server

LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}


def state(number: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((2, 3), float(number)), "bias": torch.full((2,), number + 0.5)}


def test_a_url_and_a_file_become_one(server: Server, tmp_path: Path) -> None:
    url = server.add("/steps/2.safetensors?token=secret", save(state(2)))
    save_file(state(5), tmp_path / "5.safetensors")
    net = nn.Linear(3, 2)
    report = load_into(net, {"path": [url, str(tmp_path / "5.safetensors"), url], "combine": "mean"})
    torch.testing.assert_close(net.weight.detach(), torch.full((2, 3), 3.0))
    assert report.parts[""].combined is not None
    assert [file["path"] for file in report.parts[""].combined["files"]] == [
        url.replace("secret", "***"), str(tmp_path / "5.safetensors"), url.replace("secret", "***"),
    ]  # fmt: skip
    assert "secret" not in write_report(report, tmp_path).read_text(encoding="utf-8")


def test_a_plan_reads_the_headers_of_a_list_alone(server: Server, cache: Path) -> None:
    urls = [server.add(f"/steps/{number}.safetensors", save(state(number))) for number in range(3)]
    loaded = load({"mode": "plan", "model": LINEAR, "checkpoint": {"path": urls, "combine": "mean"}, "device": "cpu"})
    assert loaded.report.keys.loaded == 2
    assert not cache.exists()


def test_a_url_that_leads_nowhere_keeps_the_other_items_in_the_line(server: Server, tmp_path: Path) -> None:
    save_file(state(5), tmp_path / "5.safetensors")
    absent = f"{server.add('/a', b'').removesuffix('/a')}/absent.safetensors"
    with pytest.raises(CheckpointError, match=r"absent\.safetensors does not exist") as caught:
        load_into(nn.Linear(3, 2), {"path": [str(tmp_path / "5.safetensors"), absent], "combine": "mean"})
    assert caught.value.exit_code == 3
