"""Adapters that are not on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import loader
from tests.parts.adapters.made import Net, base, change, pair
from tests.remote.server import Server


def add(server: Server, *, config: bool = True) -> tuple[str, dict[str, torch.Tensor]]:
    tensors = pair("block.to_q")
    url = server.add("/lora/adapter_model.safetensors", save(tensors))
    if config:
        server.add("/lora/adapter_config.json", json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}).encode())
    return url, tensors


def test_the_config_next_to_a_remote_adapter_is_fetched(server: Server, tmp_path: Path) -> None:
    file, state = base(tmp_path)
    url, tensors = add(server)
    net = Net()
    report = loader.load_into(net, file, adapters={"lora": {"path": url}})
    expected = state["block.to_q.weight"] + 2 * change(tensors, "block.to_q")
    torch.testing.assert_close(net.state_dict()["block.to_q.weight"], expected)
    said = report.parts[""].adapters[0]
    assert said["path"] == url
    assert [one["path"] for one in said["files"]] == [url, url.replace("model.safetensors", "config.json")]


def test_a_plan_reads_headers_and_the_config_alone(server: Server, tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    url, _ = add(server)
    loaded = loader.load(
        {
            "mode": "plan",
            "model": {"_target_": "tests.parts.adapters.made.Net"},
            "checkpoint": {"path": str(file)},
            "adapters": {"lora": {"path": url}},
        }
    )
    assert loaded.report.parts[""].adapters[0]["kind"] == "PEFT LORA, r=2, alpha=4"
    assert loaded.report.parts[""].adapters[0]["sha256"] is None


def test_without_its_config_it_is_refused(server: Server, tmp_path: Path) -> None:
    file, _ = base(tmp_path)
    url, _ = add(server, config=False)
    with pytest.raises(loader.CheckpointError) as caught:
        loader.load_into(Net(), file, adapters={"lora": {"path": url}})
    assert caught.value.message.startswith("adapter 'lora': ")
    assert "adapter_config.json" in caught.value.message
