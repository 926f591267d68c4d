"""Modules that a load would not reach, or only in one of several processes, are refused before anything is opened."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from loader import ConfigError, load_into, load_model
from tests.jobs import save, snapshot
from tests.libraries import library
from tests.models import Two, filled

HOOK_HINT = "accelerate.hooks.remove_hook_from_module(module, recurse=True)   # load first, dispatch after"
STATE = filled(Two(), 3).state_dict()


def test_a_module_whose_weights_accelerate_brings_in_is_refused() -> None:
    accelerate: Any = library("accelerate")
    module = Two()
    accelerate.cpu_offload(module, execution_device=torch.device("cpu"))
    with pytest.raises(ConfigError) as refusal:
        load_into(module, STATE)
    assert refusal.value.message == (
        "accelerate keeps weights outside the module and fetches them for each forward pass: first, second; "
        "weights loaded into the module would not be used"
    )
    assert refusal.value.hint == HOOK_HINT
    module.to_empty(device="cpu")
    with pytest.raises(ConfigError, match="accelerate keeps weights outside"):
        load_into(module, STATE)
    exec(refusal.value.hint, {"accelerate": accelerate, "module": module})
    load_into(module, STATE)
    assert torch.equal(module(torch.ones(1, 4)), _right()(torch.ones(1, 4)))


def _right() -> nn.Module:
    model = Two()
    model.load_state_dict(STATE)
    return model


OFFLOADING = SimpleNamespace(offload=True, weights_map=None)
HOOKS = {
    "offloads": OFFLOADING,
    "brings weights": SimpleNamespace(offload=False, weights_map={}),
    "one of several": SimpleNamespace(hooks=[SimpleNamespace(offload=False), OFFLOADING]),
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_that_bring_weights_are_known_by_what_they_do(name: str) -> None:
    module: Any = Two()
    module.second._hf_hook = HOOKS[name]
    before = snapshot(module)
    with pytest.raises(ConfigError, match="for each forward pass: second; "):
        load_into(module, STATE)
    with pytest.raises(ConfigError, match="for each forward pass: second; "):
        load_model(module, STATE)
    assert snapshot(module) == before


def test_a_hook_that_moves_inputs_alone_is_no_hindrance() -> None:
    module: Any = Two()
    module.second._hf_hook = SimpleNamespace(offload=False, weights_map=None)
    load_into(module, STATE)
    assert torch.equal(module.second.weight, STATE["second.weight"])


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_a_replicated_module_is_refused_where_processes_could_disagree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = nn.ModuleDict({"net": nn.parallel.DistributedDataParallel(Two())})
    path = save({f"net.module.{key}": value for key, value in STATE.items()}, tmp_path / "net.pt")
    load_into(module, path)
    assert torch.equal(module["net"].module.second.weight, STATE["second.weight"])
    monkeypatch.setattr("loader.apply.live._processes", lambda _: 2)
    with pytest.raises(ConfigError) as refusal:
        load_into(module, path)
    assert refusal.value.message == (
        "net is replicated by DistributedDataParallel, whose processes may not all load: if one of them failed to "
        "load, the replicas would differ"
    )
    assert refusal.value.hint == (
        "loader.load_into(net, …)   # before it is wrapped: every process is then given the weights of the first"
    )


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore:DTensor random operators")
def test_a_module_that_is_split_between_processes_is_refused() -> None:
    tensors: Any = importlib.import_module("torch.distributed.tensor")
    mesh = importlib.import_module("torch.distributed.device_mesh").init_device_mesh("cpu", (1,))
    module = Two()
    module.second.weight = nn.Parameter(tensors.distribute_tensor(torch.zeros(4, 4), mesh, [tensors.Shard(0)]))
    with pytest.raises(ConfigError) as refusal:
        load_into(module, STATE)
    assert refusal.value.message == (
        "1 tensor of the module is split between processes, and a split model cannot be loaded into yet: "
        "second.weight (DTensor)"
    )
    assert refusal.value.hint == "loader.load_into(net, …)   # load first, split after"


def test_shares_of_other_libraries_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = Two()
    module.first.weight.ds_tensor = torch.zeros(1)
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", SimpleNamespace(FullyShardedDataParallel=nn.Linear))
    with pytest.raises(ConfigError) as refusal:
        load_into(module, STATE)
    told = "first (FullyShardedDataParallel), first.weight (DeepSpeed), second (FullyShardedDataParallel)"
    assert refusal.value.message.startswith("3 tensors of the module are split between processes")
    assert refusal.value.message.endswith(told)


class Positions(nn.Module):
    """A layer, and a table of its own that is in no file."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2, device="meta")
        self.register_buffer("table", torch.arange(3.0), persistent=False)


def test_memory_is_not_offered_where_it_would_cost_values_that_no_file_holds() -> None:
    with pytest.raises(ConfigError) as refusal:
        load_into(Positions(), {"layer.weight": torch.ones(2, 2), "layer.bias": torch.ones(2)})
    assert refusal.value.message == "2 tensors of the module have no memory to load into: layer.weight, layer.bias"
    assert refusal.value.hint == "loader.load_model(…)   # builds and loads in one go"
