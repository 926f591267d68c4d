"""Bases and adapters of every format that the reader knows, and of every layout of their bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import loader
from tests.formats.dcp_writer import write_distributed
from tests.formats.rewriting import rewritten
from tests.hostile.samples import SAMPLES
from tests.parts.adapters.made import normal, pair, peft

STATE = {"q": normal(4, 6, seed=1), "k": normal(3, 6, seed=2)}
OTHER = {"q": normal(4, 6, seed=3), "k": normal(3, 6, seed=4)}
KEYS = {"deepspeed": "module"}
"""The nested key of the weights, for formats that have one."""
FORMATS = [format for format in SAMPLES if format != "npy"]
"""Those that hold more than one tensor."""


class Net(nn.Module):
    """Two weights whose names any format takes."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Parameter(torch.zeros(4, 6))
        self.k = nn.Parameter(torch.zeros(3, 6))


def written(folder: Path, format: str, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Writes a file of a format; returns its settings."""
    folder.mkdir()
    path = SAMPLES[format](folder, state)
    return {"path": str(path), "key": KEYS.get(format)}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mmap", [True, False])
def test_a_base_and_a_difference_of_any_format(tmp_path: Path, format: str, *, mmap: bool) -> None:
    left, right = written(tmp_path / "base", format, STATE), written(tmp_path / "delta", format, OTHER)
    tensors = pair("q", 4, 6)
    folder = peft(tmp_path / "lora", tensors)
    net = Net()
    loader.load_into(
        net, {**left, "mmap": mmap}, adapters={"delta": {**right, "scale": 0.5}, "lora": {"path": str(folder)}}
    )
    product = tensors["base_model.model.q.lora_B.weight"], tensors["base_model.model.q.lora_A.weight"]
    assert torch.equal(net.k, STATE["k"] + OTHER["k"] * 0.5)
    half = STATE["q"] + OTHER["q"] * 0.5
    assert torch.equal(net.q, torch.addmm(half, *product, alpha=2.0))


@pytest.mark.parametrize("format", FORMATS)
def test_two_files_of_any_format_make_a_task_vector(tmp_path: Path, format: str) -> None:
    tuned, origin = written(tmp_path / "tuned", format, STATE), written(tmp_path / "origin", format, OTHER)
    torch.save(STATE, tmp_path / "base.pt")
    net = Net()
    loader.load_into(net, tmp_path / "base.pt", adapters={"task": {**tuned, "minus": origin["path"], "scale": -1}})
    for key, value in net.state_dict().items():
        assert torch.equal(value, STATE[key] - (STATE[key] - OTHER[key]))


def test_a_base_in_pieces_and_packed_ones(tmp_path: Path) -> None:
    pieces = {"path": str(write_distributed(tmp_path / "pieces", STATE)), "key": "model"}
    torch.save(OTHER, tmp_path / "packed.pt")
    packed = {"path": str(rewritten(tmp_path / "packed.pt", {}, packing=8))}
    for base, delta in ((pieces, packed), (packed, pieces)):
        net = Net()
        loader.load_into(net, base, adapters={"delta": delta})
        for key, value in net.state_dict().items():
            assert torch.equal(value, STATE[key] + OTHER[key])


def test_tensors_that_lie_oddly(tmp_path: Path) -> None:
    torch.save({"q": STATE["q"].t().contiguous().t(), "k": normal(6, 6)[::2]}, tmp_path / "base.pt")
    state = torch.load(tmp_path / "base.pt")
    tensors = pair("q", 4, 6) | pair("k", 3, 6)
    net = Net()
    loader.load_into(net, tmp_path / "base.pt", adapters={"lora": {"path": str(peft(tmp_path / "lora", tensors))}})
    for name in ("q", "k"):
        down, up = (tensors[f"base_model.model.{name}.lora_{role}.weight"] for role in "AB")
        torch.testing.assert_close(net.state_dict()[name], state[name] + 2 * up @ down)


def test_a_damaged_adapter_is_found_by_its_checksum(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "base.pt")
    folder = peft(tmp_path / "lora", {})
    (folder / "adapter_model.safetensors").unlink()
    tensors = pair("q", 4, 6)
    path = folder / "adapter_model.bin"
    torch.save(tensors, path)
    raw = bytearray(path.read_bytes())
    at = raw.index(tensors["base_model.model.q.lora_A.weight"].numpy().tobytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    for mmap in (True, False):
        net = Net()
        before = net.q.clone()
        with pytest.raises(loader.CheckpointError, match="is damaged: checksum mismatch") as caught:
            loader.load_into(
                net, {"path": str(tmp_path / "base.pt"), "mmap": mmap}, adapters={"lora": {"path": str(folder)}}
            )
        assert str(path) in caught.value.message
        assert torch.equal(net.q, before)
