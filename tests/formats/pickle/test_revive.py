from __future__ import annotations

import argparse
import collections
import datetime as dt
import enum
import functools
import os
import pathlib
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from loader.errors import CheckpointError
from loader.formats.pickle.globals import needed_globals
from loader.formats.pickle.records import PickledDict
from loader.formats.pickle.revive import revive
from loader.parts.open import open_checkpoint
from tests.formats.comparing import assert_same
from tests.formats.hostile import Call, pickled, torch_zip


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.lstm = nn.LSTM(4, 3, 2, bidirectional=True)
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.act = torch.nn.functional.gelu
        self.register_buffer("steps", torch.arange(3), persistent=False)
        self.plain = torch.ones(2)
        self.options = {"a": [1, (2, 3)], "when": dt.timedelta(1)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.norm(self.conv(x)).flatten(2).permute(2, 0, 1)
        return self.act(self.second(self.first(self.lstm(seen)[0])))


def saved(path: Path, found: Any, **options: Any) -> Any:
    torch.save(found, path, **options)
    return open_checkpoint(path)


def revived(path: Path, found: Any, *, allow: list[str] | None = None, **options: Any) -> Any:
    with saved(path, found, **options) as checkpoint:
        record = checkpoint.root.record
        return revive(record, needed_globals(record) if allow is None else allow, checkpoint.read)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
@pytest.mark.parametrize("training", [True, False])
def test_a_whole_model_behaves_like_the_one_torch_loads(
    options: dict[str, Any], training: bool, tmp_path: Path
) -> None:
    path = tmp_path / "a.pt"
    model = Net().train(training)
    with saved(path, model, **options) as checkpoint:
        record = checkpoint.root.record
        ours = revive(record, needed_globals(record), checkpoint.read)
    theirs = torch.load(path, weights_only=False)
    assert type(ours) is Net
    assert ours.training == training
    assert ours.second.weight is ours.first.weight
    for (name, one), (other_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other_name
        assert type(one) is nn.Parameter
        assert one.requires_grad == other.requires_grad
        assert_same(one, other)
    for ours_too, theirs_too in zip(ours.buffers(), theirs.buffers(), strict=True):
        assert_same(ours_too, theirs_too)
    assert ours.options == theirs.options
    assert list(vars(ours)) == list(vars(theirs))
    x = torch.randn(2, 1, 5, 5)
    assert torch.equal(ours(x), theirs(x))
    ours(x).sum().backward()


def test_all_needed_names_are_told_at_once(tmp_path: Path) -> None:
    with saved(tmp_path / "a.pt", nn.Sequential(nn.Linear(1, 1), nn.ReLU())) as checkpoint:
        record = checkpoint.root.record
        assert needed_globals(record) == [
            "torch.nn.modules.activation.ReLU",
            "torch.nn.modules.container.Sequential",
            "torch.nn.modules.linear.Linear",
        ]
        with pytest.raises(CheckpointError) as refusal:
            revive(record, ["torch.nn.modules.linear.Linear"], checkpoint.read)
    assert refusal.value.message == (
        "rebuilding the file's objects needs names that are not admitted: "
        "torch.nn.modules.activation.ReLU, torch.nn.modules.container.Sequential"
    )
    assert (
        "'checkpoint.allow_globals=[torch.nn.modules.linear.Linear,torch.nn.modules.activation.ReLU,"
        "torch.nn.modules.container.Sequential]'" in refusal.value.hint
    )
    assert "model._target_=my_pkg.Net" in refusal.value.hint


def test_only_the_selected_part_is_touched(tmp_path: Path) -> None:
    with saved(tmp_path / "a.pt", {"model": nn.Linear(1, 1), "args": argparse.Namespace(a=1)}) as checkpoint:
        part = checkpoint.root.children["model"].record
        assert needed_globals(part) == ["torch.nn.modules.linear.Linear"]
        assert type(revive(part, needed_globals(part), checkpoint.read)) is nn.Linear


class Colour(enum.Enum):
    RED = 1


class Point(NamedTuple):
    x: int
    y: list[int]


class Slots:
    __slots__ = ("a", "b")

    def __init__(self) -> None:
        self.a, self.b = 1, [2]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slots) and (self.a, self.b) == (other.a, other.b)

    __hash__ = None  # type: ignore[assignment]


class Stateful:
    def __init__(self) -> None:
        self.seen: Any = None

    def __getstate__(self) -> Any:
        return ("state", 3)

    def __setstate__(self, state: Any) -> None:
        self.seen = state


class Names(collections.OrderedDict[str, int]):
    pass


class Stack(list[int]):
    pass


VALUES: dict[str, Any] = {
    "plain": [None, True, 1, -1, 2**100, 1.5, "é", b"", b"\xff\0", bytearray(b"ab"), complex(1, 2), slice(1, None, 2)],
    "containers": {"a": [1, (2, {3, 4}, frozenset({5}))], (1, "b"): {}, 2: range(5)},
    "ordered": collections.OrderedDict(b=1, a=2),
    "counter": collections.Counter("aab"),
    "default": collections.defaultdict(list, a=[1]),
    "deque": collections.deque([1, 2], 5),
    "torch": [torch.Size([1, 2]), torch.device("cpu"), torch.float16, torch.strided],
    "types": [int, dict, collections.OrderedDict],
    "namespace": argparse.Namespace(a=1, b=[2]),
    "enum": [Colour.RED],
    "named tuple": Point(1, [2]),
    "slots": Slots(),
    "subclasses": [Names(a=1), Stack([1, 2])],
    "path": pathlib.PurePosixPath("/a/b"),
    "date": dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
    "partial": [functools.partial(int, base=2).args],
    "array": [np.float64(2.5)],
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("case", VALUES)
def test_values_come_back_equal(case: str, protocol: int, tmp_path: Path) -> None:
    value = VALUES[case]
    ours = revived(tmp_path / "a.pt", value, pickle_protocol=protocol)
    assert type(ours) is type(value)
    assert ours == value
    if isinstance(value, dict):
        assert list(ours) == list(value)


def test_set_state_is_used_where_a_class_has_it(tmp_path: Path) -> None:
    assert revived(tmp_path / "a.pt", Stateful()).seen == ("state", 3)


def test_identity_and_cycles_are_kept(tmp_path: Path) -> None:
    shared = [1]
    cycle: dict[str, Any] = {"a": shared, "b": shared}
    cycle["self"] = cycle
    space = argparse.Namespace()
    space.me = space
    cycle["space"] = space
    made = revived(tmp_path / "a.pt", cycle)
    assert made["a"] is made["b"]
    assert made["self"] is made
    assert made["space"].me is made["space"]


def test_deep_structures_need_no_recursion(tmp_path: Path) -> None:
    record: object = 1
    for _ in range(50_000):
        record = PickledDict(flat=["x", [record]])
    made = revive(record, [], lambda entry: torch.empty(0))
    assert type(made["x"]) is list


class Sub(torch.Tensor):
    pass


def test_tensors_come_back_with_class_gradient_and_attributes(tmp_path: Path) -> None:
    parameter: Any = nn.Parameter(torch.ones(2))
    parameter.note = "mine"
    marked = torch.ones(3)
    marked.note = [1]  # type: ignore[attr-defined]
    value: dict[str, Any] = {
        "parameter": parameter,
        "frozen": nn.Parameter(torch.ones(1), requires_grad=False),
        "marked": marked,
        "gradient": torch.ones(2, requires_grad=True),
        "sub": torch.ones(2).as_subclass(Sub),
    }
    made: dict[str, Any] = revived(tmp_path / "a.pt", value)
    assert type(made["parameter"]) is nn.Parameter
    assert vars(made["parameter"])["note"] == "mine"
    assert made["parameter"].requires_grad
    assert not made["frozen"].requires_grad
    assert made["marked"].note == [1]
    assert made["gradient"].requires_grad
    assert type(made["sub"]) is Sub


def test_a_tensor_that_is_the_part_itself_is_read(tmp_path: Path) -> None:
    with saved(tmp_path / "a.pt", {"a": torch.arange(3)}) as checkpoint:
        assert revive(checkpoint.root.children["a"], [], checkpoint.read).tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["shape", "__class__", "add_", "data"])
def test_attributes_that_hide_torchs_own_are_refused(name: str, tmp_path: Path) -> None:
    found = Call(torch._utils._rebuild_parameter_with_state, torch.ones(1), True, collections.OrderedDict(), {name: 1})
    with pytest.raises(CheckpointError, match=f"a tensor of this file hides torch's own attribute '{name}'"):
        revived(tmp_path / "a.pt", found)


def refused(tmp_path: Path, content: bytes, allow: list[str]) -> CheckpointError:
    path = torch_zip(tmp_path / "a.pt", content)
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError) as caught:
        revive(checkpoint.root.record, allow, checkpoint.read)
    return caught.value


def test_a_class_that_is_not_there_is_named_with_the_ways_out(tmp_path: Path) -> None:
    error = refused(tmp_path, b"cno_such_pkg.nets\nNet\n)R.", ["no_such_pkg.nets.Net"])
    assert error.message == "this file needs no_such_pkg.nets.Net, but there is no module no_such_pkg to import"
    assert error.hint == (
        "export PYTHONPATH=/path/to/it   # the folder that holds no_such_pkg\n"
        "model._target_=my_pkg.Net   # the weights load without it into a declared model"
    )


def test_a_class_that_its_module_lacks_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, b"cjson\nNet\n)R.", ["json.Net"])
    assert error.message == "the module json has no 'Net', which this file names"
    assert error.hint.startswith("use the version of json that the file was written with")


def test_a_module_that_breaks_when_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "breaking_module.py").write_text("import no_such_thing\n")
    (tmp_path / "raising_module.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    error = refused(tmp_path, b"cbreaking_module\nNet\n)R.", ["breaking_module.Net"])
    assert "importing breaking_module raised ModuleNotFoundError: No module named 'no_such_thing'" in error.message
    error = refused(tmp_path, b"craising_module\nNet\n)R.", ["raising_module.Net"])
    assert "importing raising_module raised RuntimeError: not today" in error.message


def test_a_class_that_refuses_its_state_is_named(tmp_path: Path) -> None:
    error = refused(tmp_path, b"cdatetime\ndate\n(K\x01tR.", ["datetime.date"])
    assert error.message.startswith("rebuilding datetime.date raised TypeError: ")
    assert "model._target_=my_pkg.Net" in error.hint


def stacked(module: str, name: str) -> bytes:
    """A name as protocol 4 writes it, dots allowed."""
    return b"\x80\x04" + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)) + b"\x93"


BYTES = b"c__builtin__\nbytes\n"
NO_CLASS = "would be looked up in an object that is not a class"
ESCAPES = {
    "module inside a module": (stacked("logging", "os.system") + b"(Vls\ntR.", ["logging.os.system"], NO_CLASS),
    "method of an instance": (stacked("sys", "stdout.write") + b"(Vls\ntR.", ["sys.stdout.write"], NO_CLASS),
    "alias": (b"cposixpath\nos\n.", ["posixpath.os"], "it is a module"),
    "re-export": (b"csubprocess\n_waitpid\n(K\x01K\x01tR.", ["subprocess._waitpid"], "it is really posix.waitpid"),
    "call of a call": (b"cfunctools\npartial\n)R)R.", ["functools.partial"], "made by another object"),
    "other name": (b"cos\nsystem\n(Vls\ntR.", ["os.getcwd"], "not admitted: os.system"),
    "prefix": (b"ctorch.utils.collect_env\nrun\n(Vls\ntR.", ["torch", "torch.*", "torch.utils"], "not admitted"),
    "extension": (b"\x82\x07)R.", ["copyreg.<extension 7>"], "has no '<extension 7>'"),
    "function as a class": (b"cos\ngetcwd\n)\x81.", ["os.getcwd", "posix.getcwd"], "as a class, but it is not"),
    "bytes of a size": (BYTES + b"(J\xff\xff\xff\x7ftR.", [], "rebuilding builtins.bytes raised TypeError"),
    "bytearray of a size": (b"c__builtin__\nbytearray\n(J\xff\xff\xff\x7ftR.", [], "raised ValueError"),
    "rebuilt size": (b"ccopyreg\n_reconstructor\n(" + BYTES * 2 + b"J\xff\xff\xff\x7ftR.", [], "raised TypeError"),
    "list of a number": (b"c__builtin__\nlist\n(K\x01tR.", [], "calls builtins.list, which no pickler does"),
    "counter of bytes": (b"ccollections\nCounter\n(C\x03abctR.", [], "raised TypeError: a dict was expected"),
    "chain of encodings": (b"c_codecs\nencode\n(Vaaa\nVutf-32\ntR.", [], "pickle writes bytes as latin1 text"),
    "key that is a list": (b"}(]K\x01u.", [], "has a key that is a list"),
    "set of lists": (b"c__builtin__\nset\n(](]etR.", [], "has a key that is a list"),
}  # fmt: skip


@pytest.mark.parametrize("case", ESCAPES)
def test_ways_around_the_admitted_names_are_closed(case: str, tmp_path: Path) -> None:
    content, allow, reason = ESCAPES[case]
    path = torch_zip(tmp_path / "a.pt", content)
    with pytest.raises(CheckpointError) as caught:
        revived_from(path, allow)
    assert reason in str(caught.value)


def revived_from(path: Path, allow: list[str]) -> Any:
    with open_checkpoint(path) as checkpoint:
        return revive(checkpoint.root.record, allow, checkpoint.read)


def test_a_re_export_works_once_both_names_are_admitted(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.pt", b"cposixpath\ngenericpath\n.")
    with pytest.raises(CheckpointError, match="it is a module"):
        revived_from(path, ["posixpath.genericpath"])
    path = torch_zip(tmp_path / "b.pt", b"cposixpath\ncommonprefix\n.")
    with pytest.raises(CheckpointError, match=r"it is really genericpath\.commonprefix"):
        revived_from(path, ["posixpath.commonprefix"])
    assert revived_from(path, ["posixpath.commonprefix", "genericpath.commonprefix"]) is os.path.commonprefix


def test_keys_that_take_forever_to_hash_are_refused(tmp_path: Path) -> None:
    deep: Any = ()
    for _ in range(60):
        deep = (deep, deep)
    dict_of_it = b"}" + pickled(deep)[2:-1] + b"K\x01s."
    set_of_it = b"c__builtin__\nset\n(]" + pickled(deep)[2:-1] + b"atR."
    for content in (dict_of_it, set_of_it):
        with pytest.raises(CheckpointError, match="a key of more than a thousand parts"):
            revived_from(torch_zip(tmp_path / "a.pt", content), [])


def test_nothing_is_imported_before_it_is_admitted(tmp_path: Path) -> None:
    path = torch_zip(tmp_path / "a.pt", b"(cantigravity\nfly\n)Rcthis\ns\nt.")
    before = set(sys.modules)
    with pytest.raises(CheckpointError, match=r"not admitted: antigravity\.fly, this\.s"):
        revived_from(path, ["antigravity.other"])
    assert set(sys.modules) == before
