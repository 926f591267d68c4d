"""Tensors of processes and of classes that wrap others, as torch itself saves them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.testing._internal.two_tensor import TwoTensor

from loader import load_into
from loader.errors import CheckpointError
from loader.formats.tree import Container, TensorEntry
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same
from tests.formats.hostile import Call, torch_zip
from tests.jobs import carry_out

WEIGHT = torch.arange(24.0).reshape(6, 4)
LINEAR = {"_target_": "torch.nn.Linear", "in_features": 4, "out_features": 6, "bias": False}


@contextmanager
def processes(count: int) -> Iterator[Any]:
    """This process as the last of several, of which the others are made up."""
    dist.init_process_group("fake", store=FakeStore(), rank=count - 1, world_size=count)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield dist.device_mesh.init_device_mesh("cpu", (count,))
    finally:
        dist.destroy_process_group()


def placed(mesh: Any, *placements: Any) -> torch.Tensor:
    """The weight as this process has it."""
    from torch.distributed.tensor import DTensor

    local = WEIGHT.clone()
    for placement in placements:
        if placement.is_shard():
            local = local.chunk(mesh.size(), placement.dim)[mesh.get_local_rank()].clone(
                memory_format=torch.contiguous_format
            )
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=WEIGHT.shape, stride=WEIGHT.stride())


def save_distributed(path: Path, count: int, *, legacy: bool = False) -> Path:
    from torch.distributed.tensor import Partial, Replicate, Shard

    with processes(count) as mesh:
        state = {
            "rows": placed(mesh, Shard(0)),
            "columns": nn.Parameter(placed(mesh, Shard(1))),
            "copied": placed(mesh, Replicate()),
            "summed": placed(mesh, Partial()),
        }
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization=not legacy)
    return path


def taken(path: Path, key: str) -> Any:
    rules = {"one": {"keep": key}, "as": {"rename": key, "to": "weight"}}
    return carry_out(LINEAR, path, checkpoint={"key": "state_dict"}, rules=rules)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("key", ["rows", "columns", "copied"])
def test_a_dtensor_that_is_whole_is_a_tensor(key: str, legacy: bool, tmp_path: Path) -> None:
    path = save_distributed(tmp_path / "a.pt", 1, legacy=legacy)
    assert_same(taken(path, key).model.weight.detach(), WEIGHT)


def test_a_copy_that_every_process_has_is_whole_and_a_share_is_refused_by_name(tmp_path: Path) -> None:
    path = save_distributed(tmp_path / "a.pt", 2)
    assert_same(taken(path, "copied").model.weight.detach(), WEIGHT)
    shares = {"rows": "[3, 4]", "columns": "[6, 2]", "summed": "[6, 4]"}
    for key, share in shares.items():
        with pytest.raises(CheckpointError) as refusal:
            taken(path, key)
        assert refusal.value.message == (
            f"{path} under 'state_dict' does not hold all values of 1 tensor: "
            f"weight is a shard {share} of a DTensor [6, 4]"
        )
        assert "full_state_dict=True" in refusal.value.hint
        assert refusal.value.exit_code == 3


@pytest.mark.parametrize("mode", ["load", "plan"])
def test_plan_refuses_what_load_refuses(mode: str, tmp_path: Path) -> None:
    path = save_distributed(tmp_path / "a.pt", 2)
    rules = {"one": {"keep": "rows"}, "as": {"rename": "rows", "to": "weight"}}
    with pytest.raises(CheckpointError, match="weight is a shard"):
        carry_out(LINEAR, path, checkpoint={"key": "state_dict"}, rules=rules, mode=mode)
    model = nn.Linear(4, 6, bias=False)
    before = model.weight.detach().clone()
    with pytest.raises(CheckpointError, match="weight is a shard"):
        load_into(model, {"path": str(path), "key": "state_dict"}, rules=rules)
    assert torch.equal(model.weight, before)


def save_sharded(path: Path, count: int) -> Path:
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec

    with processes(count):
        spec = ChunkShardingSpec(0, [f"rank:{rank}/cpu" for rank in range(count)])
        local = WEIGHT.chunk(count)[-1].contiguous()
        made = sharded_tensor.empty(spec, 6, 4)
        made.local_shards()[0].tensor.copy_(local)
        torch.save({"state_dict": {"rows": made}}, path)
    return path


def test_a_sharded_tensor_is_whole_or_a_share(tmp_path: Path) -> None:
    assert_same(taken(save_sharded(tmp_path / "one.pt", 1), "rows").model.weight.detach(), WEIGHT)
    with pytest.raises(CheckpointError) as refusal:
        taken(save_sharded(tmp_path / "two.pt", 2), "rows")
    assert refusal.value.message.endswith("weight is a shard [3, 4] of a ShardedTensor [6, 4]")


def test_a_tensor_whose_class_computes_its_values_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"state_dict": {"w": nn.Parameter(TwoTensor(WEIGHT, WEIGHT)), "b": torch.ones(1)}}, path)  # type: ignore[no-untyped-call]
    with pytest.raises(CheckpointError) as refusal:
        taken(path, "w")
    kind = f"{TwoTensor.__module__}.TwoTensor"
    assert refusal.value.message == (
        f"{path} under 'state_dict' does not hold all values of 1 tensor: "
        f"weight is a {kind}, whose class computes its values from other tensors"
    )
    assert ".dequantize()" in refusal.value.hint
    with open_checkpoint(path) as checkpoint:
        found = checkpoint.root.children["state_dict"]
        assert isinstance(found, Container)
        entry = found.children["w"]
        assert isinstance(entry, TensorEntry)
        assert (entry.shape, entry.dtype) == ((6, 4), "float32")
        with pytest.raises(CheckpointError, match="whose class computes its values"):
            checkpoint.read(entry)


def wrapper(*made_of: Any, state: Any = None) -> Any:
    """A pickled wrapper, made of anything."""
    rebuild = torch._utils._rebuild_wrapper_subclass
    return Call(torch._tensor._rebuild_from_type_v2, rebuild, TwoTensor, made_of, state)


ODD: dict[str, tuple[Any, ...]] = {
    "too little": (TwoTensor, torch.float32),
    "no dtype": (TwoTensor, "float32", (1,), (1,), 0, None, None, False),
    "no state": (TwoTensor, torch.float32, (1,), (1,), 0, None, None, False),
}


@pytest.mark.parametrize("odd", ODD)
def test_odd_wrappers_are_entries_without_values(odd: str, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.pt", {"w": wrapper(*ODD[odd])})
    with open_checkpoint(path) as checkpoint:
        assert bool(checkpoint.root.tensors()) == (odd == "no state")


@pytest.mark.parametrize("size", [(-1,), (1 << 63,), (1 << 62,), (1 << 40, 1 << 30), ("a",), (1,) * 65, 3])
def test_a_wrapper_of_no_size_is_refused(size: Any, tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.pt", {"w": wrapper(TwoTensor, torch.float32, size, (1,), 0, None, None, False)})
    with pytest.raises(CheckpointError, match="invalid tensor"):
        open_checkpoint(path)
