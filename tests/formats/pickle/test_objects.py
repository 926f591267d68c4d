from __future__ import annotations

import argparse
import collections
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.testing._internal.two_tensor import TwoTensor

from loader import load_into
from loader.errors import CheckpointError
from loader.formats.pickle.records import Global, PickledDict, Reduced
from loader.formats.pickle.tree import build_tree
from loader.formats.tree import Container, Leaf, Node, TensorEntry
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same
from tests.formats.hostile import Call, torch_zip
from tests.jobs import carry_out


def children(path: Path, found: Any, **options: Any) -> dict[str, Node]:
    torch.save(found, path, **options)
    with open_checkpoint(path) as checkpoint:
        return checkpoint.root.children


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.LSTM(4, 5, 2))
        self.again = self.body[0]
        self.none: nn.Module | None = None
        self.register_module("empty", None)
        self.register_parameter("missing", None)
        self.register_parameter("scale", nn.Parameter(torch.randn(3)))
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("transient", torch.ones(2), persistent=False)
        self.tied = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight = self.tied.weight


MODULES: dict[str, Callable[[], nn.Module]] = {
    "own": Own,
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "embedding": lambda: nn.ModuleDict({"e": nn.Embedding(5, 3), "l": nn.ModuleList([nn.GRU(2, 3)])}),
    "parameters": lambda: nn.ParameterDict({"a": torch.ones(2), "b": nn.Parameter(torch.zeros(3))}),
    "data parallel": lambda: nn.DataParallel(nn.Linear(2, 3)),
    "average": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 3)),
    "norm": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
}


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("case", MODULES)
def test_a_pickled_module_is_its_state_dict(case: str, options: dict[str, Any], tmp_path: Path) -> None:
    module = MODULES[case]()
    path = tmp_path / "a.pt"
    torch.save({"model": module}, path, **options)
    with open_checkpoint(path) as checkpoint:
        node = checkpoint.root.children["model"]
        assert isinstance(node, Container)
        assert node.kind == "module"
        state = module.state_dict()
        assert list(node.children) == list(state)
        for key, entry in node.tensors().items():
            assert_same(checkpoint.read(entry), state[key])


def test_neither_class_nor_permission_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    module = sys.modules[__name__]
    saved = Own()
    torch.save(saved, path)
    path.write_bytes(path.read_bytes().replace(__name__.encode(), b"x" * len(__name__)))
    before = set(sys.modules)
    with open_checkpoint(path, check="structure") as checkpoint:
        assert checkpoint.root.type == f"{'x' * len(__name__)}.Own"
        assert list(checkpoint.root.children) == list(saved.state_dict())
    assert set(sys.modules) == before
    assert sys.modules[__name__] is module


def test_old_modules_without_the_set_of_transient_buffers_are_read(tmp_path: Path) -> None:
    module = nn.BatchNorm1d(2)
    del module.__dict__["_non_persistent_buffers_set"]
    assert list(children(tmp_path / "a.pt", [module])["0"].children) == [  # type: ignore[union-attr]
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "num_batches_tracked",
    ]


def test_classes_with_their_source_beside_them_are_read(tmp_path: Path) -> None:
    """Until torch 1.5 whole modules named their classes through persistent ids, with the source code."""
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(2, 3), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    named = b"ctorch.nn.modules.linear\nLinear\n"
    start = data.index(named)
    source = b"(X\x06\x00\x00\x00module" + named + b"X\x04\x00\x00\x00a.pyX\x01\x00\x00\x00xtQ"
    path.write_bytes(data[:start] + source + data[start + len(named) :])
    with open_checkpoint(path) as checkpoint:
        assert (checkpoint.root.kind, checkpoint.root.type) == ("module", "torch.nn.modules.linear.Linear")
        assert list(checkpoint.root.children) == ["weight", "bias"]


def module_record(modules: list[object] | None = None, parameters: list[object] | None = None) -> Reduced:
    """A pickled module with these submodules and parameters, as alternating names and values."""
    record = Reduced(Global("m", "Net"), (), by_new=True)
    tables = [PickledDict(flat=parameters), PickledDict(), PickledDict(flat=modules)]
    record.states = [PickledDict(flat=["_parameters", tables[0], "_buffers", tables[1], "_modules", tables[2]])]
    return record


def refusal(record: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        build_tree(record)
    return caught.value.message


def test_a_module_that_contains_itself_is_refused() -> None:
    modules: list[object] = []
    record = module_record(modules)
    modules += ["inner", record]
    assert "it contains itself, or is nested or shared beyond reason" in refusal(record)


def test_a_module_nested_beyond_reason_is_refused() -> None:
    record = module_record()
    for _ in range(5000):
        record = module_record(["inner", record])
    assert "nested or shared beyond reason" in refusal(record)


def test_modules_that_double_at_every_level_are_refused_at_once() -> None:
    record = module_record(parameters=["w", 1])
    for _ in range(60):
        record = module_record(["a", record, "b", record])
    assert "nested or shared beyond reason" in refusal(record)


def test_a_large_module_shared_by_many_is_refused_at_once() -> None:
    shared = module_record(parameters=[item for index in range(20_000) for item in (f"p{index}", index)])
    assert "nested or shared beyond reason" in refusal([module_record(["a", shared]) for _ in range(1000)])


def test_sharing_within_reason_is_read() -> None:
    shared = module_record(parameters=["w", 1])
    root = build_tree(module_record([item for index in range(50) for item in (str(index), shared)]))
    assert len(root.children) == 50


def test_a_module_that_names_an_entry_twice_is_refused() -> None:
    assert "duplicate key 'w'" in refusal(module_record(parameters=["w", 1, "w", 2]))


def test_tables_that_are_none_hold_nothing() -> None:
    record = Reduced(Global("m", "Net"), ())
    record.states = [PickledDict(flat=["_parameters", 1, "_buffers", None, "_modules", [2]])]
    assert build_tree(record).children == {}


class Pair(NamedTuple):
    x: torch.Tensor
    note: str


class Holder:
    def __init__(self) -> None:
        self.shadow = [torch.ones(2)]
        self.decay = 0.9


class Slotted:
    __slots__ = ("weight",)

    def __init__(self) -> None:
        self.weight = torch.ones(3)


class Config(dict[str, Any]):
    pass


def test_objects_with_tensors_are_containers_and_others_leaves(tmp_path: Path) -> None:
    found = children(
        tmp_path / "a.pt",
        {
            "args": argparse.Namespace(lr=0.1, layers=[1, 2]),
            "ema": Holder(),
            "slotted": Slotted(),
            "pair": Pair(torch.ones(1), "x"),
            "config": Config(a=1),
            "counts": collections.Counter("aab"),
            "default": collections.defaultdict(list, w=torch.ones(1)),
            "set": {1, 2, 3},
            "device": torch.device("cpu"),
            "size": torch.Size([1, 2]),
            "dtype": torch.float16,
            "class": Holder,
            "bytes": b"abc",
        },
    )
    shown = {key: (type(node).__name__, node.type) for key, node in found.items() if isinstance(node, Leaf | Container)}
    assert shown == {
        "args": ("Leaf", "argparse.Namespace"),
        "ema": ("Container", f"{__name__}.Holder"),
        "slotted": ("Container", f"{__name__}.Slotted"),
        "pair": ("Container", f"{__name__}.Pair"),
        "config": ("Container", f"{__name__}.Config"),
        "counts": ("Leaf", "collections.Counter"),
        "default": ("Container", "collections.defaultdict"),
        "set": ("Leaf", "set"),
        "device": ("Leaf", "torch.device"),
        "size": ("Leaf", "torch.Size"),
        "dtype": ("Leaf", "global"),
        "class": ("Leaf", "global"),
        "bytes": ("Leaf", "_codecs.encode"),
    }
    texts = {key: node.text for key, node in found.items() if isinstance(node, Leaf)}
    assert texts["args"] == "2 attributes"
    assert texts["device"] == "cpu"
    assert texts["size"] == "[1, 2]"
    assert texts["dtype"] == "torch.float16"
    assert list(found["ema"].children["shadow"].children) == ["0"]  # type: ignore[union-attr]
    assert list(found["slotted"].children) == ["weight"]  # type: ignore[union-attr]


def test_keys_of_any_kind_get_a_name(tmp_path: Path) -> None:
    found = children(tmp_path / "a.pt", {1: 1, None: 3, (1, 2): 4, 0.5: 5, torch.float16: 6, "é": 8})
    assert list(found) == ["1", "None", "<tuple 2>", "0.5", "<global 4>", "é"]


@pytest.mark.parametrize("flat", [["1", "text", 1, "number"], [1, "number", "1", "text"]])
def test_a_number_and_a_text_that_look_alike_are_told_apart(flat: list[object]) -> None:
    root = build_tree(PickledDict(flat=flat))
    assert list(root.children) == ["1", "1 (1)"]
    assert refusal(PickledDict(flat=["1 (2)", 0, *flat])).startswith("duplicate key '1 (2)'")


def test_one_key_twice_is_refused() -> None:
    assert refusal(PickledDict(flat=["w", 1, "w", 2])) == "duplicate key 'w' in a dict"


def test_cycles_and_shared_objects_are_walked_once() -> None:
    record = PickledDict()
    record.flat += ["self", record, "list", [record, record]]
    root = build_tree(record)
    assert root.children["self"] is root
    assert len(list(root.walk())) == 2


def test_deep_nesting_ends_in_a_leaf() -> None:
    record: object = PickledDict(flat=["w", 1])
    for _ in range(100_000):
        record = PickledDict(flat=["inner", record])
    root = build_tree(record)
    containers = list(root.walk())
    assert len(containers) == 101
    deepest = containers[-1][1].children["inner"]
    assert isinstance(deepest, Leaf)
    assert (deepest.type, deepest.text) == ("dict", "nested deeper than 100 levels")


def test_paths_through_shared_objects_do_not_multiply() -> None:
    record: object = PickledDict(flat=["w", 1])
    for _ in range(60):
        record = [record, record]
    assert len(list(build_tree(record).walk())) == 61


def test_long_keys_are_cut() -> None:
    root = build_tree(PickledDict(flat=["x" * 5000, 1, "x" * 6000, 2]))
    assert [len(key) < 300 for key in root.children] == [True, True]


def test_texts_are_short_and_harmless(tmp_path: Path) -> None:
    found = children(
        tmp_path / "a.pt", {"s": "\x1b[2J" + "x" * 10_000, "n": 10**500, "l": list(range(100)), "b": [None] * 3}
    )
    texts = {key: node.text for key, node in found.items() if isinstance(node, Leaf)}
    assert texts["s"].startswith("\\x1b[2Jxxx")
    assert len(texts["s"]) <= 90
    assert texts["n"] == "a number of 1,661 bits"
    assert texts["l"] == "100 values"
    assert texts["b"] == "[None, None, None]"


def test_a_root_that_is_a_single_tensor_has_no_key(tmp_path: Path) -> None:
    assert list(children(tmp_path / "a.pt", torch.ones(2))) == [""]
    assert children(tmp_path / "a.pt", 3) == {"": Leaf("int", "3", 3)}


def test_calls_of_unknown_functions_are_shown_by_name(tmp_path: Path) -> None:
    found = children(tmp_path / "a.pt", {"x": Call(torch.nn.functional.relu, [torch.ones(1)], {"k": 1})})["x"]
    assert isinstance(found, Container)
    assert (found.kind, found.type, list(found.children)) == ("object", "torch.nn.functional.relu", ["0", "1"])


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
