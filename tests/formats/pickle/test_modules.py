from __future__ import annotations

import argparse
import collections
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from loader.errors import CheckpointError
from loader.formats.pickle.records import Global, PickledDict, Reduced
from loader.formats.pickle.tree import build_tree
from loader.formats.tree import Container, Leaf, Node
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same
from tests.formats.hostile import Call


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
